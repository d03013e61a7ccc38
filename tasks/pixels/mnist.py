"""MNIST's digits pixel by pixel, in order or permuted; from idx files or the hub's Parquet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.archives import gunzipped
from seqzoo.tasks.data.damage import HEAD, damaged
from seqzoo.tasks.data.folders import HUGGING_FACE, check_sum, folder_of, missing, per_file
from seqzoo.tasks.data.parquet import split_files
from seqzoo.tasks.data.stored import Hub, Part, StoredTask, check_class
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.pixels.encoding import Pixels, check_pixels
from seqzoo.tasks.pixels.pictures import PngRow
from seqzoo.tasks.task import Example, Picture

IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
IDX_MD5 = {  # of the compressed files
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
IDX_BYTES = {  # of the compressed files
    "train-images-idx3-ubyte.gz": 9_912_422,
    "train-labels-idx1-ubyte.gz": 28_881,
    "t10k-images-idx3-ubyte.gz": 1_648_877,
    "t10k-labels-idx1-ubyte.gz": 4_542,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialMnist(StoredTask):
    """sMNIST: handwritten digits, 784 pixels."""

    name: ClassVar[str] = "smnist"
    description: ClassVar[str] = "class of an MNIST digit, 784 pixels"
    cite: ClassVar[str] = "LeCun et al. 1998; Le et al. 2015, arXiv 1504.00941"
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    hub: ClassVar[Hub] = Hub("ylecun/mnist", "mnist")
    balance: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    }
    fetch: ClassVar[str] = (
        "MNIST's four files *-ubyte.gz (12 MB) from any mirror (their MD5 sums are checked), or "
        "the Parquet files of ylecun/mnist (18 MB) from the Hugging Face hub; or let `datasets` "
        "download these with --data.data huggingface"
    )

    train_size: int = 54_000  # examples to train on
    validation_size: int = 6_000  # examples of the validation split
    test_size: int = 10_000  # examples of the test split
    pixels: Pixels = "continuous"  # a number, or 256 ids
    normalise: Literal["none", "standard"] = "none"  # [0, 1], or less 0.1307 by 0.3081

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pixels(self)

    @property
    def _dataset(self) -> str:
        return "mnist"

    def part(self, name: str) -> Part:
        """The idx files, or Parquet."""
        paths: list[Path] = []
        if self.data != HUGGING_FACE:
            root = folder_of(self.name, self.data, self.fetch)
            idx = idx_files(root, name)
            if idx:
                return self._files_part(name, idx, lambda: IdxRows(*idx))
            paths = split_files(root, name)
            if not paths:
                raise missing(self.name, root, self.fetch)
        return self._table_part(name, PngRow("image", 28, 1), paths)

    @property
    def spec(self) -> ModelSpec:
        """One of ten classes from 784 pixels."""
        inputs = {"vocab_size": 256} if self.pixels == "tokens" else {"features": 1}
        return ModelSpec(head="classify", outputs=10, length=784, **inputs)

    @property
    def order(self) -> np.ndarray:
        """The pixel that is read at each step."""
        return np.arange(784)

    @property
    def picture(self) -> Picture:
        """28 x 28 pixels in their order; a mirrored digit is none."""
        return Picture(28, 28, self.order)

    def example(self, row: cache.Row) -> Example:
        """Pixels in reading order."""
        if self.pixels == "tokens":
            inputs = row["pixels"][self.order].astype(np.int32)
            return {"inputs": inputs, "targets": np.int32(row["target"])}
        pixels = row["pixels"][self.order].astype(np.float32)[:, None] / 255
        if self.normalise == "standard":
            pixels = (pixels - np.float32(0.1307)) / np.float32(0.3081)
        return {"inputs": pixels, "targets": np.int32(row["target"])}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The picture, every pixel in its place, and its class."""
        pixels = np.empty(784, np.float32)
        inputs = np.asarray(example["inputs"])
        pixels[self.order] = inputs / 255 if self.pixels == "tokens" else inputs[:, 0]
        if self.pixels == "continuous" and self.normalise == "standard":
            pixels = pixels * 0.3081 + 0.1307
        return f"{shades.picture(pixels.reshape(28, 28))}\n{int(example['targets'])}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PermutedMnist(SequentialMnist):
    """psMNIST: sMNIST with the pixels in a fixed random order, of which several are published."""

    name: ClassVar[str] = "psmnist"
    description: ClassVar[str] = "class of an MNIST digit, 784 pixels in a fixed random order"

    # bit_reversal: S4 and S5; rs92916: works that S4 compares with; rs0: KerasLMU's notebook
    permutation: Literal["bit_reversal", "rs92916", "rs0"] = "bit_reversal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.permutation not in ("bit_reversal", "rs92916", "rs0"):
            raise ValueError(
                f"task psmnist: unknown permutation {self.permutation!r}; valid: bit_reversal, "
                "rs92916, rs0"
            )

    @property
    def order(self) -> np.ndarray:
        """The pixel that is read at each step."""
        return permutation(self.permutation)


@functools.cache
def permutation(name: str) -> np.ndarray:
    """A published order of 784 pixels."""
    if name == "bit_reversal":
        reversed_ = [int(f"{i:010b}"[::-1], 2) for i in range(1024)]
        return np.array([i for i in reversed_ if i < 784])
    # NumPy promises that its legacy generator will not change.
    return np.random.RandomState(int(name.removeprefix("rs"))).permutation(784)


def idx_files(root: Path, part: str) -> list[Path]:
    """Pictures and labels of a part below a folder, compressed or not; empty if there are none."""
    for folder in (root, root / "raw", root / "MNIST" / "raw"):
        found = []
        for name in IDX_NAMES[part]:
            spellings = (name, f"{name}.gz", name.replace("-idx", ".idx"))
            found += [folder / s for s in spellings if (folder / s).is_file()][:1]
        if len(found) == 2:
            return found
    return []


class IdxRows:
    """Pictures and labels of two idx files."""

    def __init__(self, pictures: Path, labels: Path):
        self._paths = pictures, labels
        self._pixels = read_idx(pictures, 3)
        self._labels = read_idx(labels, 1)
        if len(self._pixels) != len(self._labels) or self._pixels.shape[1:] != (28, 28):
            raise ValueError(
                f"{pictures} has pictures of shape {self._pixels.shape}, {labels} has "
                f"{len(self._labels)} labels; as many of 28 x 28 are needed"
            )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> cache.Row:
        try:
            target = check_class(int(self._labels[index]), 10)
        except ValueError as error:
            raise ValueError(f"{self._paths[1]}, row {index}: {error}") from error
        return {"pixels": self._pixels[index].ravel(), "target": target}

    def __reduce__(self):
        return IdxRows, self._paths


@per_file
def read_idx(path: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    """The bytes of an idx file with so many axes. Raises ValueError where it is damaged."""
    if path.name in IDX_MD5 and path.stat().st_size == IDX_BYTES[path.name]:
        check_sum(path, "md5", IDX_MD5[path.name])
    content = gunzipped(path) if path.suffix == ".gz" else path.read_bytes()
    header, kind = 4 + 4 * axes, f"an idx file of bytes with {axes} axes"
    if len(content) < header or content[:4] != bytes([0, 0, 8, axes]):
        raise damaged(path, kind, content[:HEAD])
    shape = np.frombuffer(content[4:header], ">i4")
    if len(content) - header != np.prod(shape, dtype=np.int64):
        there = f"{len(content) - header} bytes for {tuple(shape.tolist())} entries"
        raise damaged(path, kind, content[:HEAD], there)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
