"""A text, a question about it, and the answer: what these tasks share.

A row is text, question and answer, at most `length` tokens of it, the answer given (teacher
forcing): a model is trained, not prompted. The answer is " a, b, c." of one string or several.
`accuracy` is the share of a row's strings that are met whole, then a mean over rows, as RULER's
`string_match_all`; `exact` asks for every token of the answer. Both are also there for each length
of testing and, where something stands at a depth, for each depth.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.context.tokens import Codec, codec
from seqzoo.tasks.data.answers import readable, strings_met
from seqzoo.tasks.data.generated import (
    GeneratedTask,
    by_slice,
    check_true,
    fill,
    lm_spec,
    measure_sequences,
    real,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.language.tokenizers import is_file
from seqzoo.tasks.task import IGNORED, SOLVED, Example, Metrics, Split, check_count, example_weight


class Asked(NamedTuple):
    """A text with its question, and the strings of the answer."""

    prompt: bytes
    answers: Sequence[bytes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskingTask(GeneratedTask):
    """One question a row; a subclass writes the text."""

    solved_at: ClassVar[float | None] = SOLVED

    test_size: int = 500  # RULER's, of a kind and a length
    length: int = 1024  # tokens of a row: text, question and answer
    test_lengths: tuple[int, ...] = ()  # of testing; none: `length`
    tokenizer: str = "byte"  # or a tokenizer.json

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.tokenizer == "byte" or is_file(self.tokenizer)
        rule = "tokenizer must be byte or the name of a tokenizer.json that is there"
        check_true(self, known, f"{rule}; got {self.tokenizer!r}")
        for length in (self.length, *self.test_lengths):
            whole = isinstance(length, int) and not isinstance(length, bool)
            rule = f"lengths must be integers, at least {self._least}"
            check_true(self, whole and length >= self._least, f"{rule}; got {length!r}")

    @property
    @abc.abstractmethod
    def _least(self) -> int:
        """The smallest length in which every text has room."""

    @property
    @abc.abstractmethod
    def _strings(self) -> int:
        """How many strings an answer has at most."""

    @abc.abstractmethod
    def _ask(self, draws: Draws, split: Split, length: int, depth: float | None) -> Asked:
        """A text of at most `length` tokens with question and answer; depth from 0 to 1, or any."""

    @property
    def _depths(self) -> tuple[int, ...]:
        """Depths of testing in percent; none: nothing stands at a depth."""
        return ()

    def _tokens(self, length: int) -> int:
        """Tokens of a row of this length."""
        return length

    @property
    def codec(self) -> Codec:
        """What the text is made of."""
        return codec(self.tokenizer)

    @property
    def _tested(self) -> tuple[int, ...]:
        return tuple(self.test_lengths) or (self.length,)

    @property
    def spec(self) -> ModelSpec:
        """Tokens; those of the answer are labelled."""
        size = self.codec.size
        longest = self._tokens(max(self.length, *self._tested)) - 1
        return lm_spec(size, size, longest, causal=True)

    def data_files(self, split: Split) -> Sequence[Path]:
        """The tokenizer's file, if there is one."""
        return () if self.tokenizer == "byte" else (Path(self.tokenizer),)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        tested = split == "test"
        lengths, depths = self._tested if tested else (self.length,), self._depths
        number = index % (len(lengths) * max(1, len(depths)))
        size, place = divmod(number, max(1, len(depths)))
        depth = depths[place] / 100 if depths and split != "train" else None
        asked = self._ask(draws, split, lengths[size], depth)
        row = self._tokens(max(lengths)) - 1
        return {**self._row(asked, row), "slice": np.int32(number if tested else -1)}

    def _row(self, asked: Asked, row: int) -> Example:
        text, spans = with_answer(asked)
        ids, part = self.codec.encode(text, spans)
        # The answer begins before its first string, with a space.
        first = int(np.argmax(part > 0)) - (self.tokenizer == "byte")
        size = len(ids) - 1
        targets = np.full(row, IGNORED, np.int32)
        targets[first - 1 : size] = ids[first:]
        return {
            "inputs": fill(ids[:-1], row, 0),
            "targets": targets,
            "part": fill(part[1:], row, 0),
            "segment_ids": fill(np.ones(size, np.int32), row, 0),
        }

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Strings and whole answers that are met, over the split and for each length and depth."""
        measured = measure_sequences(outputs, batch, name="exact")
        met, there = strings_met(outputs, batch, self._strings)
        share = (met & there).sum(1) / jnp.maximum(there.sum(1), 1)
        weight = example_weight(batch)
        names = [str(n) for n in self._tested]
        if self._depths:
            names = [f"{n}_at_{d}" for n in names for d in self._depths]
        total = (jnp.sum(jnp.where(weight > 0, share, 0) * weight), weight.sum())
        parts = by_slice("accuracy", share, weight, batch["slice"], names)
        return {**measured, "accuracy": total, **parts}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The text, long ones cut in the middle, and the answer."""
        ids, targets = real(example, "inputs"), np.asarray(example["targets"])
        answer = targets[targets != IGNORED]
        text = self.codec.decode(ids[: len(ids) - len(answer) + 1])
        return readable(text, self.codec.decode(answer))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthTask(AskingTask):
    """A task whose answer stands at a depth of the text.

    Training has it anywhere; validation and testing go through an even grid of depths, or have it
    at `depth` alone.
    """

    num_depths: int = 5  # of the grid, from 0 to 100 %
    depth: int = -1  # in percent, of validation and testing; -1: the grid

    def __post_init__(self) -> None:
        check_count(self, "num_depths")
        check_count(self, "depth", least=-1, most=100)
        super().__post_init__()

    @property
    def _depths(self) -> tuple[int, ...]:
        if self.depth >= 0:
            return (self.depth,)
        return tuple(100 * i // max(1, self.num_depths - 1) for i in range(self.num_depths))


def with_answer(asked: Asked) -> tuple[bytes, list[tuple[int, int]]]:
    """Text, question and answer, and where the answer's strings stand."""
    spans, at = [], len(asked.prompt) + 1
    for answer in asked.answers:
        spans.append((at, at + len(answer)))
        at += len(answer) + 2
    return asked.prompt + b" " + b", ".join(asked.answers) + b".", spans
