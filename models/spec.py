"""What a task needs of a model: plain data, so that tasks import no model code."""

from __future__ import annotations

import dataclasses
from typing import Literal

Head = Literal["lm", "classify", "two_tower", "regress", "autoencode", "contrast"]
Pooling = Literal["mean", "last", "first"]


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
    pooling: Pooling | None = None  # where the task prescribes it, in place of the backbone's

    def __post_init__(self) -> None:
        if (self.vocab_size is None) == (self.features is None):
            raise ValueError(
                "a ModelSpec needs vocab_size (tokens) or features (real inputs), not both; got "
                f"{self.vocab_size=}, {self.features=}"
            )
