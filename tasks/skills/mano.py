"""Mano: the value of an expression modulo 23, computed in the head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import (
    GeneratedTask,
    best_constant,
    by_slice,
    check_true,
    labelled_at,
    lm_spec,
    padded,
    rows_right,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.skills.words import CITE
from seqzoo.tasks.task import (
    SOLVED,
    Example,
    Metrics,
    Split,
    check_count,
    example_weight,
    measure_tokens,
)

OPERATIONS = "+-*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mano(GeneratedTask):
    """An expression in prefix notation and its value; no intermediate result is written.

    A row is: beginning, the number of operations, the expression, the sign of the answer; the value
    is the label. An expression of n operations is one of +, - and * with a part of m operations,
    m uniform on 0 to n - 1, and one of n - 1 - m. Training has 1 to `length` operations, validation
    and testing exactly `length` or `test_lengths`. Published: 10, 13 and 16 operations.

    With `variants` (as published) signs that are no values have two tokens of one meaning each.
    """

    name: ClassVar[str] = "mano"
    description: ClassVar[str] = "the value of an expression modulo 23 (Physics of LMs 4.1)"
    cite: ClassVar[str] = CITE
    solved_at: ClassVar[float | None] = SOLVED

    train_size: int = 1_000_000  # examples to train on
    length: int = 10  # operations
    test_lengths: tuple[int, ...] = ()  # of testing; none: `length`
    modulus: int = 23  # by which values are taken
    variants: bool = True  # two tokens for each sign

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "modulus", least=2, most=10**6)
        for n in (self.length, *self.test_lengths):
            valid = isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 10**5
            check_true(self, valid, f"lengths must be integers, 1 to 100000; got {n!r}")

    @property
    def _tested(self) -> tuple[int, ...]:
        return tuple(self.test_lengths) or (self.length,)

    @property
    def _longest(self) -> int:
        return max(self.length, *self._tested)

    @property
    def spec(self) -> ModelSpec:
        """Values, then two tokens for each sign: beginning, operations, lengths, answers."""
        vocab = self.modulus + 2 * (1 + len(OPERATIONS) + 2 * self._longest)
        return lm_spec(vocab, vocab, 2 * self._longest + 4)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        lengths = self._tested if split == "test" else (self.length,)
        place = index % len(lengths)
        length = 1 + draws.below(self.length) if split == "train" else lengths[place]
        expression, value = self._expression(draws, length)
        begin, end = self._about(draws, length)
        row = [self._sign(draws, 0), begin, *expression, end]
        targets = labelled_at(slice(-1, None), [value], len(row))
        kind = np.int32(place if split == "test" else -1)
        return {**padded(row, targets, 2 * max(lengths) + 4), "slice": kind}

    def _about(self, draws: Draws, length: int) -> tuple[int, int]:
        """The signs that tell the length before an expression and ask for its value after it."""
        first = 1 + len(OPERATIONS) + 2 * (length - 1)
        return self._sign(draws, first), self._sign(draws, first + 1)

    def _sign(self, draws: Draws, number: int) -> int:
        return self.modulus + 2 * number + (draws.below(2) if self.variants else 0)

    def _expression(self, draws: Draws, length: int) -> tuple[list[int], int]:
        """Tokens and value; a stack, since expressions may be deep."""
        tokens, open_ = [], [length]
        while open_:
            size = open_.pop()
            if size == 0:
                tokens.append(draws.below(self.modulus))
                continue
            tokens.append(self._sign(draws, 1 + draws.below(len(OPERATIONS))))
            left = draws.below(size)
            open_ += [size - 1 - left, left]
        values: list[int] = []
        for token in reversed(tokens):
            if token < self.modulus:
                values.append(token)
                continue
            left, right = values.pop(), values.pop()
            sign = OPERATIONS[(token - self.modulus) // 2 - 1]
            value = {"+": left + right, "-": left - right, "*": left * right}[sign]
            values.append(value % self.modulus)
        return tokens, values[0]

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy and accuracy of the value, and accuracy for each length of testing."""
        measured = measure_tokens(outputs, batch)
        met = rows_right(outputs, batch["targets"])[0].astype(jnp.float32)
        names = [str(n) for n in self._tested]
        parts = by_slice("accuracy", met, example_weight(batch), batch["slice"], names)
        return {**measured, **parts}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Chance, and the value that is the most frequent (products are often 0)."""
        best = best_constant(self.source(split, seed), self.spec.outputs)
        return {"chance": 1 / self.modulus, "one value": best}

    def _symbol(self, token: int) -> str:
        if token < self.modulus:
            return str(token)
        number = (token - self.modulus) // 2
        if number <= len(OPERATIONS):
            return f"^{OPERATIONS}"[number]
        length, asks = divmod(number - 1 - len(OPERATIONS), 2)
        return "=" if asks else f"[{length + 1}]"
