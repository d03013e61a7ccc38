"""Finding one fact in a long text of bytes: a needle at a chosen depth, and the passkey test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.answers import readable
from seqzoo.tasks.data.generated import (
    GeneratedTask,
    by_slice,
    check_true,
    labelled_at,
    lm_spec,
    measure_sequences,
    padded,
    rows_right,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import IGNORED, SOLVED, Example, Metrics, Split, check_count, example_weight

Haystack = Literal["random", "noise"]
NOISE = (
    b"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
BYTES = 256
HAY = np.setdiff1d(np.arange(BYTES), list(b"#=;"))  # what random haystacks are made of


def garbage(start: int, count: int) -> bytes:
    """`count` bytes of the repeated five sentences, from byte `start` of the first."""
    start %= len(NOISE)
    return (NOISE * (2 + count // len(NOISE)))[start : start + count]


class ExactTask(GeneratedTask):
    """A task of bytes whose answer counts when every byte of it is right."""

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The text, long ones cut in the middle, and the answer."""
        inputs, targets = (np.asarray(example[name]) for name in ("inputs", "targets"))
        size = int(np.sum(example["segment_ids"])) if "segment_ids" in example else len(inputs)
        size -= np.count_nonzero(targets != IGNORED) - 1  # the answer's own bytes
        text = bytes(inputs[:size].astype(np.uint8)).decode("latin-1")
        answer = bytes(targets[targets != IGNORED].astype(np.uint8)).decode("latin-1")
        return readable(text, answer)

    def _measure(self, outputs: Array, batch: Mapping[str, Array], names: list[str]) -> Metrics:
        measured = measure_sequences(outputs, batch, name="accuracy")
        right = rows_right(outputs, batch["targets"])[0].astype(jnp.float32)
        parts = by_slice("accuracy", right, example_weight(batch), batch["slice"], names)
        return {**measured, **parts}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needle(ExactTask):
    """Random key and value at some depth of a haystack; the key again at the end: its value?

    A needle is "#key=value;". The haystack is random bytes that lack "#", "=" and ";" (or the five
    sentences of the passkey test). Depths are an even grid from start to end; the test split goes
    through all pairs of length and depth.
    """

    name: ClassVar[str] = "needle"
    description: ClassVar[str] = "a key and its value somewhere in a haystack of bytes"
    cite: ClassVar[str] = "after Hsieh et al. 2024 (RULER), arXiv 2404.06654"
    solved_at: ClassVar[float | None] = SOLVED

    length: int = 512  # bytes of a row without the value asked for
    test_lengths: tuple[int, ...] = ()  # of testing; none: `length`
    num_depths: int = 5  # of the grid, from 0 to 100 %
    key_size: int = 4  # letters
    value_size: int = 4  # digits
    haystack: Haystack = "random"  # or noise: five sentences again and again

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("key_size", "value_size", "num_depths"):
            check_count(self, field)
        least = self._overhead + 1
        valid = all(isinstance(n, int) and n >= least for n in (self.length, *self.test_lengths))
        check_true(
            self, valid, f"lengths must be at least {least}; got {self.length}, {self.test_lengths}"
        )
        known = self.haystack in ("random", "noise")
        check_true(self, known, f"haystack must be random or noise; got {self.haystack!r}")

    @property
    def _overhead(self) -> int:
        return len("#=;#=") + 2 * self.key_size + self.value_size

    @property
    def _test_lengths(self) -> tuple[int, ...]:
        return tuple(self.test_lengths) or (self.length,)

    @property
    def spec(self) -> ModelSpec:
        """Bytes; the value's are labelled."""
        longest = max(self.length, *self._test_lengths)
        return lm_spec(BYTES, BYTES, longest + self.value_size - 1, causal=True)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        lengths = self._test_lengths if split == "test" else (self.length,)
        size, depth = divmod(index % (len(lengths) * self.num_depths), self.num_depths)
        if split == "train":
            depth = draws.below(self.num_depths)
        room = lengths[size] - self._overhead
        key = 97 + draws.integers(26, self.key_size)
        value = 48 + draws.integers(10, self.value_size)
        hay = self._hay(draws, room)
        place = round(room * depth / max(1, self.num_depths - 1))
        needle = [*b"#", *key, *b"=", *value, *b";"]
        question = [*b"#", *key, *b"=", *value[:-1]]
        inputs = np.concatenate([hay[:place], needle, hay[place:], question]).astype(np.int32)
        targets = labelled_at(slice(-self.value_size, None), value, len(inputs))
        row = max(lengths) + self.value_size - 1
        kind = {"slice": np.int32(size * self.num_depths + depth if split == "test" else -1)}
        if len(set(lengths)) > 1:
            return {**padded(inputs, targets, row), **kind}
        return {"inputs": inputs, "targets": targets, **kind}

    def _hay(self, draws: Draws, room: int) -> np.ndarray:
        if self.haystack == "noise":
            return np.frombuffer(garbage(draws.below(len(NOISE)), room), np.uint8)
        return HAY[draws.integers(len(HAY), room)]

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Exact matches, over the whole split and for each length and depth of the test grid."""
        depths = [100 * i // max(1, self.num_depths - 1) for i in range(self.num_depths)]
        names = [f"{n}_at_{d}" for n in self._test_lengths for d in depths]
        return self._measure(outputs, batch, names)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """A random value."""
        self.effective_seed(split, 0)
        return {"chance": 10.0**-self.value_size}


PASSKEY_GRID = (
    0,
    100,
    500,
    1_000,
    5_000,
    8_000,
    10_000,
    12_000,
    14_000,
    18_000,
    20_000,
    25_000,
    38_000,
)
LARGEST_KEY = 50_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passkey(ExactTask):
    """A number told once within n characters of garbage, asked for at the end (landmark attention).

    The key is uniform on 1 to 50 000, and stands behind a prefix of the garbage whose length is
    uniform on 0 to n. The answer is the key and a full stop, so that exactly its digits are right.
    Training rows have 0 to `length` characters of garbage. Where ours differs: the sentence that
    states the task, and that a model is trained to answer (the published test prompts one that was
    trained on text).
    """

    name: ClassVar[str] = "passkey"
    description: ClassVar[str] = "a number hidden in up to 38 000 characters of garbage"
    cite: ClassVar[str] = "Mohtashami & Jaggi 2023, arXiv 2305.16300"
    solved_at: ClassVar[float | None] = SOLVED

    validation_size: int = 500  # examples of the validation split
    test_size: int = 650  # 50 for each length of the published grid
    length: int = 1_000  # characters of garbage, in training at most
    test_lengths: tuple[int, ...] = PASSKEY_GRID  # characters of garbage, in testing

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "length", least=0)
        valid = all(isinstance(n, int) and n >= 0 for n in self.test_lengths) and self.test_lengths
        check_true(self, bool(valid), f"test_lengths must be counts; got {self.test_lengths!r}")

    @property
    def spec(self) -> ModelSpec:
        """Bytes; the answer's are labelled."""
        longest = _prompt_size(max(self.length, *self.test_lengths))
        return lm_spec(BYTES, BYTES, longest, causal=True)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        size = index % len(self.test_lengths)
        count = self.test_lengths[size] if split == "test" else draws.below(self.length + 1)
        key = 1 + draws.below(LARGEST_KEY)
        before = draws.below(count + 1)
        text = _prompt(key, garbage(0, before), garbage(0, count - before))
        answer = b" %d." % key
        longest = max(self.test_lengths) if split == "test" else self.length
        inputs = np.frombuffer(text + answer[:-1], np.uint8)
        targets = labelled_at(slice(-len(answer), None), list(answer), len(inputs))
        kind = {"slice": np.int32(size if split == "test" else -1)}
        return {**padded(inputs, targets, _prompt_size(longest)), **kind}

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Exact matches, over the whole split and for each length of the garbage."""
        return self._measure(outputs, batch, [str(n) for n in self.test_lengths])

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """A random key."""
        self.effective_seed(split, 0)
        return {"chance": 1 / LARGEST_KEY}


def _prompt(key: int, before: bytes, after: bytes) -> bytes:
    task = b"Somewhere in the text below stands a pass key. Remember it: you will be asked for it. "
    fact = b" The pass key is %d. Remember it. %d is the pass key. " % (key, key)
    return task + before + fact + after + b" What is the pass key? The pass key is"


def _prompt_size(count: int) -> int:
    return len(_prompt(LARGEST_KEY, b"", b"")) + count + len(str(LARGEST_KEY)) + 1
