"""What a task is: sources of examples, a loss and metrics, trivial baselines, a readable example.

    task = tasks.build("listops_short", train_size=1000)
    source = task.source("train", seed=0)          # len(source), source[i]
    metrics = task.measure(outputs, batch)         # inside jit: name -> (total, weight)

An example is a dict of NumPy arrays with `inputs`, `targets` and, where rows are padded,
`segment_ids` (0 at padding). A batch stacks examples and adds `weight` [B], 0 for the rows that
only fill up the last batch of an evaluation. A task is a frozen dataclass: its fields are options.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqzoo.models.spec import ModelSpec

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
Needs = Literal["nothing", "package", "download", "files"]
Selection = Literal["last", "best"]  # the model tested: of the last step, or best on validation
LARGEST = 2**53  # of what is counted: the numbers that JSON and floats have
SOLVED = 0.9  # accuracy, as of Delétang et al. 2023: other seeds found something else, or nothing
IGNORED = -100  # the target at positions without a label

Example = dict[str, np.ndarray]
# (total, weight) of each metric, summed over batches first. Its value is total / weight; of
# vectors, as for an average over classes, the mean over the entries with weight (`metric_value`).
Metrics = dict[str, tuple[Array, Array]]


class Picture(NamedTuple):
    """How a row lays out the pixels of a picture."""

    height: int
    width: int
    order: np.ndarray  # the pixel, row by row, that is read at each step
    mirrored: bool = False  # whether a mirror image has the same label
    levels: int = 256  # of brightness, where pixels are tokens


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of one split: thread-safe, picklable, the same every time."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> Example:
        """Example `index`, in [0, len). Raises IndexError outside."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """One task; a subclass adds its options as fields.

    Attributes:
        name: what the registry and run folders call it.
        description: one line for a listing.
        main_metric: the metric that tables show; a key of what `measure` returns.
        cite: the paper or repository that defines the task.
        solved_at: the main metric from which a task that is solved or not counts as solved; tables
            then count the seeds that solve it. None: there is no such step.
        needs: what its data are read from: nothing (they are made, or Python has them), a Python
            package, a download, or files of one's own.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    main_metric: ClassVar[str] = "accuracy"
    cite: ClassVar[str]
    solved_at: ClassVar[float | None] = None
    needs: ClassVar[Needs] = "nothing"

    @property
    def higher_is_better(self) -> bool:
        """Whether the main metric is one to be large."""
        return self.main_metric.endswith("accuracy")

    @property
    def selection(self) -> Selection:
        """Which step's model is tested: the last, or that of the best main metric on validation."""
        return "last"

    @property
    def pretrained(self) -> bool:
        """Whether its protocol starts from a pretrained encoder."""
        return False

    @property
    def stateful(self) -> bool:
        """Whether example i + 1 of a source continues example i, for a state that is carried."""
        return False

    @property
    def picture(self) -> Picture | None:
        """How a picture lies in a row, None where rows are none."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its numbers must know; a report prints it."""
        return ()

    @property
    def facts(self) -> tuple[str, ...]:
        """What was found in the data, a line each; `seqzoo data show` prints them."""
        return ()

    @property
    @abc.abstractmethod
    def spec(self) -> ModelSpec:
        """What the task needs of a model."""

    def source(self, split: Split, seed: int = 0) -> Source:
        """The examples of a split, a pure function of (options, split, seed).

        `seed` changes only the train split of generated tasks. Raises ValueError for an unknown
        split, and FileNotFoundError where data is missing (the message says what to fetch).
        """
        return self._source(split, self.effective_seed(split, seed))

    def prepare(
        self, split: Split, seed: int = 0, *, progress: bool = True, workers: int | None = None
    ) -> Source:
        """`source(split, seed)`, after doing once what makes it fast: large sets are cached.

        `workers` processes do it; by default as many as the size is worth. `progress` shows a bar.
        """
        return self.source(split, seed)

    def effective_seed(self, split: Split, seed: int) -> int:
        """`seed` for the train split, else 0. Raises ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r} of task {self.name}; valid: {SPLITS}")
        return operator.index(seed) if split == "train" else 0

    def data_files(self, split: Split) -> Sequence[Path]:
        """The files that a split is read from, or some that stand for very many; none if made.

        Raises FileNotFoundError where they are missing.
        """
        return ()

    @abc.abstractmethod
    def _source(self, split: Split, seed: int) -> Source:
        """`source` for a split that exists; `seed` is 0 outside the train split."""

    def positions(self, batch: Mapping[str, Any]) -> int:
        """Positions of an example or of a batch with any axes in front, arrays or their shapes.

        Padding is included; of a pair of rows both count.
        """
        return math.prod(self._axes(batch))

    def real_tokens(self, batch: Mapping[str, Any]) -> int:
        """`positions` of a batch without padding, and without the rows whose weight is 0."""
        axes = self._axes(batch)
        ids, weight = batch.get("segment_ids"), np.asarray(batch.get("weight", 1))
        real = np.broadcast_to(True, axes) if ids is None else np.asarray(ids) > 0
        counted = (weight > 0).reshape(weight.shape + (1,) * (len(axes) - weight.ndim))
        return int((real & counted).sum())

    def _axes(self, batch: Mapping[str, Any]) -> tuple[int, ...]:
        shape = batch["inputs"].shape
        return shape if self.spec.features is None else shape[:-1]

    @abc.abstractmethod
    def measure(self, outputs: Array, batch: Mapping[str, Array]) -> Metrics:
        """Totals and weights of every metric of a batch, `loss` among them; runs inside jit.

        `outputs` are what the model of `spec` gives.
        """

    def derived(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """More metrics, from the values of those that `measure` names; inside jit or not."""
        return {}

    def check_run(self, *, batch_size: int, accumulate: int, adapter: str) -> None:
        """Raises ValueError for a run that cannot be one of this task.

        It learns from `batch_size` examples a step in `accumulate` parts, through an `adapter` if
        that is not empty.
        """
        return

    def warnings(self, metrics: Mapping[str, Any]) -> tuple[str, ...]:
        """What is wrong with a model that has these metrics, of several replicas an array each."""
        return ()

    @abc.abstractmethod
    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """What trivial rules reach in the main metric on `source(split, seed)`."""

    @abc.abstractmethod
    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """An example for human eyes."""


def check_count(task: Task, field: str, *, least: int = 1, most: int = LARGEST) -> None:
    """Raises ValueError unless an option is an integer from `least` to `most`."""
    value = getattr(task, field)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        unlimited = most == LARGEST and not (whole and value > most)
        limits = f"at least {least}" if unlimited else f"{least} to {most}"
        raise ValueError(f"task {task.name}: {field} must be an integer, {limits}; got {value!r}")


def metric_value(total: Array, weight: Array, *, batch_dims: int = 0) -> Array:
    """total / weight, and the mean of that over the axes after the first `batch_dims`.

    Entries of weight 0 do not count; NaN where no entry counts.
    """
    counts = weight > 0
    xp = jnp if isinstance(total, jax.Array) else np
    ratio = xp.where(counts, total, 0) / xp.where(counts, weight, 1)
    axes = tuple(range(batch_dims, ratio.ndim))
    number = counts.sum(axes)
    return xp.where(number > 0, ratio.sum(axes) / xp.maximum(number, 1), xp.nan)


def example_weight(batch: Mapping[str, Array]) -> Float[Array, "B"]:
    """`batch["weight"]`, or ones where the batch has none."""
    if "weight" in batch:
        return jnp.asarray(batch["weight"], jnp.float32)
    return jnp.ones(jnp.shape(batch["targets"])[0], jnp.float32)


def measure_classes(logits: Float[Array, "B C"], batch: Mapping[str, Array]) -> Metrics:
    """Cross-entropy in nats and accuracy of one class a row; `batch["targets"]` is [B]."""
    weight = example_weight(batch)
    targets = batch["targets"]
    right = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    total = weight.sum()
    return {
        "loss": (_weighted_sum(_cross_entropy(logits, targets), weight), total),
        "accuracy": (_weighted_sum(right, weight), total),
    }


def measure_tokens(logits: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
    """Cross-entropy and accuracy at the labelled positions; `batch["targets"]` is [B, L].

    Targets of -100 are ignored. `loss` is a mean over labelled positions, in nats; `accuracy` is
    that of each row over its labelled positions, then a mean over the rows that have any (MQAR's
    convention); `token_accuracy` is a mean over labelled positions.
    """
    targets = batch["targets"]
    labelled = (targets != IGNORED).astype(jnp.float32)
    weight = example_weight(batch)
    token_weight = labelled * weight[:, None]
    losses = _cross_entropy(logits, jnp.maximum(targets, 0))
    right = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32) * labelled
    count = labelled.sum(axis=1)
    row_weight = weight * (count > 0)
    by_row = right.sum(axis=1) / jnp.maximum(count, 1)
    return {
        "loss": (_weighted_sum(losses, token_weight), token_weight.sum()),
        "accuracy": (_weighted_sum(by_row, row_weight), row_weight.sum()),
        "token_accuracy": (_weighted_sum(right, token_weight), token_weight.sum()),
    }


def measure_regression(outputs: Float[Array, "B *shape"], batch: Mapping[str, Array]) -> Metrics:
    """Mean squared error over every number of a row; `loss` and `mse` are the same.

    `relative_mse` is in units of the targets' own mean square: 1 for an output of 0.
    """
    weight = example_weight(batch)
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    square = jnp.square(outputs - batch["targets"])
    square, power = (
        x.reshape(len(x), -1).mean(1)
        for x in (square, jnp.square(jnp.asarray(batch["targets"], outputs.dtype)))
    )
    return squared_errors(square, power, weight)


def squared_errors(square: Array, power: Array, weight: Array) -> Metrics:
    """Squared errors of rows or steps, also in units of the targets' own `power`."""
    error = _weighted_sum(square, weight)
    pair = (error, weight.sum())
    return {"loss": pair, "mse": pair, "relative_mse": (error, _weighted_sum(power, weight))}


def _cross_entropy(
    logits: Float[Array, "*shape C"], targets: Int[Array, "*shape"]
) -> Float[Array, "*shape"]:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def _weighted_sum(values: Array, weight: Array) -> Array:
    # A row or position of weight 0 may hold anything, and 0 * nan is nan.
    return jnp.sum(jnp.where(weight > 0, values, 0) * weight)
