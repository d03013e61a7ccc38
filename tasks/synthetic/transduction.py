"""Tasks of the Chomsky hierarchy: the frame that the problems share (Delétang et al. 2023).

The model reads a string, then as many empty tokens as the answer has symbols, and gives the whole
answer at those in parallel. Strings of training have uniform lengths up to 40, those of testing
the lengths after that.
"""

from __future__ import annotations

import abc
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
    fill,
    lm_spec,
    measure_sequences,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import IGNORED, SOLVED, Example, Metrics, Split, check_count

END = 2  # the symbol that ends an answer, in the problems that have one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transduction(GeneratedTask):
    """One problem; a subclass says how strings are drawn and what the answer is.

    The published score is the mean accuracy over all test lengths, each with 512 strings; after the
    symbol that ends an answer accuracy does not count, the loss does. Here accuracies are of rows,
    then averaged. Published with it: batches of 128, Adam at 1e-3, gradients clipped at norm 1,
    a million steps; lengths up to 500 (100 in the published example, as here).
    """

    cite: ClassVar[str] = "Delétang et al. 2023, arXiv 2207.02098"
    solved_at: ClassVar[float | None] = SOLVED
    alphabet: ClassVar[int]  # symbols of strings; one more token is empty
    symbols: ClassVar[str]  # one letter for each
    outputs: ClassVar[int]  # symbols of answers
    ends: ClassVar[bool] = False  # answers end with END, then zeros

    train_size: int = 1_000_000  # fresh strings; 128 a step
    validation_size: int = 1_280  # examples of the validation split
    test_size: int = 30_720  # 512 for each of 60 lengths
    length: int = 40  # longest string of training
    test_length: int = 100  # of testing, from length + 1 on; at most `length`: from 1 on

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "length")
        check_count(self, "test_length")

    @abc.abstractmethod
    def problem(self, draws: Draws, length: int) -> tuple[np.ndarray, np.ndarray]:
        """A string of this length (about that, where the problem forbids it) and its answer."""

    @abc.abstractmethod
    def answer_length(self, length: int) -> int:
        """Symbols of the answer to a string of this length."""

    @property
    def spec(self) -> ModelSpec:
        """Symbols and the empty token in, answers out."""
        longest = max(self.length, self.test_length)
        return lm_spec(self.alphabet + 1, self.outputs, longest + self.answer_length(longest))

    def _lengths(self, split: Split) -> range:
        if split != "test":
            return range(1, self.length + 1)
        first = self.length + 1 if self.test_length > self.length else 1
        return range(first, self.test_length + 1)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        lengths = self._lengths(split)
        place = index if split == "test" else draws.below(len(lengths))
        string, answer = self.problem(draws, lengths[place % len(lengths)])
        row = lengths[-1] + self.answer_length(lengths[-1])
        size, used = len(string), len(string) + len(answer)
        inputs = np.zeros(row, np.int32)
        inputs[:size], inputs[size:used] = string, self.alphabet
        targets = np.full(row, IGNORED, np.int32)
        targets[size:used] = answer
        return {
            "inputs": inputs,
            "targets": targets,
            "segment_ids": fill(np.ones(used, np.int32), row, 0),
        }

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy of the whole answer; accuracy up to its end; answers without a mistake."""
        measured = measure_sequences(outputs, batch)
        if not self.ends:
            return measured
        scored = measure_sequences(outputs, {**batch, "targets": _until_end(batch["targets"], jnp)})
        return {**scored, "loss": measured["loss"]}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The one symbol that does best everywhere."""

        def select(targets: np.ndarray) -> np.ndarray:
            return _until_end(targets, np) if self.ends else targets

        return {"one symbol": best_constant(self.source(split, seed), self.outputs, select)}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The string and its answer."""
        inputs, targets = (np.asarray(example[name]) for name in ("inputs", "targets"))
        asked = np.flatnonzero(targets != IGNORED)
        string = "".join(self.symbols[i] for i in inputs[: asked[0]])
        return f"{string} -> {''.join(map(str, targets[asked]))}"


def _until_end(targets: Array, xp) -> Array:
    """Targets without those after the end of the answer."""
    ended = xp.cumsum(targets == END, axis=-1) - (targets == END)
    return xp.where(ended > 0, IGNORED, targets)


def digits(number: int, width: int = 0) -> np.ndarray:
    """Binary digits, the highest first, filled with zeros to `width`."""
    return np.frombuffer(f"{number:0{max(width, 1)}b}".encode(), np.uint8) - 48
