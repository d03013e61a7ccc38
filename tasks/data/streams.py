"""Random words for procedurally generated examples: a pure function of a name.

NumPy's generators take longer to set up than a small example takes to make, and their methods may
change between releases. SHAKE-128 of the name is fast, and the same on every machine for ever.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt32


def words(count: int, *name: str | int) -> UInt32[np.ndarray, "count"]:
    """`count` independent uniform 32-bit words that belong to `name` (strings and integers)."""
    digest = hashlib.shake_128(repr(name).encode()).digest(4 * count)
    return np.frombuffer(digest, "<u4")


class Draws:
    """The random numbers of one example, drawn one after another; a function of its name alone.

    Integers come from 32-bit words by remainder: their bias is below `high` / 2**32.
    """

    def __init__(self, *name: str | int):
        self._name, self._blocks = name, 0
        self._left: list[int] = []  # words for single draws

    def words(self, count: int) -> UInt32[np.ndarray, "count"]:
        """The next `count` words."""
        self._blocks += 1
        return words(count, *self._name, self._blocks)

    def integers(self, high: int, count: int) -> Int32[np.ndarray, "count"]:
        """Integers in [0, high)."""
        return (self.words(count) % np.uint32(high)).astype(np.int32)

    def below(self, high: int) -> int:
        """One integer in [0, high)."""
        if not self._left:
            self._left = self.words(64).tolist()
        return self._left.pop() % high

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.below(2**32) < probability * 2**32

    def uniform(self, count: int) -> Float64[np.ndarray, "count"]:
        """Numbers in (0, 1), on a grid of 2**-32."""
        return (self.words(count) + 0.5) / 2**32

    def normal(self, count: int) -> Float64[np.ndarray, "count"]:
        """Standard normal numbers (Box and Muller)."""
        half = -(-count // 2)
        radius = np.sqrt(-2 * np.log(self.uniform(half)))
        turn = 2 * np.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(turn), radius * np.sin(turn)])[:count]

    def permutation(self, high: int) -> Int64[np.ndarray, "high"]:
        """The integers below `high` in random order."""
        return self.words(high).argsort(kind="stable")

    def subset(self, high: int, count: int) -> Int64[np.ndarray, "count"]:
        """`count` distinct integers below `high`, rising."""
        if count > high:
            raise ValueError(f"no {count} distinct integers below {high}")
        drawn = self.words(high)
        chosen = np.argpartition(drawn, count - 1)[:count] if count else drawn[:0].astype(np.int64)
        return np.sort(chosen)

    def some(self, high: int, count: int) -> Int64[np.ndarray, "count"]:
        """`count` distinct integers below `high`, in random order; few of many are fast."""
        if 4 * count > high:
            return self.permutation(high)[:count] if count <= high else self.subset(high, count)
        found: dict[int, None] = {}
        while len(found) < count:
            found.update(dict.fromkeys(self.integers(high, count - len(found)).tolist()))
        return np.fromiter(found, np.int64, count)

    def bits(self, count: int) -> int:
        """An integer in [0, 2**count)."""
        return int.from_bytes(self.words(-(-count // 32)).tobytes()) >> -count % 32
