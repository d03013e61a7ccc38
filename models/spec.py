"""What a task needs of a model: plain data, so that tasks import no model code."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from jaxtyping import Array, Float

Head = Literal["lm", "classify", "two_tower", "regress", "autoencode", "contrast", "views"]
Pooling = Literal["mean", "last", "first"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """What stands behind an encoder that sees several views of each example.

    A projector everywhere; on it a predictor, or prototypes, or nothing. The target is a copy that
    follows with momentum, or what the encoder itself gives, without a gradient.
    """

    views: int  # rows of an example
    targets: int  # of them, the first ones, that the target is of
    hidden: int  # width of the hidden layers of projector and predictor
    layers: int = 2  # of the projector
    norm: bool = True  # batch norms behind hidden layers
    last_norm: bool = False  # and behind the projector's last one
    gelu: bool = False  # in place of relu
    predictor: int = 0  # its hidden width; 0: none
    prototypes: int = 0  # unit vectors that projections are compared with; 0: none
    momentum: float | None = None  # by which the target's weights stay; None: no weights of its own
    momentum_steps: int = 0  # in which that rises to 1 by a cosine; 0: it stays
    queue: int = 0  # newest targets that are kept; 0: none
    centre: float = 0.0  # by which the mean of the targets stays; 0: none


class Seen(NamedTuple):
    """What a model of views gives, for a loss; nothing of it but the first two has a gradient."""

    embedded: Float[Array, "B V E"]  # what the projector makes of each view
    online: Float[Array, "B V O"]  # what predictor or prototypes make of that
    target: Float[Array, "B T O"]  # the same of the target, without a predictor
    queue: Float[Array, "K E"] | None  # targets of earlier batches, of norm 1, newest first
    centre: Float[Array, "O"] | None  # the mean of targets of earlier batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Inputs and outputs of a task's model.

    Exactly one of `vocab_size` (integer tokens [B, L], ids below it) and `features` (real inputs
    [B, L, features]) is given. `outputs` counts classes, tokens or regression channels.
    """

    head: Head  # lm, regress, autoencode: one output a position; classify, two_tower: one a row
    outputs: int
    length: int  # longest row
    vocab_size: int | None = None
    features: int | None = None
    packed: bool = False  # rows may hold several segments
    causal: bool = False  # no output may see a later input: it would see what it is to predict
    patch: int = 0  # contrast: inputs of a patch
    steps: int = 0  # contrast: patches ahead that are predicted
    views: ViewSpec | None = None  # views
    pooling: Pooling | None = None  # where the task prescribes it, in place of the backbone's

    def __post_init__(self) -> None:
        if (self.vocab_size is None) == (self.features is None):
            raise ValueError(
                "a ModelSpec needs vocab_size (tokens) or features (real inputs), not both; got "
                f"{self.vocab_size=}, {self.features=}"
            )
