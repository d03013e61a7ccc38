"""Self-supervision by views: what two differently changed copies of an example have in common.

    seqzoo train --task simclr:sdigits --model lru --out runs/before
    seqzoo train --task sdigits --model lru --init-from runs/before --out runs/after

An example is V views of a row of the wrapped task, [V, L] or [V, L, F]; its label is not looked at.
What stands behind the encoder is a declared structure (`ViewSpec`), a loss reads what that gives.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec, Seen, ViewSpec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.pretraining import losses
from seqzoo.tasks.pretraining.augment import (
    PICTURES,
    SERIES,
    TOKENS,
    Augmentation,
    Row,
    Strengths,
)
from seqzoo.tasks.pretraining.base import Pretraining
from seqzoo.tasks.task import Example, Metrics, Split, check_count, example_weight

LITTLE, FEW = 0.1, 1.5  # spread and rank of embeddings below which they have collapsed
MIRRORED = 0.5  # chance of a picture to be mirrored, where that changes no label


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewTask(Pretraining):
    """What all of them share: how views are made, how wide heads are, what is measured."""

    causal: ClassVar[bool] = False
    main_metric: ClassVar[str] = "loss"

    views: int = 2  # of each example, at least 2
    draws: int = 50  # different ones of each train example
    dim: int = 64  # width in which views are compared
    hidden: int = 128  # width of the heads' hidden layers
    # How much views differ; None: what suits the rows (series, tokens or pictures).
    crop: float | None = None  # least share of the row, of a picture's area, that is kept
    mask: float | None = None  # share of the inputs that are hidden
    jitter: float | None = None  # deviation of noise in units of the row's own; real inputs
    shift: float | None = None  # most that a row is turned by, as a share of its length
    channels: float | None = None  # chance of a channel to be 0; several real channels
    flip: float | None = None  # chance to be mirrored; pictures
    brightness: float | None = None  # most that contrast and brightness change; pictures

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of.spec.packed:
            raise ValueError(
                f"task {self.name}: the rows of {self.of.name} hold several documents each, and a "
                "view is of one; give it other rows (--data.of.rows windows)"
            )
        check_count(self, "views", least=2)
        for name in ("draws", "dim", "hidden"):
            check_count(self, name)
        for field in dataclasses.fields(Strengths):
            if getattr(self, field.name) is not None:
                self._check_strength(field.name)

    def _check_strength(self, name: str) -> None:
        if name == "crop":
            self._check_number(name, "a share in (0, 1]", lambda x: 0 < x <= 1)
        elif name in ("mask", "shift"):
            self._check_number(name, "a share in [0, 1)", lambda x: 0 <= x < 1)
        elif name in ("channels", "flip"):
            self._check_number(name, "a chance in [0, 1]", lambda x: 0 <= x <= 1)
        else:
            self._check_number(name, "at least 0", lambda x: x >= 0)
        needs = {
            "jitter": ("real inputs", not self._tokens),
            "channels": ("several real channels", (self.of.spec.features or 1) > 1),
            "flip": ("pictures", self.of.picture is not None),
            "brightness": ("pictures", self.of.picture is not None),
        }
        what, fits = needs.get(name, ("", True))
        if getattr(self, name) and not fits:
            raise ValueError(
                f"task {self.name}: {name} needs {what}, which the rows of {self.of.name} are not; "
                f"leave it out; got {getattr(self, name)!r}"
            )

    def _check_number(self, name: str, rule: str, holds: Any) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not holds(value):
            raise ValueError(f"task {self.name}: {name} must be {rule}; got {value!r}")

    def _check_positive(self, name: str) -> None:
        self._check_number(name, "positive", lambda x: x > 0)

    def check_run(self, *, batch_size: int, accumulate: int, adapter: str) -> None:
        """The loss is over a whole batch, and a queue holds whole ones."""
        if accumulate > 1:
            raise ValueError(
                f"task {self.name} compares all examples of a batch with each other, so that "
                f"microbatches are another loss: leave accumulate at 1; got {accumulate=}"
            )
        heads = self._heads()
        if heads.queue % batch_size:
            raise ValueError(
                f"task {self.name}: queue must be a multiple of batch_size, so that whole batches "
                f"leave it; got {heads.queue=}, {batch_size=}"
            )
        if adapter and heads.momentum is not None:
            raise ValueError(
                f"task {self.name}: the target follows all weights of the encoder, and an adapter "
                f"holds them; leave out the adapter, or choose simclr or simsiam; got {adapter!r}"
            )

    @property
    def spec(self) -> ModelSpec:
        """The wrapped task's inputs, with views in front."""
        spec = self.of.spec
        inputs = {"features": spec.features}
        if self._tokens:
            inputs = {"vocab_size": spec.vocab_size + self.extra_tokens}
        return ModelSpec(
            head="views",
            outputs=self.dim,
            length=spec.length,
            pooling=spec.pooling,
            views=self._heads(),
            **inputs,
        )

    @abc.abstractmethod
    def _heads(self) -> ViewSpec:
        """What stands behind the encoder."""

    @property
    def strengths(self) -> Strengths:
        """The options, or what stands for them."""
        picture = self.of.picture
        suits = PICTURES if picture else TOKENS if self._tokens else SERIES
        if picture and picture.mirrored:
            suits = dataclasses.replace(suits, flip=MIRRORED)
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(Strengths)}
        return dataclasses.replace(suits, **{k: v for k, v in own.items() if v is not None})

    def repeats(self, split: Split) -> int:
        """`draws` in training."""
        return self.draws if split == "train" else 1

    def _shares(self) -> list[tuple[float, float]]:
        """The least and the largest share that each view keeps."""
        return [(self.strengths.crop, 1.0)] * self.views

    @functools.cached_property
    def _change(self) -> tuple[Augmentation, list[tuple[float, float]]]:
        lead = int(getattr(self.of, "cls", False))  # a token in front
        vocab = self.of.spec.vocab_size
        return Augmentation(self.strengths, vocab, self.of.picture, lead), self._shares()

    def _example(self, inputs: np.ndarray, ids: np.ndarray, draws: Draws) -> Example:
        change, shares = self._change
        made = [change(Row(inputs, ids), *share, draws) for share in shares]
        rows, seen = (np.stack(parts) for parts in zip(*made, strict=True))
        padded = {"segment_ids": seen} if self._tokens or (ids == 0).any() else {}
        return {"inputs": rows, "targets": np.int32(0), **padded}

    def measure(self, outputs: Seen, batch: Mapping[str, Array]) -> Metrics:
        """The loss, of contrasts the accuracy, and the embeddings' `spread` and `rank`."""
        weight = example_weight(batch)
        count, real = weight.sum(), (weight > 0)[:, None, None]
        rows = {
            n: jnp.where(real, getattr(outputs, n), 0) for n in ("embedded", "online", "target")
        }
        outputs = outputs._replace(**rows)
        found = {
            name: (jnp.sum(jnp.where(weight > 0, value, 0) * weight), count)
            for name, value in self._measured(outputs, weight).items()
        }
        z = jax.lax.stop_gradient(outputs.embedded[:, 0])
        for measured in (losses.spread, losses.effective_rank):
            found[measured.__name__] = (measured(z, weight) * count, count)
        return found

    @abc.abstractmethod
    def _measured(self, seen: Seen, weight: Float[Array, "B"]) -> dict[str, Array]:
        """Numbers of each example, `loss` among them."""

    def warnings(self, metrics: Mapping[str, Any]) -> tuple[str, ...]:
        """Whether embeddings have collapsed."""
        spread, rank = (np.atleast_1d(metrics[name]) for name in ("spread", "effective_rank"))
        bad = (spread < LITTLE) | (rank < FEW)
        if not bad.any():
            return ()
        which = f" in {bad.sum()} of {bad.size} replicas" if bad.size > 1 else ""
        return (
            f"embeddings have collapsed{which}: their spread is {spread.min():.3g} (of 1), their "
            f"effective rank {rank.min():.3g} (of {self.dim})",
        )

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The loss of embeddings that know nothing, where the batch does not matter."""
        self.effective_seed(split, 0)
        return self._chance()

    def _chance(self) -> dict[str, float]:
        return {}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The views, one below the other."""
        views = np.asarray(example["inputs"])
        return "\n".join(" ".join(np.array2string(x, precision=2) for x in v) for v in views)
