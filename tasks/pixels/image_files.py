"""CIFAR-10's binary version and MNIST's idx files, as published or unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from seqzoo.tasks.data import cache
from seqzoo.tasks.data.archives import gunzipped, tar_members
from seqzoo.tasks.data.damage import HEAD, damaged
from seqzoo.tasks.data.folders import check_sum, per_file
from seqzoo.tasks.data.stored import check_class

CIFAR_ARCHIVE, CIFAR_FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR_NAMES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_BATCH = 10_000  # records of a file; the published size of the archive
CIFAR_BYTES = 170_052_171

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
