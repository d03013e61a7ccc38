"""Lano: sentences of a context-free grammar whose rules are locally ambiguous."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Int32

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import GeneratedTask, best_constant, check_true, lm_spec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import Example, Split, check_count

# Rules of each level, from the root down: symbols apart by "/", the right sides of one by blanks,
# a digit for each of the three symbols of the next level; those of the last are the words.
GRAMMARS = {
    "cfg3f": (
        "23 213 311 22",
        "313 23 33 / 11 12 213 / 32 21 123 13",
        "33 131 21 22 / 321 23 32 / 231 311 13",
        "23 323 132 / 13 313 32 133 / 122 221 11 332",
        "233 313 133 / 22 31 311 / 131 32 223",
        "221 322 312 32 / 311 12 331 / 121 33 11",
    ),
    "cfg3j": (
        "11 21 323",
        "12 113 211 / 312 32 122 / 11 231 133",
        "221 133 12 / 222 33 323 / 31 122 131",
        "23 13 33 / 22 333 32 / 213 112 12",
        "13 31 22 / 12 321 122 / 233 11 23",
        "113 21 32 / 122 33 22 / 112 211 322",
        "12 22 332 / 31 23 112 / 321 13 32",
    ),
    "cfg3k": (
        "12 33 32",
        "31 322 33 13 / 232 233 22 12 / 32 23 113",
        "231 31 313 332 / 222 13 221 321 / 32 131 211 233",
        "32 23 323 211 / 232 311 33 / 22 31 122",
        "133 223 33 / 12 122 211 22 / 32 11 23",
        "11 22 331 131 / 213 111 121 / 12 221 313 23",
        "33 131 21 / 23 112 31 122 / 133 22 111 323",
    ),
}
Grammar = Literal["cfg3f", "cfg3j", "cfg3k"]
assert tuple(GRAMMARS) == get_args(Grammar)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lano(GeneratedTask):
    """Next words of sentences that are drawn by expanding a root level by level, rules uniform.

    A row is sentence after sentence, 0 before each, cut at `length`; every next token is a label.
    The rules are those published. What tells models apart is the loss, beside that of the grammar
    itself, which `seqzoo data show` prints, and whether what they generate is a sentence.
    """

    name: ClassVar[str] = "lano"
    description: ClassVar[str] = "sentences of a context-free grammar (Physics of LMs 1, 4.1)"
    cite: ClassVar[str] = "Allen-Zhu & Li 2023, arXiv 2305.13673; Physics of Language Models 4.1"

    grammar: Grammar = "cfg3f"  # one of the published ones
    length: int = 512  # tokens of a row

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "length")
        known = self.grammar in GRAMMARS
        rule = f"grammar must be one of {', '.join(GRAMMARS)}"
        check_true(self, known, f"{rule}; got {self.grammar!r}")

    @property
    def spec(self) -> ModelSpec:
        """Three words, and what stands before a sentence."""
        return lm_spec(4, 4, self.length, causal=True)

    @property
    def facts(self) -> tuple[str, ...]:
        """Mean length of a sentence, and the loss of one who knows the grammar."""
        words, nats = expected(self.grammar)
        return (
            f"A sentence of {self.grammar} has {words:.1f} words in the mean; drawing it takes "
            f"{nats:.1f} nats, which is at most {nats / (words + 1):.4f} nats a token.",
        )

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        parts, size = [], 0
        while size <= self.length:
            parts += [[0], sentence(draws, self.grammar)]
            size += 1 + len(parts[-1])
        row = np.concatenate(parts)[: self.length + 1].astype(np.int32)
        return {"inputs": row[:-1].copy(), "targets": row[1:].copy()}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The most frequent token."""
        return {"one token": best_constant(self.source(split, seed), 4)}

    def _symbol(self, token: int) -> str:
        return ".abc"[token]

    _label = _symbol


@functools.cache
def _tables(grammar: str) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Of each level: right sides [symbol, rule, place] from 1, zeros after them; how many rules."""
    levels = []
    for level in GRAMMARS[grammar]:
        rules = [side.split() for side in level.split("/")]
        most = max(map(len, rules))
        table = np.zeros((1 + len(rules), most, 3), np.int32)
        for symbol, sides in enumerate(rules, 1):
            for i, side in enumerate(sides):
                table[symbol, i, : len(side)] = [int(digit) for digit in side]
        levels.append((table, np.array([1, *map(len, rules)])))
    return tuple(levels)


def sentence(draws: Draws, grammar: str) -> Int32[np.ndarray, "length"]:
    """Words 1, 2 and 3 of a random sentence."""
    row = np.ones(1, np.int32)
    for table, count in _tables(grammar):
        chosen = draws.words(len(row)) % count[row].astype(np.uint32)
        row = table[row, chosen].ravel()
        row = row[row > 0]
    return row


@functools.cache
def expected(grammar: str) -> tuple[float, float]:
    """Mean number of words of a sentence, and mean information of its derivation in nats.

    The latter bounds the information of a sentence from above, for a sentence may have several.
    """
    words, nats = np.array([0.0, 1, 1, 1]), np.zeros(4)
    for table, count in reversed(_tables(grammar)):
        real = np.arange(table.shape[1]) < count[:, None]
        mean = [np.where(real, below[table].sum(-1), 0).sum(1) / count for below in (words, nats)]
        words, nats = mean[0], mean[1] + np.log(count)
        words[0] = nats[0] = 0
    return float(words[1]), float(nats[1])
