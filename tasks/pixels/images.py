"""Pictures read pixel by pixel: grey and colour CIFAR-10, MNIST, permuted MNIST.

`image` is Long Range Arena's task (Tay et al. 2020, arXiv 2011.04006), `scifar`, `smnist` and
`psmnist` its relatives. Files: CIFAR-10's binary version or the hub's Parquet; MNIST's idx files or
the hub's Parquet. (CIFAR-10's Python version is a pickle, which can run code, and is not read.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.folders import HUGGING_FACE, folder_of, missing
from seqzoo.tasks.data.parquet import split_files
from seqzoo.tasks.data.stored import Hub, Part, StoredTask, check_class
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.pixels.image_files import BinaryRows, IdxRows, cifar_files, idx_files
from seqzoo.tasks.pixels.pictures import read_png
from seqzoo.tasks.protocols import ProtocolTask
from seqzoo.tasks.task import Example

Pixels = Literal["continuous", "tokens"]
CIFAR_CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]
MEAN = np.float32([0.4914, 0.4822, 0.4465])  # of CIFAR-10's colours, in [0, 1]
STD = np.float32([0.247, 0.243, 0.261])
GREY_MEAN, GREY_STD = 122.6 / 255, 61.0 / 255


class PngRow:
    """Reads a hub row with a PNG picture of a given size."""

    def __init__(self, image: str, side: int, channels: int):
        self.image, self.side, self.channels = image, side, channels
        self.columns = (image, "label")

    def __call__(self, values: Mapping[str, Any]) -> cache.Row:
        """Raises ValueError for a picture or label that is wrong."""
        target = check_class(values["label"], 10)
        content = (values[self.image] or {}).get("bytes")
        if not content:
            raise ValueError("an empty picture")
        pixels = read_png(content)
        if pixels.shape != (self.side, self.side, self.channels):
            raise ValueError(
                f"a picture of shape {pixels.shape}; it must be "
                f"{(self.side, self.side, self.channels)}"
            )
        return {"pixels": pixels.ravel(), "target": target}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cifar(StoredTask):
    """CIFAR-10; rows hold 32 x 32 x 3 bytes."""

    classes: ClassVar[tuple[str, ...]] = tuple(CIFAR_CLASSES)
    hub: ClassVar[Hub] = Hub("uoft-cs/cifar10", "plain_text")
    balance: ClassVar[Mapping[str, tuple[int, ...]]] = {"train": (5000,) * 10, "test": (1000,) * 10}
    fetch: ClassVar[str] = (
        "cifar-10-binary.tar.gz (170 MB) from https://www.cs.toronto.edu/~kriz/cifar.html, which "
        "need not be unpacked, or the Parquet files of uoft-cs/cifar10 (about 140 MB) from the "
        "Hugging Face hub; or let `datasets` download these with --data.data huggingface"
    )

    train_size: int = 45_000
    validation_size: int = 5_000
    test_size: int = 10_000

    @property
    def _dataset(self) -> str:
        return "cifar10"

    def part(self, name: str) -> Part:
        """The binary version, or Parquet."""
        convert, paths = PngRow("img", 32, 3), []
        if self.data != HUGGING_FACE:
            root = folder_of(self.name, self.data, self.fetch)
            binary = cifar_files(root, name)
            if binary:
                return self._files_part(name, binary, lambda: BinaryRows(binary, name))
            paths = split_files(root, name)
            if not paths:
                raise missing(self.name, root, self.fetch)
        return self._table_part(name, convert, paths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(_Cifar, ProtocolTask):
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

    def example(self, row: cache.Row) -> Example:
        """Tokens, or (x - 122.6) / 61 in grey levels."""
        grey = to_grey(row["pixels"].reshape(-1, 3), self.setting("grey"))
        return pixel_example(self, grey, row["target"], GREY_MEAN, GREY_STD)

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The picture and its class."""
        grey = pixel_values(self, example, GREY_MEAN, GREY_STD).reshape(32, 32)
        return f"{shades.picture(grey)}\n{self.classes[int(example['targets'])]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialCifar(_Cifar):
    """sCIFAR: CIFAR-10 in colour, 1024 pixels of three numbers.

    As tokens, for modelling the pixels themselves: 3072 of them, the channels of a pixel in a row.
    """

    name: ClassVar[str] = "scifar"
    description: ClassVar[str] = "class of a colour CIFAR-10 picture, 1024 pixels"
    cite: ClassVar[str] = "Krizhevsky 2009; Gu et al. 2022, arXiv 2111.00396"

    pixels: Pixels = "continuous"  # three standardised numbers a pixel, or 256 ids a channel

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pixels(self)

    @property
    def spec(self) -> ModelSpec:
        """One of ten classes from 1024 pixels of three channels."""
        if self.pixels == "tokens":
            return ModelSpec(head="classify", vocab_size=256, outputs=10, length=3072)
        return ModelSpec(head="classify", features=3, outputs=10, length=1024)

    def example(self, row: cache.Row) -> Example:
        """Each channel standardised by its published mean and deviation, or as it is."""
        if self.pixels == "tokens":
            return {"inputs": row["pixels"].astype(np.int32), "targets": np.int32(row["target"])}
        pixels = row["pixels"].reshape(-1, 3).astype(np.float32) / 255
        return {"inputs": (pixels - MEAN) / STD, "targets": np.int32(row["target"])}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The picture's brightness and its class."""
        inputs = np.asarray(example["inputs"])
        tokens = self.pixels == "tokens"
        pixels = inputs.reshape(-1, 3) / np.float32(255) if tokens else inputs * STD + MEAN
        grey = (pixels @ np.float32([0.299, 0.587, 0.114])).reshape(32, 32)
        return f"{shades.picture(grey)}\n{self.classes[int(example['targets'])]}"


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

    train_size: int = 54_000
    validation_size: int = 6_000
    test_size: int = 10_000
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


def to_grey(pixels: UInt8[np.ndarray, "L 3"], rounding: str) -> UInt8[np.ndarray, "L"]:
    """Luminance in 8 bits, as Pillow or TensorFlow round it."""
    if rounding == "pil":
        weighted = pixels.astype(np.int32) @ np.array([19595, 38470, 7471], np.int32)
        return ((weighted + 0x8000) >> 16).astype(np.uint8)
    weights = np.float32([0.2989, 0.5870, 0.1140])
    grey = pixels.astype(np.float32) / 255 @ weights
    return np.clip(grey * np.float32(255.5), 0, 255).astype(np.uint8)


def check_pixels(task: StoredTask) -> None:
    """Raises ValueError for another kind of pixels."""
    if task.pixels not in get_args(Pixels):
        raise ValueError(
            f"task {task.name}: pixels must be 'continuous' or 'tokens'; got {task.pixels!r}"
        )


def pixel_spec(task: ProtocolTask, length: int, classes: int) -> ModelSpec:
    """A picture as 256 tokens, or as one number a step; a token in front where it is read out."""
    common = {"head": "classify", "outputs": classes, "pooling": task._pooling}
    if task.setting("pixels") == "tokens":
        return ModelSpec(vocab_size=256 + task.cls, length=length + task.cls, **common)
    return ModelSpec(features=1, length=length, **common)


def pixel_example(
    task: ProtocolTask, grey: UInt8[np.ndarray, "L"], target: int, mean: float, std: float
) -> Example:
    """Grey values as `pixel_spec` says."""
    if task.setting("pixels") == "tokens":
        inputs = grey.astype(np.int32)
        inputs = np.concatenate([[256], inputs]).astype(np.int32) if task.cls else inputs
    else:
        inputs = (grey.astype(np.float32)[:, None] / 255 - np.float32(mean)) / np.float32(std)
    return {"inputs": inputs, "targets": np.int32(target)}


def pixel_values(
    task: ProtocolTask, example: Mapping[str, np.ndarray], mean: float, std: float
) -> Float32[np.ndarray, "L"]:
    """The grey values of `pixel_example`, in [0, 1]."""
    inputs = np.asarray(example["inputs"])
    if task.setting("pixels") == "tokens":
        return inputs[int(task.cls) :].astype(np.float32) / 255
    return inputs[:, 0] * np.float32(std) + np.float32(mean)
