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

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.protocols import PROTOCOLS
from seqzoo.tasks.task import (
    IGNORED,
    Example,
    Metrics,
    Source,
    Split,
    Task,
    check_count,
    example_weight,
    measure_tokens,
)

BERT_SHARE = 0.15  # of the inputs that are asked for
LOOKED_AT = 500  # examples from which trivial baselines are counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(Task):
    """What the objectives share; `wrap` makes the class for one task."""

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
        return _again, (self.objective, self.inner, values)

    @property
    def main_metric(self) -> str:
        """By the kind of inputs."""
        return self._token_metric if self._tokens else "mse"

    _token_metric: ClassVar[str]

    @property
    def _tokens(self) -> bool:
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

    @property
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
        return made if ids is None else {**made, "segment_ids": ids}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken(Pretraining):
    """Each input from those before it; of a picture's pixels, `bits_per_dim` is bits a dimension.

    Rows are moved by one position and begin with a start token (or zeros), so that every input is
    predicted, the first included.
    """

    objective: ClassVar[str] = "next_token"
    cite: ClassVar[str] = "Amos et al. 2023, arXiv 2310.02980"
    _token_metric: ClassVar[str] = "bits_per_dim"

    def _example(self, inputs: np.ndarray, ids: np.ndarray, draws: Draws) -> Example:
        first = np.diff(ids, prepend=0) != 0  # of a segment
        start = self.of.spec.vocab_size if self._tokens else 0
        moved = np.roll(inputs, 1, axis=0)
        moved = np.where(first if self._tokens else first[:, None], start, moved)
        labelled = ids > 0
        if getattr(self.of, "cls", False):  # the token in front is no input of the task
            labelled &= np.arange(len(ids)) > 0
        return {"inputs": moved.astype(inputs.dtype), **_labels(inputs, labelled, self._tokens)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Pretraining):
    """Hidden inputs from all others (Devlin et al. 2018): of the real ones a share is to be told.

    Of those, 80% are replaced by the mask token (or zeros), 10% by a random token (or another
    vector of the row), 10% are left. Each example occurs under several masks, as in BERT's data.
    """

    objective: ClassVar[str] = "masked"
    cite: ClassVar[str] = "Devlin et al. 2018, arXiv 1810.04805"
    causal: ClassVar[bool] = False
    _token_metric: ClassVar[str] = "token_accuracy"

    # Share of the real inputs, at least one; None: the protocol's of the task, else 0.15.
    rate: float | None = None
    masks: int = 10  # of each train example

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "masks")
        if not 0 < self.share < 1:
            raise ValueError(f"task {self.name}: rate must be in (0, 1); got {self.rate!r}")

    @property
    def share(self) -> float:
        """`rate`, or what stands for it."""
        if self.rate is not None:
            return self.rate
        protocol = PROTOCOLS.get(getattr(self.of, "protocol", ""))
        return protocol.masked.get(self.of.family, BERT_SHARE) if protocol else BERT_SHARE

    def repeats(self, split: Split) -> int:
        """`masks` in training."""
        return self.masks if split == "train" else 1

    def _example(self, inputs: np.ndarray, ids: np.ndarray, draws: Draws) -> Example:
        real = np.flatnonzero(ids > 0)
        count = min(len(real), max(1, round(self.share * len(real))))
        chosen = real[draws.subset(len(real), count)]
        fate = draws.uniform(count)
        hidden, swapped = chosen[fate < 0.8], chosen[(fate >= 0.8) & (fate < 0.9)]
        shown, size = inputs.copy(), self.of.spec.vocab_size
        if self._tokens:
            shown[hidden] = size
            shown[swapped] = draws.integers(size, len(swapped))
        else:
            shown[hidden] = 0
            shown[swapped] = inputs[real[draws.integers(len(real), len(swapped))]]
        labelled = np.zeros(len(inputs), bool)
        labelled[chosen] = True
        return {"inputs": shown, **_labels(inputs, labelled, self._tokens)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Pretraining):
    """Contrastive predictive coding (van den Oord et al. 2018), within each row.

    The context at the end of a patch of inputs tells the patches 1 to `steps` further on from all
    others of the row (InfoNCE). Differs from the paper: a patch is encoded by one linear map of its
    embedded inputs, and wrong answers come from the same row alone, so that the loss of a row does
    not depend on its batch.
    """

    objective: ClassVar[str] = "cpc"
    cite: ClassVar[str] = "van den Oord et al. 2018, arXiv 1807.03748"
    extra_tokens: ClassVar[int] = 0
    main_metric: ClassVar[str] = "accuracy"

    patch: int = 8  # inputs of a patch
    steps: int = 4  # patches ahead
    dim: int = 32  # width in which patches are compared

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "steps")
        check_count(self, "dim")
        check_count(self, "patch", most=self.of.spec.length // (self.steps + 1))

    @property
    def spec(self) -> ModelSpec:
        """A head that gives each patch's code and the predictions of later ones."""
        spec = self.of.spec
        return ModelSpec(
            head="contrast",
            outputs=self.dim,
            length=spec.length,
            vocab_size=spec.vocab_size,
            features=spec.features,
            packed=spec.packed,
            causal=True,
            patch=self.patch,
            steps=self.steps,
        )

    def _example(self, inputs: np.ndarray, ids: np.ndarray, draws: Draws) -> Example:
        return {"inputs": inputs, "targets": np.int32(0)}

    def measure(self, outputs: Float[Array, "B P K E"], batch: Mapping[str, Array]) -> Metrics:
        """InfoNCE in nats and how often the right patch comes first, over all predictions."""
        codes, predictions = outputs[:, :, 0], outputs[:, :, 1:]
        patches, owner = codes.shape[1], self._owners(batch, outputs)
        weight = example_weight(batch)
        loss = right = count = jnp.zeros(())
        for k in range(1, min(self.steps, patches - 1) + 1):
            scores = jnp.einsum("BPE,BQE->BPQ", predictions[:, :-k, k - 1], codes)
            scores = jnp.where(owner[:, None] > 0, scores / math.sqrt(self.dim), -jnp.inf)
            told = (owner[:, :-k] > 0) & (owner[:, :-k] == owner[:, k:])
            scores = jnp.where(told[..., None], scores, 0)
            place = jnp.arange(patches - k) + k
            picked = jnp.take_along_axis(scores, place[None, :, None], axis=2)[..., 0]
            share = told * weight[:, None]
            nats = jax.nn.logsumexp(scores, axis=-1) - picked
            loss += jnp.sum(jnp.where(share > 0, nats, 0) * share)
            right += jnp.sum((scores.argmax(-1) == place) * share)
            count += share.sum()
        return {"loss": (loss, count), "accuracy": (right, count)}

    def _owners(self, batch: Mapping[str, Array], outputs: Array) -> Array:
        """The segment id of each patch, 0 where it holds padding or a border."""
        rows, patches = outputs.shape[:2]
        if "segment_ids" not in batch:
            return jnp.ones((rows, patches), jnp.int32)
        ids = batch["segment_ids"][:, : patches * self.patch].reshape(rows, patches, self.patch)
        return jnp.where((ids == ids[..., :1]).all(-1), ids[..., 0], 0)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """A guess among the patches of a full row."""
        self.effective_seed(split, 0)
        return {"chance": 1 / (self.of.spec.length // self.patch)}


OBJECTIVES: dict[str, type[Pretraining]] = {
    kind.objective: kind for kind in (NextToken, Masked, Contrastive)
}


@functools.cache
def wrap(objective: str, inner: type[Task]) -> type[Pretraining]:
    """The task `objective:inner`."""
    parent = OBJECTIVES[objective]
    about = {
        "name": f"{objective}:{inner.name}",
        "description": f"{objective} pretraining on the inputs of {inner.name}",
        "inner": inner,
        "__doc__": parent.__doc__,
    }
    field = ("of", inner, dataclasses.field(default_factory=inner))
    return dataclasses.make_dataclass(
        f"{parent.__name__}{inner.__name__}",
        [field],
        bases=(parent,),
        namespace=about,
        frozen=True,
        kw_only=True,
    )


def _again(objective: str, inner: type[Task], values: dict[str, Any]) -> Pretraining:
    return wrap(objective, inner)(**values)


def _labels(inputs: np.ndarray, labelled: np.ndarray, tokens: bool) -> Example:
    if tokens:
        return {"targets": np.where(labelled, inputs, IGNORED).astype(np.int32)}
    return {"targets": inputs.astype(np.float32), "labelled": labelled.astype(np.float32)}


def _measure_marked(outputs: Array, batch: Mapping[str, Array]) -> Metrics:
    """Mean squared error over the positions with `labelled` 1, a mean over features."""
    share = batch["labelled"] * example_weight(batch)[:, None]
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    square = jnp.square(outputs - batch["targets"]).mean(-1)
    pair = jnp.sum(jnp.where(share > 0, square, 0) * share), share.sum()
    return {"loss": pair, "mse": pair}
