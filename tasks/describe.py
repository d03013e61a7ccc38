"""Statistics of a split: how many examples, how long, which classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from seqzoo.tasks.task import Example, Source, Task


@dataclasses.dataclass(frozen=True)
class Description:
    """What was found in the examples that were looked at."""

    size: int  # of the split
    looked: int  # examples that were read
    lengths: tuple[int, float, int]  # shortest, mean, longest; padding does not count
    classes: tuple[int, ...] | None  # examples of each, where an example has one class

    @property
    def balance(self) -> str:
        """The share of the rarest and of the commonest class."""
        if self.classes is None:
            return "no classes"
        shares = np.array(self.classes) / max(1, sum(self.classes))
        return f"{len(shares)} classes, {shares.min():.1%} to {shares.max():.1%} of the examples"

    @property
    def length(self) -> str:
        """Shortest, mean and longest."""
        low, mean, high = self.lengths
        return str(low) if low == high else f"{low} to {high}, mean {mean:.0f}"


def describe(task: Task, source: Source, most: int | None = None) -> Description:
    """Statistics of a source, of its first `most` examples where that is given."""
    looked = len(source) if most is None else min(most, len(source))
    return described(task, len(source), (source[i] for i in range(looked)))


def described(task: Task, size: int, examples: Iterable[Example]) -> Description:
    """Statistics of examples of a split of `size`."""
    lengths: list[int] = []
    counts: np.ndarray | None = None
    for example in examples:
        lengths.append(task.real_tokens(example))
        target = np.asarray(example["targets"])
        if target.ndim == 0 and np.issubdtype(target.dtype, np.integer):  # one class an example
            counts = np.zeros(task.spec.outputs, np.int64) if counts is None else counts
            counts[target] += 1
    found = np.array(lengths or [0])
    span = int(found.min()), float(found.mean()), int(found.max())
    classes = None if counts is None else tuple(counts.tolist())
    return Description(size, len(lengths), span, classes)


def check_example(task: Task, example: Example) -> None:
    """Raises ValueError for an example that no model of the task could be given."""
    spec, inputs, targets = task.spec, example["inputs"], example["targets"]
    if inputs.shape[-1 if spec.features is None else -2] > spec.length:
        raise ValueError(f"inputs of shape {inputs.shape}, longer than {spec.length}")
    if spec.features is not None and not np.isfinite(inputs).all():
        raise ValueError("inputs that are not finite")
    if spec.vocab_size is not None and not 0 <= inputs.min() <= inputs.max() < spec.vocab_size:
        raise ValueError(
            f"tokens from {inputs.min()} to {inputs.max()}, not below {spec.vocab_size}"
        )
    if np.issubdtype(np.asarray(targets).dtype, np.integer) and np.max(targets) >= spec.outputs:
        raise ValueError(f"a target of {np.max(targets)}, not below {spec.outputs}")
