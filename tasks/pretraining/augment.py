"""Views of a row: parts of it, with something hidden, moved or changed.

A picture that is laid out as a row is cut and stretched, mirrored and lit as a picture; a series is
cut and stretched in time; of tokens a part is taken as it is. All draws are the caller's.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import Picture

TALL = 4 / 3  # the most that a cut picture's sides are stretched against each other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strengths:
    """How much a view may differ from its row; 0 (crop: 1) leaves it as it is."""

    crop: float = 1.0  # least share of the row, of a picture's area, that is kept
    mask: float = 0.0  # share of the inputs that are hidden
    jitter: float = 0.0  # deviation of noise, in units of the row's own
    shift: float = 0.0  # most that a row is turned by, as a share of its length
    channels: float = 0.0  # chance of each channel to be 0
    flip: float = 0.0  # chance of a picture to be mirrored
    brightness: float = 0.0  # most that contrast and brightness of a picture change


SERIES = Strengths(crop=0.5, mask=0.1, jitter=0.1, shift=0.1, channels=0.1)
TOKENS = Strengths(crop=0.6, mask=0.15)
PICTURES = Strengths(crop=0.4, brightness=0.4)


class Row(NamedTuple):
    """Inputs and which of them are real, first to last."""

    inputs: np.ndarray  # [L] or [L, F]
    ids: Int[np.ndarray, "L"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Makes views of the rows of a task.

    Args:
        strengths: how much.
        vocab: number of tokens, one more being the mask; None: real vectors.
        picture: how rows are laid out, if they are pictures.
        lead: inputs in front that are no part of the row and stay.
    """

    strengths: Strengths
    vocab: int | None
    picture: Picture | None
    lead: int = 0

    def __call__(self, row: Row, least: float, most: float, draws: Draws) -> Row:
        """A view that keeps a share from `least` to `most` of what is cut."""
        real = np.flatnonzero(row.ids > 0)[self.lead :]
        kept = Row(row.inputs.copy(), row.ids.copy())
        if not len(real):
            return kept
        share = least + (most - least) * draws.uniform(1)[0]
        if self.picture is not None:
            kept.inputs[real] = self._picture(kept.inputs[real], share, draws)
        elif self.vocab is not None:
            kept = _part(kept, real, share, draws)
            real = np.flatnonzero(kept.ids > 0)[self.lead :]
        else:
            kept.inputs[real] = _stretched(kept.inputs[real], share, draws)
        kept.inputs[real] = self._changed(kept.inputs[real], draws)
        return kept

    def _changed(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        """What suits any row."""
        s = self.strengths
        if s.shift:
            most = int(s.shift * len(x))
            x = np.roll(x, draws.below(2 * most + 1) - most, axis=0)
        if s.jitter and self.vocab is None:
            noise = draws.normal(x.size).reshape(x.shape)
            x = (x + s.jitter * x.std(0) * noise).astype(x.dtype)
        if s.channels and self.vocab is None and x.shape[1] > 1:
            x = np.where(draws.uniform(x.shape[1]) < s.channels, 0, x).astype(x.dtype)
        if s.mask:
            hidden = draws.subset(len(x), min(round(s.mask * len(x)), len(x)))
            x = x.copy()
            x[hidden] = 0 if self.vocab is None else self.vocab
        return x

    def _picture(self, x: np.ndarray, share: float, draws: Draws) -> np.ndarray:
        height, width, order = self.picture.height, self.picture.width, self.picture.order
        flat = np.empty(x.shape, np.float64)
        flat[order] = x
        grid = flat.reshape(height, width, -1)
        made = _resized(grid, share, draws)
        if self.strengths.flip and draws.chance(self.strengths.flip):
            made = made[:, ::-1]
        if self.strengths.brightness:
            contrast, light = self.strengths.brightness * (2 * draws.uniform(2) - 1)
            middle, range_ = made.mean(), grid.max() - grid.min()
            made = middle + (1 + contrast) * (made - middle) + light * range_ / 2
        if self.vocab is not None:
            made = np.clip(np.rint(made), 0, self.picture.levels - 1)
        return made.reshape(x.shape)[order].astype(x.dtype)


def _part(row: Row, real: np.ndarray, share: float, draws: Draws) -> Row:
    """Tokens of a part of the row, moved to where it began; what is free is padding."""
    keep = max(1, round(share * len(real)))
    first = draws.below(len(real) - keep + 1)
    inputs, ids = row.inputs.copy(), row.ids.copy()
    inputs[real[:keep]] = row.inputs[real[first : first + keep]]
    inputs[real[keep:]], ids[real[keep:]] = 0, 0
    return Row(inputs, ids)


def _stretched(x: Float[np.ndarray, "N F"], share: float, draws: Draws) -> np.ndarray:
    """A part of a series, as long as the whole by linear interpolation."""
    return _part_of(x, share, draws.uniform(1)[0]).astype(x.dtype)


def _resized(grid: Float[np.ndarray, "H W C"], share: float, draws: Draws) -> np.ndarray:
    """A part of a picture with this share of its area, as large as the whole."""
    form, down, across = draws.uniform(3)
    ratio = min(TALL, 1 / share) ** (2 * form - 1)  # no side is longer than the whole
    for part, place in ((share * ratio, down), (share / ratio, across)):
        grid = _part_of(grid, min(part, 1.0) ** 0.5, place).swapaxes(0, 1)
    return grid


def _part_of(x: Float[np.ndarray, "N ..."], share: float, place: float) -> np.ndarray:
    """A share of x along its first axis, at `place` from 0 to 1, stretched to the whole."""
    last = len(x) - 1
    places = (1 - share) * last * place + share * np.arange(last + 1)
    low = np.minimum(places.astype(int), max(last - 1, 0))
    high = np.minimum(low + 1, last)
    part = (places - low).reshape(-1, *[1] * (x.ndim - 1))
    return x[low] + part * (x[high] - x[low])
