"""Words of several tokens, and sizes of graphs, as Physics of Language Models 4.1 draws them."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Int32

from seqzoo.tasks.data.streams import Draws

CITE = "Allen-Zhu 2025, Physics of Language Models 4.1 (facebookresearch/PhysicsLM4)"


def number_of_words(symbols: int, least: int, most: int) -> int:
    """How many words of `least` to `most` tokens there are."""
    return sum(symbols**length for length in range(least, most + 1))


def distinct_words(
    draws: Draws, count: int, symbols: int, least: int, most: int
) -> Int32[np.ndarray, "count most"]:
    """Distinct words, zeros after their end.

    Lengths are uniform, then tokens, 1 to `symbols`; a word's last token is that much larger, so
    that its end is seen. A word that was there before is drawn again.
    """
    found = np.zeros((0, most), np.int32)
    while len(found) < count:
        fresh = 1 + draws.integers(symbols, (count - len(found)) * most).reshape(-1, most)
        length = least + draws.integers(most - least + 1, len(fresh))
        place = np.arange(most)
        fresh = np.where(place == length[:, None] - 1, fresh + symbols, fresh)
        found = np.concatenate([found, np.where(place < length[:, None], fresh, 0)])
        code = found @ (2 * symbols + 1) ** np.arange(most, dtype=np.int64)
        found = found[np.sort(np.unique(code, return_index=True)[1])]
    return found[:count].astype(np.int32)


def size(draws: Draws, most: int) -> int:
    """A number of nodes from 3 to `most`, n as likely as 1 / (n + sqrt most)."""
    return 3 + int(np.searchsorted(_shares(most), draws.uniform(1)[0]))


@functools.lru_cache(maxsize=64)
def _shares(most: int) -> np.ndarray:
    share = (1 / (np.arange(3, most + 1) + most**0.5)).cumsum()
    return share[:-1] / share[-1]
