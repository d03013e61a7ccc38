"""Text on disk: bytes in documents, read from files, folders, archives and Parquet.

A `Corpus` is the bytes of one split in order, with the places where its documents begin. Large
collections are written together once, to the cache, and mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from seqzoo.tasks.data import cache
from seqzoo.tasks.data.atomic import new_folder

LARGE = 2**28  # bytes from which a collection is kept in the cache rather than in memory
SPLIT = 20  # of as many files in a row, one is for validation and one for test


class Corpus(NamedTuple):
    """The bytes of a split; document i is `data[starts[i] : starts[i + 1]]`."""

    data: UInt8[np.ndarray, "bytes"]
    starts: Int64[np.ndarray, "documents_and_end"]

    @classmethod
    def one(cls, data: UInt8[np.ndarray, "bytes"]) -> Corpus:
        """A single document."""
        return cls(data, np.array([0, len(data)]))

    def documents(self) -> Iterator[bytes]:
        """Each document's bytes."""
        for begin, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield self.data[begin:end].tobytes()

    def head(self, size: int) -> Corpus:
        """The first `size` bytes."""
        starts = np.append(self.starts[self.starts < size], min(size, len(self.data)))
        return Corpus(self.data[:size], starts)


def mapped(path: Path) -> UInt8[np.ndarray, "bytes"]:
    """A file's bytes, mapped into memory."""
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "r")


def unzipped(path: Path, member: str) -> bytes:
    """The one file of a zip archive that is called `member`; nothing is unpacked.

    Raises ValueError where the archive does not hold exactly one.
    """
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.rpartition("/")[2] == member]
        if len(found) != 1:
            held = ", ".join(archive.namelist()[:5])
            raise ValueError(f"{path} should hold one {member}; it holds {held}")
        return archive.read(found[0])


def joined(documents: Iterable[bytes]) -> Corpus:
    """Documents one after another, in memory."""
    kept = [np.frombuffer(document, np.uint8) for document in documents]
    starts = np.cumsum([0, *map(len, kept)], dtype=np.int64)
    return Corpus(np.concatenate(kept) if kept else np.zeros(0, np.uint8), starts)


def joined_files(files: Sequence[Path]) -> Corpus:
    """Files one after another, each a document; large collections through the cache."""
    if sum(path.stat().st_size for path in files) < LARGE:
        return joined(path.read_bytes() for path in files)
    return kept(files, "files", (path.read_bytes() for path in files))


def kept(files: Sequence[Path], what: str, documents: Iterable[bytes]) -> Corpus:
    """`joined`, written once to the cache under a digest of the files' names, sizes and times."""
    data, starts = kept_arrays(f"text-{what}-{fingerprint(files)}", np.uint8, _chunks(documents))
    return Corpus(data, starts)


def kept_arrays(
    name: str, dtype: type, chunks: Iterable[np.ndarray]
) -> tuple[np.ndarray, Int64[np.ndarray, "chunks_and_end"]]:
    """Chunks one after another in the cache folder `name`, and where each begins.

    Made by whichever process is first, whole or not at all; mapped into memory.
    """
    final = cache.folder() / name
    if not final.is_dir():
        with new_folder(final) as partial:
            _write(partial, dtype, chunks)
    starts = np.load(final / "starts.npy", allow_pickle=False)
    raw = mapped(final / "data.bin").view(dtype)
    if len(raw) != starts[-1]:
        raise ValueError(f"{final} is damaged; delete this folder, and it is made again")
    return raw, starts


def _write(folder: Path, dtype: type, chunks: Iterable[np.ndarray]) -> None:
    lengths = [0]
    with (folder / "data.bin").open("wb") as file:
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype).tobytes())
            lengths.append(len(chunk))
    np.save(folder / "starts.npy", np.cumsum(lengths, dtype=np.int64))


def _chunks(documents: Iterable[bytes]) -> Iterator[np.ndarray]:
    return (np.frombuffer(document, np.uint8) for document in documents)


def fingerprint(files: Sequence[Path]) -> str:
    """A digest of names, sizes and times of change; content is not read."""
    facts = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=10).hexdigest()


def content_digest(root: Path, files: Sequence[Path]) -> str:
    """sha256 over path below `root`, size and bytes of every file, in the order given."""
    total = hashlib.sha256()
    for path in files:
        data = path.read_bytes()
        total.update(f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()


def files_below(root: Path, pattern: str, without: Sequence[str] = ()) -> list[Path]:
    """Files under `root` that match, by path; without hidden ones and folders `without`."""

    def wanted(path: Path) -> bool:
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") for part in parts)
        return not hidden and not set(parts[:-1]) & set(without) and path.is_file()

    found = [path for path in root.rglob(pattern) if wanted(path)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def of_split(files: Sequence[Path], split: str) -> list[Path]:
    """Of each twenty files in a row, the 19th is validation and the 20th test: 90, 5 and 5%."""
    place = {"validation": SPLIT - 2, "test": SPLIT - 1}
    if split in place:
        return [path for i, path in enumerate(files) if i % SPLIT == place[split]]
    return [path for i, path in enumerate(files) if i % SPLIT not in place.values()]


def cut(data: UInt8[np.ndarray, "bytes"], split: str) -> UInt8[np.ndarray, "part"]:
    """The first 90, next 5 or last 5% of some bytes."""
    first, second = len(data) * 18 // 20, len(data) * 19 // 20
    ranges = {"train": (0, first), "validation": (first, second), "test": (second, len(data))}
    begin, end = ranges[split]
    return data[begin:end]


def parquet_files(root: Path, folders: Sequence[str], split: str) -> list[Path]:
    """The Parquet files of a split in the first of `folders` (or `root` itself) that has any."""
    for folder in (*folders, "."):
        base = root / folder
        found = sorted({*base.glob(f"{split}-*.parquet"), *base.glob(f"{split}/*.parquet")})
        if found:
            return found
    return []


def parquet_column(files: Sequence[Path], column: str) -> Iterator[bytes]:
    """The values of a text column as UTF-8, row by row, through all files.

    Raises ValueError where a file lacks the column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise ValueError(f"{path} has no column {column!r}; it has {', '.join(names)}")
            for batch in file.iter_batches(columns=[column], batch_size=256):
                for value in batch.column(0).cast(pa.large_binary()):
                    yield value.as_py() or b""
