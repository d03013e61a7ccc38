"""Pretraining on any task's own inputs: next token, masked, contrastive.

    seqzoo train --task masked:listops --model s4d --out runs/before --data.of.train-size 96000
    seqzoo train --task listops --model s4d --init-from runs/before --out runs/after

Pretraining on the data of the task itself, then fine-tuning, is the protocol of Amos et al. 2023
("Never train from scratch", arXiv 2310.02980). `OBJECTIVE:TASK` is a task like any other; the
wrapped task's labels are not looked at. Inputs may be tokens or real vectors.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    IGNORED,
    Example,
    Metrics,
    Source,
    Split,
    Task,
    example_weight,
    measure_tokens,
)

LOOKED_AT = 500  # examples from which trivial baselines are counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(Task):
    """What the objectives share; `wrapping` makes the class for one task."""

    inner: ClassVar[type[Task]]  # the class of `of`
    objective: ClassVar[str]
    causal: ClassVar[bool] = True
    extra_tokens: ClassVar[int] = 1  # ids after the task's own

    of: Any  # the task whose inputs are learned

    def __post_init__(self) -> None:
        if isinstance(self.of, Mapping):  # a configuration read from JSON
            object.__setattr__(self, "of", self.inner(**self.of))
        if self.of.stateful:
            raise ValueError(
                f"task {self.name}: rows that continue each other cannot be pretrained on; give "
                f"{self.of.name} other rows"
            )

    def __reduce__(self):
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _again, (type(self).__bases__[0], self.inner, values)

    @property
    def main_metric(self) -> str:
        """By the kind of inputs."""
        return self._token_metric if self._tokens else "mse"

    _token_metric: ClassVar[str]

    @functools.cached_property
    def _tokens(self) -> bool:  # a spec may be read from files, and examples are many
        return self.of.spec.vocab_size is not None

    @property
    def spec(self) -> ModelSpec:
        """The wrapped task's inputs, and at every position what can be one of them."""
        spec = self.of.spec
        size = (spec.vocab_size or 0) + self.extra_tokens
        tokens = {"head": "lm", "outputs": size, "vocab_size": size}
        real = {"head": "regress", "outputs": spec.features, "features": spec.features}
        return ModelSpec(
            **(tokens if self._tokens else real),
            length=spec.length,
            packed=spec.packed,
            causal=self.causal,
        )

    def _source(self, split: Split, seed: int) -> Source:
        return InputSource(self, self.of.source(split, seed), split, seed)

    def data_files(self, split: Split) -> Sequence[Path]:
        """Those of the wrapped task."""
        return self.of.data_files(split)

    def prepare(
        self, split: Split, seed: int = 0, *, progress: bool = True, workers: int | None = None
    ) -> Source:
        """As of the wrapped task."""
        rows = self.of.prepare(split, seed, progress=progress, workers=workers)
        return InputSource(self, rows, split, self.effective_seed(split, seed))

    def repeats(self, split: Split) -> int:
        """How often each example of a split occurs, differently each time."""
        return 1

    @abc.abstractmethod
    def _example(self, inputs: np.ndarray, ids: np.ndarray, draws: Draws) -> Example:
        """From inputs [L] or [L, F] and segment ids [L]; random only through `draws`."""

    def measure(self, outputs: Float[Array, "B L O"], batch: Mapping[str, Array]) -> Metrics:
        """Tokens: loss, bits_per_dim, token_accuracy; real inputs: mean squared error."""
        if not self._tokens:
            return _measure_marked(outputs, batch)
        found = measure_tokens(outputs, batch)
        total, weight = found["loss"]
        del found["accuracy"]
        return {**found, "bits_per_dim": (total / math.log(2), weight)}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """What is reached without looking at the row, counted on the split's first examples."""
        source = self.source(split, seed)
        rows = [source[i] for i in range(min(len(source), LOOKED_AT))]
        if not self._tokens:
            values = np.concatenate([row["targets"][row["labelled"] > 0] for row in rows])
            return {"mean": float(values.var(0).mean())}
        labels = np.concatenate([row["targets"][row["targets"] != IGNORED] for row in rows])
        p = np.bincount(labels) / len(labels)
        if self.main_metric == "token_accuracy":
            return {"most frequent token": float(p.max())}
        return {"token frequencies": float(-(p[p > 0] * np.log2(p[p > 0])).sum())}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """Inputs, then what is to be said, `_` where nothing is."""
        inputs, targets = example["inputs"], np.asarray(example["targets"])
        shown = " ".join(np.array2string(x, precision=2) for x in inputs)
        if not targets.ndim:
            return shown
        labelled = targets != IGNORED if self._tokens else example["labelled"] > 0
        said = (
            np.array2string(y, precision=2) if some else "_"
            for y, some in zip(targets, labelled, strict=True)
        )
        return f"{shown} -> {' '.join(said)}"


@dataclasses.dataclass(frozen=True)
class InputSource:
    """The rows of a task as examples of an objective; both rows of a pair are examples."""

    task: Pretraining
    rows: Source
    split: Split
    seed: int

    @functools.cached_property
    def _towers(self) -> int:
        return 2 if self.task.of.spec.head == "two_tower" else 1

    def __len__(self) -> int:
        return len(self.rows) * self._towers * self.task.repeats(self.split)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index = int(index)
        row, tower = divmod(index % (len(self.rows) * self._towers), self._towers)
        example = self.rows[row]
        inputs, ids = example["inputs"], example.get("segment_ids")
        if self._towers == 2:
            inputs, ids = inputs[tower], None if ids is None else ids[tower]
        real = np.ones(len(inputs), np.int32) if ids is None else ids
        draws = Draws(self.task.objective, self.split, self.seed, index)
        made = self.task._example(inputs, real, draws)
        return made if ids is None else {"segment_ids": ids, **made}


@functools.cache
def wrapping(objective: type[Pretraining], inner: type[Task]) -> type[Pretraining]:
    """The task `objective:inner`."""
    about = {
        "name": f"{objective.objective}:{inner.name}",
        "description": f"{objective.objective} pretraining on the inputs of {inner.name}",
        "inner": inner,
        "__doc__": objective.__doc__,
    }
    field = ("of", inner, dataclasses.field(default_factory=inner))
    return dataclasses.make_dataclass(
        f"{objective.__name__}{inner.__name__}",
        [field],
        bases=(objective,),
        namespace=about,
        frozen=True,
        kw_only=True,
    )


def _again(objective: type[Pretraining], inner: type[Task], values: dict[str, Any]) -> Pretraining:
    return wrapping(objective, inner)(**values)


def _measure_marked(outputs: Array, batch: Mapping[str, Array]) -> Metrics:
    """Mean squared error over the positions with `labelled` 1, a mean over features."""
    share = batch["labelled"] * example_weight(batch)[:, None]
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    square = jnp.square(outputs - batch["targets"]).mean(-1)
    pair = jnp.sum(jnp.where(share > 0, square, 0) * share), share.sum()
    return {"loss": pair, "mse": pair}
