"""Word problems of finite groups: the running product of a sequence of elements.

    "A5", "S5", "A4xZ5", "Z60": products ("x") of symmetric (S), alternating (A), cyclic (Z) groups

Elements of S_n and A_n are permutations in lexicographic order, (p q)(i) = p(q(i)); those of Z_n
are the residues; those of a product run over its last factor first. Element 0 is the identity.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float, Int32

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import (
    ExtrapolationTask,
    check_true,
    labelled_at,
    lm_spec,
    measure_sequences,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import IGNORED, SOLVED, Example, Metrics, Split, check_count

LARGEST = 720  # elements: a table of half a million entries


@functools.cache
def multiplication_table(group: str) -> Int32[np.ndarray, "G G"]:
    """Entry [a, b] is the product a b. Raises ValueError for what names no group."""
    tables = [_factor(part, group) for part in group.split("x")]
    size = int(np.prod([len(t) for t in tables]))
    if size > LARGEST:
        raise ValueError(f"group {group} has {size} elements; at most {LARGEST}")
    product = tables[0]
    for table in tables[1:]:
        n = len(table)
        both = product[:, None, :, None] * n + table[None, :, None, :]
        product = both.reshape(len(product) * n, -1)
    product.setflags(write=False)
    return product.astype(np.int32)


def _factor(name: str, group: str) -> np.ndarray:
    match = re.fullmatch(r"([SAZ])([1-9]\d*)", name)
    if not match or int(match[2]) > (LARGEST if match[1] == "Z" else 6):
        raise ValueError(
            f"{group!r} is no group; write factors such as S5, A5 or Z60 with an x between them "
            "(S and A up to 6)"
        )
    kind, n = match[1], int(match[2])
    if kind == "Z":
        return np.add.outer(np.arange(n), np.arange(n)) % n
    elements = [p for p in itertools.permutations(range(n)) if kind == "S" or _even(p)]
    place = {p: i for i, p in enumerate(elements)}
    return np.array([[place[tuple(p[i] for i in q)] for q in elements] for p in elements])


def _even(p: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0


def running_products(group: str, elements: Int32[np.ndarray, "L"]) -> Int32[np.ndarray, "L"]:
    """g_1, g_1 g_2, g_1 g_2 g_3, ...; look-ups in lists, which are faster than in arrays."""
    table = _rows(group)
    products = itertools.accumulate(elements.tolist(), lambda a, b: table[a][b])
    return np.fromiter(products, np.int32, len(elements))


@functools.cache
def _rows(group: str) -> list[list[int]]:
    return multiplication_table(group).tolist()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupWords(ExtrapolationTask):
    """The product of all elements so far, at every position.

    Training rows have min_length to `length` elements, those of validation `length`. Where
    test_length is above `length`, only positions beyond `length` are tested. A first token that
    begins the row has no label (it has a trivial one in the published files).
    """

    name: ClassVar[str] = "group_words"
    description: ClassVar[str] = "running product in a group: A5, S5, A4xZ5, Z60, ..."
    cite: ClassVar[str] = "Merrill, Petty & Sabharwal 2024, arXiv 2404.08819"
    solved_at: ClassVar[float | None] = SOLVED

    group: str = "A5"  # Zn, Sn, An, or a product such as A4xZ5
    length: int = 20  # elements; published 2 to 20
    min_length: int = 2  # of training rows; `length`: no shorter ones

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "min_length", most=self.length)
        check_true(self, isinstance(self.group, str), f"group must be a name; got {self.group!r}")
        multiplication_table(self.group)

    @property
    def _order(self) -> int:
        return len(multiplication_table(self.group))

    @property
    def spec(self) -> ModelSpec:
        """An element at every position, and a token that begins the row."""
        return lm_spec(self._order + 1, self._order, self._longest + 1)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        longest = self._length(split)
        count = longest
        if split == "train" and self.min_length < longest:
            count = self.min_length + draws.below(longest - self.min_length + 1)
        elements = draws.integers(self._order, count)
        inputs = np.zeros(longest + 1, np.int32)
        inputs[0], inputs[1 : count + 1] = self._order, elements
        labels = running_products(self.group, elements)
        targets = labelled_at(slice(1, count + 1), labels, longest + 1)
        if split == "test" and longest > self.length:
            targets[: self.length + 1] = IGNORED
        if split == "train" and self.min_length < longest:
            segment_ids = np.zeros(longest + 1, np.int32)
            segment_ids[: count + 1] = 1
            return {"inputs": inputs, "targets": targets, "segment_ids": segment_ids}
        return {"inputs": inputs, "targets": targets}

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy, accuracy of positions, and of whole rows."""
        return measure_sequences(outputs, batch)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Chance; the running product of uniform elements is uniform."""
        self.effective_seed(split, 0)
        return {"chance": 1 / self._order}

    def _symbol(self, token: int) -> str:
        return "|" if token == self._order else str(token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity(GroupWords):
    """The number of ones so far, modulo 2, at every position: the words of Z2.

    `parity_check` is the published variant with one answer after the row.
    """

    name: ClassVar[str] = "parity"
    description: ClassVar[str] = "parity of the bits so far, at every position"
    cite: ClassVar[str] = "Grazzi et al. 2024, arXiv 2411.12537; Merrill et al. 2024"

    group: str = "Z2"  # the only one
    length: int = 40  # bits of a row
    min_length: int = 3  # least bits of a row to train on

    def __post_init__(self) -> None:
        super().__post_init__()
        check_true(self, self.group == "Z2", f"parity's group is Z2; got {self.group!r}")
