"""What generated tasks share: a source made of draws, sizes, padding, metrics, baselines."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    IGNORED,
    SPLITS,
    Example,
    Metrics,
    Source,
    Split,
    Task,
    check_count,
    example_weight,
    measure_tokens,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedTask(Task):
    """A task whose examples are made when they are read, each from draws of its own.

    Making an example is about as fast as reading it from a disk would be, so nothing is cached.
    """

    train_size: int = 100_000  # examples
    validation_size: int = 1_000  # examples of the validation split
    test_size: int = 1_000  # examples of the test split

    def __post_init__(self) -> None:
        for split in SPLITS:
            check_count(self, f"{split}_size")

    def _source(self, split: Split, seed: int) -> Source:
        return GeneratedSource(self, split, seed)

    @abc.abstractmethod
    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        """Example `index` of a split, random only through `draws`."""

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy and accuracy at the labelled positions."""
        return measure_tokens(outputs, batch)

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The tokens, then the labels in order."""
        symbol = np.vectorize(self._symbol, otypes=[str])
        inputs = real(example, "inputs")
        labels = np.atleast_1d(example["targets"])
        labels = labels[labels != IGNORED]
        answer = " ".join(np.vectorize(self._label, otypes=[str])(labels))
        return f"{' '.join(symbol(inputs))} -> {answer}"

    def _symbol(self, token: int) -> str:
        return str(token)

    def _label(self, label: int) -> str:
        return str(label)


@dataclasses.dataclass(frozen=True)
class GeneratedSource:
    """One split of a generated task; an example is a function of (options, split, seed, index)."""

    task: GeneratedTask
    split: Split
    seed: int
    stream: str = ""  # another name for the draws, where a task has several sources

    def __len__(self) -> int:
        return getattr(self.task, f"{self.split}_size")

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index = int(index)
        draws = Draws(self.stream or self.task.name, self.split, self.seed, index)
        return self.task._example(draws, self.split, index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtrapolationTask(GeneratedTask):
    """A task with one length for training and validation and, if asked for, another for testing.

    A model is built for the longer of the two; train rows are not padded to it.
    """

    length: int = 256  # of training and validation
    test_length: int = 0  # of testing; 0: as in training

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "length")
        check_count(self, "test_length", least=0)

    def _length(self, split: Split) -> int:
        return self.test_length if split == "test" and self.test_length else self.length

    @property
    def _longest(self) -> int:
        return max(self.length, self.test_length)


def real(example: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """An example's row without its padding."""
    row = np.asarray(example[name])
    return row[np.asarray(example["segment_ids"]) > 0] if "segment_ids" in example else row


def lm_spec(vocab_size: int, outputs: int, length: int, *, causal: bool = False) -> ModelSpec:
    """A token in and a distribution out at every position; `causal` where a row shows its labels.

    That is where the next token is the label: a model that looks ahead would copy it.
    """
    return ModelSpec(
        head="lm", vocab_size=vocab_size, outputs=outputs, length=length, causal=causal
    )


def padded(
    inputs: Sequence[int] | np.ndarray, targets: Sequence[int] | np.ndarray, length: int
) -> Example:
    """An example whose rows are filled up on the right to `length`."""
    return {
        "inputs": fill(inputs, length, 0),
        "targets": fill(targets, length, IGNORED),
        "segment_ids": fill(np.ones(len(inputs), np.int32), length, 0),
    }


def fill(row: Sequence[int] | np.ndarray, length: int, value: int) -> Int32[np.ndarray, "length"]:
    """`row`, then `value` up to `length`."""
    out = np.full(length, value, np.int32)
    out[: len(row)] = row
    return out


def labelled_at(
    places: slice | np.ndarray, labels: Sequence[int] | np.ndarray, length: int
) -> Int32[np.ndarray, "length"]:
    """Targets with `labels` at `places` and nothing elsewhere."""
    targets = np.full(length, IGNORED, np.int32)
    targets[places] = labels
    return targets


def rows_right(outputs: Float[Array, "B L V"], targets: Array) -> tuple[Array, Array]:
    """Whether all labels of a row are met, and whether it has any."""
    missed = (targets != IGNORED) & (jnp.argmax(outputs, axis=-1) != targets)
    return ~missed.any(1), (targets != IGNORED).any(1)


def measure_sequences(
    outputs: Float[Array, "B L V"], batch: Mapping[str, Array], *, name: str = "sequence_accuracy"
) -> Metrics:
    """`measure_tokens`, and the share of rows whose labels are all met."""
    right, counted = rows_right(outputs, batch["targets"])
    weight = example_weight(batch) * counted
    return {**measure_tokens(outputs, batch), name: (jnp.sum(weight * right), jnp.sum(weight))}


def by_slice(
    metric: str, values: Float[Array, "B"], weight: Float[Array, "B"], of: Array, names: Iterable
) -> Metrics:
    """The mean of `values` over the rows of each slice; `of` [B] says which slice a row is of."""
    parts = {}
    for index, name in enumerate(names):
        inside = weight * (of == index)
        parts[f"{metric}_{name}"] = (
            jnp.sum(jnp.where(inside > 0, values, 0) * inside),
            inside.sum(),
        )
    return parts


def best_constant(
    source: Source, outputs: int, select: Callable = lambda targets: targets
) -> float:
    """Accuracy of the one label that does best everywhere, rows weighing the same.

    `select` may leave out labels that do not count.
    """
    total = np.zeros(outputs)
    for i in range(len(source)):
        labels = select(source[i]["targets"])
        labels = labels[labels != IGNORED]
        total += np.bincount(labels, minlength=outputs) / len(labels)
    return float(total.max() / len(source))


def check_true(task: Task, holds: bool, rule: str) -> None:
    """Raises ValueError with the rule that the options of a task break."""
    if not holds:
        raise ValueError(f"task {task.name}: {rule}")
