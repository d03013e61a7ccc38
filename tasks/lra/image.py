"""Long Range Arena's Image: CIFAR-10 in grey, pixel by pixel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.stored import StoredTask
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.pixels.cifar import Cifar
from seqzoo.tasks.pixels.encoding import pixel_example, pixel_spec, pixel_values
from seqzoo.tasks.protocols import ProtocolTask
from seqzoo.tasks.task import Example, Picture

GREY_MEAN, GREY_STD = 122.6 / 255, 61.0 / 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(Cifar, ProtocolTask):
    """Long Range Arena's Image: CIFAR-10 in grey, 1024 pixels row by row.

    Tokens are grey values 0..255 without a padding id; unlike in the original code black pixels are
    not masked. The validation split is ours: the original's is the last tenth in an order that
    TensorFlow Datasets chose, or one drawn by PyTorch.
    """

    name: ClassVar[str] = "image"
    description: ClassVar[str] = "class of a grey CIFAR-10 picture, 1024 pixels (LRA)"
    cite: ClassVar[str] = "Krizhevsky 2009; Tay et al. 2020, arXiv 2011.04006"
    family: ClassVar[str] = "image"
    settled: ClassVar[tuple[str, ...]] = ("pixels", "grey", "pooling")

    pixels: Literal["tokens", "continuous"] | None = None  # 256 ids, or standardised numbers
    grey: Literal["pil", "tensorflow"] | None = None  # whose rounding of the luminance

    def __post_init__(self) -> None:
        StoredTask.__post_init__(self)
        ProtocolTask.__post_init__(self)

    @property
    def spec(self) -> ModelSpec:
        """One of ten classes from 1024 pixels."""
        return pixel_spec(self, 1024, 10)

    @property
    def picture(self) -> Picture:
        """32 x 32 pixels."""
        return Picture(32, 32, np.arange(1024), mirrored=True)

    def example(self, row: cache.Row) -> Example:
        """Tokens, or (x - 122.6) / 61 in grey levels."""
        grey = to_grey(row["pixels"].reshape(-1, 3), self.setting("grey"))
        return pixel_example(self, grey, row["target"], GREY_MEAN, GREY_STD)

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The picture and its class."""
        grey = pixel_values(self, example, GREY_MEAN, GREY_STD).reshape(32, 32)
        return f"{shades.picture(grey)}\n{self.classes[int(example['targets'])]}"


def to_grey(pixels: UInt8[np.ndarray, "L 3"], rounding: str) -> UInt8[np.ndarray, "L"]:
    """Luminance in 8 bits, as Pillow or TensorFlow round it."""
    if rounding == "pil":
        weighted = pixels.astype(np.int32) @ np.array([19595, 38470, 7471], np.int32)
        return ((weighted + 0x8000) >> 16).astype(np.uint8)
    weights = np.float32([0.2989, 0.5870, 0.1140])
    grey = pixels.astype(np.float32) / 255 @ weights
    return np.clip(grey * np.float32(255.5), 0, 255).astype(np.uint8)
