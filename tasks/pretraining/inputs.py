"""Inputs from other inputs of their row: the next token, and hidden ones."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.pretraining.base import Pretraining
from seqzoo.tasks.protocols import PROTOCOLS
from seqzoo.tasks.task import IGNORED, Example, Split, check_count

BERT_SHARE = 0.15  # of the inputs that are asked for


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

    rate: float | None = None  # share of the inputs, at least one; None: the protocol's, or 0.15
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


def _labels(inputs: np.ndarray, labelled: np.ndarray, tokens: bool) -> Example:
    if tokens:
        return {"targets": np.where(labelled, inputs, IGNORED).astype(np.int32)}
    return {"targets": inputs.astype(np.float32), "labelled": labelled.astype(np.float32)}
