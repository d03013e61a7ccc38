"""CIFAR-10, and its colour pictures pixel by pixel; the grey ones are in `lra/image.py`.

Files: the binary version as published or unpacked, or the hub's Parquet. (The Python version is a
pickle, which can run code, and is not read.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.archives import tar_members
from seqzoo.tasks.data.damage import HEAD, damaged
from seqzoo.tasks.data.folders import HUGGING_FACE, check_sum, folder_of, missing, per_file
from seqzoo.tasks.data.parquet import split_files
from seqzoo.tasks.data.stored import Hub, Part, StoredTask, check_class
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.pixels.encoding import Pixels, check_pixels
from seqzoo.tasks.pixels.pictures import PngRow
from seqzoo.tasks.task import Example, Picture

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
CIFAR_ARCHIVE, CIFAR_FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR_NAMES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_BATCH = 10_000  # records of a file; the published size of the archive
CIFAR_BYTES = 170_052_171


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cifar(StoredTask):
    """CIFAR-10; rows hold 32 x 32 x 3 bytes."""

    classes: ClassVar[tuple[str, ...]] = tuple(CIFAR_CLASSES)
    hub: ClassVar[Hub] = Hub("uoft-cs/cifar10", "plain_text")
    balance: ClassVar[Mapping[str, tuple[int, ...]]] = {"train": (5000,) * 10, "test": (1000,) * 10}
    fetch: ClassVar[str] = (
        "cifar-10-binary.tar.gz (170 MB) from https://www.cs.toronto.edu/~kriz/cifar.html, which "
        "need not be unpacked, or the Parquet files of uoft-cs/cifar10 (about 140 MB) from the "
        "Hugging Face hub; or let `datasets` download these with --data.data huggingface"
    )

    train_size: int = 45_000  # examples to train on
    validation_size: int = 5_000  # examples of the validation split
    test_size: int = 10_000  # examples of the test split

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
class SequentialCifar(Cifar):
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

    @property
    def picture(self) -> Picture | None:
        """32 x 32 pixels; None as tokens, of which three make a pixel."""
        if self.pixels == "tokens":
            return None
        return Picture(32, 32, np.arange(1024), mirrored=True)

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


def cifar_files(root: Path, part: str) -> list[Path]:
    """The files of a part below a folder: unpacked, or the archive; empty if there are none.

    Raises ValueError where there is the Python version only.
    """
    for folder in (root / CIFAR_FOLDER, root):
        found = [folder / name for name in CIFAR_NAMES[part] if (folder / name).is_file()]
        if found:
            return found
    archive = root if root.name == CIFAR_ARCHIVE else root / CIFAR_ARCHIVE
    if archive.is_file():
        return [archive]
    if (root / "cifar-10-batches-py").is_dir() or (root / "data_batch_1").is_file():
        raise ValueError(
            f"{root} holds CIFAR-10's Python version, a pickle, which could run code and is not "
            f"read; fetch {CIFAR_ARCHIVE} from the same page"
        )
    return []


class BinaryRows:
    """Records of CIFAR-10's binary files: a label, then the red, green and blue planes."""

    def __init__(self, files: list[Path], part: str):
        self._files, self._part = tuple(files), part
        self._records = _cifar_records(self._files, part)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> cache.Row:
        record = self._records[index]
        try:
            target = check_class(int(record[0]), 10)
        except ValueError as error:
            places = ", ".join(map(str, self._files))
            raise ValueError(f"{places}, record {index}: {error}") from error
        return {"pixels": record[1:].reshape(3, -1).T.ravel(), "target": target}

    def __reduce__(self):
        return BinaryRows, (list(self._files), self._part)


@per_file
def _cifar_records(files: tuple[Path, ...], part: str) -> UInt8[np.ndarray, "records bytes"]:
    if files[0].name != CIFAR_ARCHIVE:
        contents = {str(path): path.read_bytes() for path in files}
    else:
        if files[0].stat().st_size == CIFAR_BYTES:
            check_sum(files[0], "md5", CIFAR_MD5)
        found = tar_members(files[0], lambda name: Path(name).name in CIFAR_NAMES[part])
        inside = {Path(name).name: data for name, data in found.items()}
        lacking = [name for name in CIFAR_NAMES[part] if name not in inside]
        if lacking:
            raise ValueError(f"{files[0]} has no {', '.join(lacking)}")
        contents = {f"{files[0]}:{name}": inside[name] for name in CIFAR_NAMES[part]}
    for name, content in contents.items():
        if not content or len(content) % CIFAR_RECORD:
            cut = f"{len(content)} bytes; records have {CIFAR_RECORD}"
            raise damaged(name, "a batch of CIFAR-10's binary version", content[:HEAD], cut)
    joined = b"".join(contents.values())
    return np.frombuffer(joined, np.uint8).reshape(-1, CIFAR_RECORD)
