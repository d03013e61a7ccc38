"""Small real pictures that need no network: the 8 x 8 digits that scikit-learn brings along."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.stored import Part, StoredTask, Subset
from seqzoo.tasks.data.streams import words
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.pixels.encoding import Pixels, check_pixels
from seqzoo.tasks.task import SPLITS, Example, Needs, Picture, Split

PIXELS = 64
BRIGHTEST = 16
PACKAGE = "scikit-learn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialDigits(StoredTask):
    """1797 handwritten digits, pixel by pixel; a fixed random split of our own."""

    name: ClassVar[str] = "sdigits"
    description: ClassVar[str] = "class of a handwritten 8 x 8 digit, 64 pixels (no download)"
    cite: ClassVar[str] = "Alpaydin and Kaynak 1998, UCI; scikit-learn's load_digits"
    needs: ClassVar[Needs] = "package"
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    fetch: ClassVar[str] = "scikit-learn: pip install scikit-learn"
    balance: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "all": (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    }

    train_size: int = 1257  # examples to train on
    validation_size: int = 180  # examples of the validation split
    test_size: int = 360  # examples of the test split
    pixels: Pixels = "continuous"  # numbers in [0, 1], or 17 ids
    data: str = PACKAGE  # there is no other place

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data != PACKAGE:
            raise ValueError(f"task {self.name}: data must be {PACKAGE!r}; got {self.data!r}")
        check_pixels(self)

    @property
    def _dataset(self) -> str:
        return "digits"

    def part_of(self, split: Split) -> str:
        """The digits are one set."""
        return "all"

    def expected(self, name: str) -> tuple[int, str]:
        """All three splits."""
        return sum(getattr(self, f"{split}_size") for split in SPLITS), "the sum of the three sizes"

    def split_rows(self, split: Split) -> Subset:
        """Shares of one fixed order."""
        rows = self.rows("all")
        first, second = self.test_size, self.test_size + self.validation_size
        cuts = {
            "test": slice(first),
            "validation": slice(first, second),
            "train": slice(second, None),
        }
        return Subset(rows, self._order(len(rows))[cuts[split]])

    def part(self, name: str) -> Part:
        """All digits, of the package."""
        return Part({"task": "digits", "split": name, "reader": 1}, read_digits)

    @property
    def spec(self) -> ModelSpec:
        """One of ten classes from 64 pixels."""
        inputs = {"vocab_size": BRIGHTEST + 1} if self.pixels == "tokens" else {"features": 1}
        return ModelSpec(head="classify", outputs=10, length=PIXELS, **inputs)

    @property
    def order(self) -> np.ndarray:
        """The pixel that is read at each step."""
        return np.arange(PIXELS)

    @property
    def picture(self) -> Picture:
        """8 x 8 pixels in their order; a mirrored digit is none."""
        return Picture(8, 8, self.order, levels=BRIGHTEST + 1)

    def example(self, row: cache.Row) -> Example:
        """Brightness in [0, 1], or 0 to 16, in reading order."""
        pixels = row["pixels"][self.order]
        if self.pixels == "tokens":
            inputs = pixels.astype(np.int32)
        else:
            inputs = pixels.astype(np.float32)[:, None] / BRIGHTEST
        return {"inputs": inputs, "targets": np.int32(row["target"])}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The picture, every pixel in its place, and its class."""
        pixels = np.empty(PIXELS, np.float32)
        inputs = np.asarray(example["inputs"])
        pixels[self.order] = inputs / BRIGHTEST if self.pixels == "tokens" else inputs[:, 0]
        return f"{shades.picture(pixels.reshape(8, 8))}\n{int(example['targets'])}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PermutedDigits(SequentialDigits):
    """The digits with their pixels in one fixed random order."""

    name: ClassVar[str] = "psdigits"
    description: ClassVar[str] = "sdigits with the pixels in a fixed random order (no download)"

    @property
    def order(self) -> np.ndarray:
        """A permutation of our own; there is no published one."""
        return words(PIXELS, "permuted digits").argsort(kind="stable")


def read_digits() -> list[cache.Row]:
    """The digits of scikit-learn. Raises FileNotFoundError where it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FileNotFoundError(
            "the tasks sdigits and psdigits read scikit-learn's digits: pip install scikit-learn"
        ) from error
    pixels, targets = load_digits(return_X_y=True)
    return [
        {"pixels": x.astype(np.uint8), "target": np.uint8(y)}
        for x, y in zip(pixels, targets, strict=True)
    ]
