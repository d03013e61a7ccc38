"""Six objectives over views: what stands behind the encoder, and what agrees with what.

Means are over the pairs of a target's view and another view of the same example. Schedules that the
papers have for temperatures, and the first epoch in which prototypes are held, are left out.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Array

from seqzoo.models.spec import Seen, ViewSpec
from seqzoo.tasks.pretraining import losses
from seqzoo.tasks.pretraining.views import ViewTask
from seqzoo.tasks.task import check_count


def pairs(seen: Seen) -> list[tuple[int, int]]:
    """A target's view, and another one that is to agree with it."""
    targets, views = seen.target.shape[1], seen.online.shape[1]
    return [(t, s) for t in range(targets) for s in range(views) if s != t]


def mean(values: list[Array]) -> Array:
    """Of the pairs."""
    return sum(values) / len(values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLR(ViewTask):
    """Each view tells the other view of its example from all other views of the batch (NT-Xent).

    Of more than two views each pair is compared by itself.
    """

    objective: ClassVar[str] = "simclr"
    cite: ClassVar[str] = "Chen et al. 2020, arXiv 2002.05709"

    temperature: float = 0.2  # of the cosines, positive

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("temperature")

    def _heads(self) -> ViewSpec:
        return ViewSpec(views=self.views, targets=self.views, hidden=self.hidden)

    def _measured(self, seen: Seen, weight: Array) -> dict[str, Array]:
        z = seen.online
        nats, right = zip(
            *(
                losses.nt_xent(z[:, t], z[:, s], weight, self.temperature)
                for t, s in pairs(seen)
                if t < s
            ),
            strict=True,
        )
        return {"loss": mean(nats), "accuracy": mean(right)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Momentum(ViewTask):
    """What has a target with weights of its own."""

    momentum: float = 0.99  # by which they stay at each step, in [0, 1]
    momentum_steps: int = 0  # in which that rises to 1 by a cosine; 0: it stays

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("momentum", "in [0, 1]", lambda x: 0 <= x <= 1)
        check_count(self, "momentum_steps", least=0)

    @property
    def _follows(self) -> dict[str, float]:
        return {"momentum": self.momentum, "momentum_steps": self.momentum_steps}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCo(_Momentum):
    """Views tell the first view of their example, as the target sees it, from a queue of others.

    Heads are those of its second version (arXiv 2003.04297), without batch norms. Differs from the
    papers: batch norms of the encoder, if it has any, see rows in their order.
    """

    objective: ClassVar[str] = "moco"
    cite: ClassVar[str] = "He et al. 2019, arXiv 1911.05722"

    temperature: float = 0.2  # of the cosines, positive
    queue: int = 512  # targets of earlier batches, a multiple of the batch

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("temperature")
        check_count(self, "queue")

    def _heads(self) -> ViewSpec:
        sizes = {"views": self.views, "targets": 1, "hidden": self.hidden}
        return ViewSpec(**sizes, norm=False, queue=self.queue, **self._follows)

    def _measured(self, seen: Seen, weight: Array) -> dict[str, Array]:
        nats, right = zip(
            *(
                losses.info_nce(seen.online[:, s], seen.target[:, t], seen.queue, self.temperature)
                for t, s in pairs(seen)
            ),
            strict=True,
        )
        return {"loss": mean(nats), "accuracy": mean(right)}

    def _chance(self) -> dict[str, float]:
        return {"all alike": float(np.log(self.queue + 1))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOL(_Momentum):
    """A predictor tells what the target makes of another view: 2 - 2 cos, both ways (eq. 2)."""

    objective: ClassVar[str] = "byol"
    cite: ClassVar[str] = "Grill et al. 2020, arXiv 2006.07733"

    def _heads(self) -> ViewSpec:
        sizes = {"views": self.views, "targets": self.views, "hidden": self.hidden}
        return ViewSpec(**sizes, predictor=self.hidden, **self._follows)

    def _measured(self, seen: Seen, weight: Array) -> dict[str, Array]:
        found = [losses.cosine(seen.online[:, s], seen.target[:, t]) for t, s in pairs(seen)]
        return {"loss": 2 * (2 - 2 * mean(found))}

    def _chance(self) -> dict[str, float]:
        return {"right angles": 4.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiam(ViewTask):
    """A predictor tells what the encoder itself makes of another view: -cos, both ways (eq. 2)."""

    objective: ClassVar[str] = "simsiam"
    cite: ClassVar[str] = "Chen and He 2020, arXiv 2011.10566"

    def _heads(self) -> ViewSpec:
        sizes = {"views": self.views, "targets": self.views, "hidden": self.hidden}
        return ViewSpec(**sizes, layers=3, last_norm=True, predictor=max(1, self.dim // 4))

    def _measured(self, seen: Seen, weight: Array) -> dict[str, Array]:
        found = [losses.cosine(seen.online[:, s], seen.target[:, t]) for t, s in pairs(seen)]
        return {"loss": -mean(found)}

    def _chance(self) -> dict[str, float]:
        return {"right angles": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MultiCrop(ViewTask):
    """`views` large views, the targets', and some small ones that are to agree with them."""

    small: int = 2  # small views
    small_crop: float = 0.2  # least share of the row that these keep; the most is `crop`
    prototypes: int = 64  # vectors that views are compared with

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "small", least=0)
        check_count(self, "prototypes", least=2)
        most = self.strengths.crop
        self._check_number("small_crop", f"in (0, crop={most}]", lambda x: 0 < x <= most)

    def _shares(self) -> list[tuple[float, float]]:
        return super()._shares() + [(self.small_crop, self.strengths.crop)] * self.small

    def _sizes(self) -> dict[str, int]:
        every = {"views": self.views + self.small, "targets": self.views, "hidden": self.hidden}
        return {**every, "prototypes": self.prototypes}

    def _chance(self) -> dict[str, float]:
        return {"all alike": float(np.log(self.prototypes))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAV(_MultiCrop):
    """Views tell the code of a large view: its share of prototypes that are all used alike."""

    objective: ClassVar[str] = "swav"
    cite: ClassVar[str] = "Caron et al. 2020, arXiv 2006.09882"

    temperature: float = 0.1  # of the cosines, positive
    sharpness: float = 0.05  # of the codes, the paper's epsilon; positive
    rounds: int = 3  # of Sinkhorn's algorithm

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("temperature")
        self._check_positive("sharpness")
        check_count(self, "rounds")

    def _heads(self) -> ViewSpec:
        return ViewSpec(**self._sizes())

    def _measured(self, seen: Seen, weight: Array) -> dict[str, Array]:
        codes = [
            losses.sinkhorn(seen.target[:, t], weight, self.sharpness, self.rounds)
            for t in range(self.views)
        ]
        found = [
            losses.cross_entropy(codes[t], seen.online[:, s], self.temperature)
            for t, s in pairs(seen)
        ]
        return {"loss": mean(found)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINO(_MultiCrop, _Momentum):
    """Views tell what the target, centred and sharpened, makes of a large one.

    The trained encoder is the one that is probed and fine-tuned; in the paper it is the target's.
    """

    objective: ClassVar[str] = "dino"
    cite: ClassVar[str] = "Caron et al. 2021, arXiv 2104.14294"

    temperature: float = 0.1  # of the trained outputs, positive
    target_temperature: float = 0.04  # of the target's, positive
    centre: float = 0.9  # by which the mean of the target's outputs stays, in (0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("temperature")
        self._check_positive("target_temperature")
        self._check_number("centre", "in (0, 1]", lambda x: 0 < x <= 1)

    def _heads(self) -> ViewSpec:
        kind = {"layers": 3, "norm": False, "gelu": True, "centre": self.centre}
        return ViewSpec(**self._sizes(), **kind, **self._follows)

    def _measured(self, seen: Seen, weight: Array) -> dict[str, Array]:
        sharp = jax.nn.softmax((seen.target - seen.centre) / self.target_temperature, axis=-1)
        found = [
            losses.cross_entropy(sharp[:, t], seen.online[:, s], self.temperature)
            for t, s in pairs(seen)
        ]
        return {"loss": mean(found)}
