"""Text on disk: bytes in documents, read from files, folders, archives and Parquet.

A `Corpus` is the bytes of one split in order, with the places where its documents begin. Large
collections are written together once, to the cache, and mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from seqzoo.tasks.data.cache_folder import check, entry, new_entry
from seqzoo.tasks.data.cache_folder import damaged as damaged_entry
from seqzoo.tasks.data.damage import BOM, HEAD, LFS_POINTER, damaged

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
    if path.stat().st_size <= HEAD:  # empty files cannot be mapped, and pointers are short
        return np.frombuffer(read(path), np.uint8)
    return np.memmap(path, np.uint8, "r")


def plain(data: UInt8[np.ndarray, "bytes"]) -> UInt8[np.ndarray, "fewer"]:
    """A text without a byte order mark and with plain line ends, whatever it was saved by."""
    begins = data[: 1 << 16].tobytes()
    if not begins.startswith(BOM) and b"\r\n" not in begins:
        return data
    text = data.tobytes().removeprefix(BOM).replace(b"\r\n", b"\n")
    return np.frombuffer(text, np.uint8)


def read(path: Path) -> bytes:
    """A file's bytes. Raises ValueError for a pointer in its place."""
    content = path.read_bytes()
    if content.startswith(LFS_POINTER):
        raise damaged(path, "a text", content[:HEAD])
    return content


def joined(documents: Iterable[bytes]) -> Corpus:
    """Documents one after another, in memory."""
    kept = [np.frombuffer(document, np.uint8) for document in documents]
    starts = np.cumsum([0, *map(len, kept)], dtype=np.int64)
    return Corpus(np.concatenate(kept) if kept else np.zeros(0, np.uint8), starts)


def joined_files(files: Sequence[Path]) -> Corpus:
    """Files one after another, each a document; large collections through the cache."""
    if sum(path.stat().st_size for path in files) < LARGE:
        return joined(map(read, files))
    return kept(files, "files", lambda: map(read, files))


def kept(files: Sequence[Path], what: str, documents: Callable[[], Iterable[bytes]]) -> Corpus:
    """`joined`, written once to the cache under a digest of the files' names, sizes and times."""

    def chunks() -> Iterator[np.ndarray]:
        return (np.frombuffer(document, np.uint8) for document in documents())

    return Corpus(*kept_arrays(f"text-{what}-{fingerprint(files)}", np.uint8, chunks))


def kept_arrays(
    name: str, dtype: type, chunks: Callable[[], Iterable[np.ndarray]]
) -> tuple[np.ndarray, Int64[np.ndarray, "chunks_and_end"]]:
    """Chunks one after another in the cache folder `name`, and where each begins.

    Made by whichever process is first, whole or not at all; mapped into memory. Made in memory
    where nothing can be written.
    """
    path = entry(name) or new_entry(name, lambda folder: _write(folder, dtype, chunks()))
    if path is None:
        parts = [np.ascontiguousarray(chunk, dtype) for chunk in chunks()]
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return (np.concatenate(parts) if parts else np.zeros(0, dtype)), starts
    check(path)
    try:
        starts = np.load(path / "starts.npy", allow_pickle=False)
        raw = mapped(path / "data.bin").view(dtype)
        if len(raw) != starts[-1]:
            raise ValueError(f"{len(raw)} numbers, not {starts[-1]}")
    except (OSError, ValueError, LookupError) as error:
        raise damaged_entry(path, error) from error
    return raw, starts


def _write(folder: Path, dtype: type, chunks: Iterable[np.ndarray]) -> None:
    lengths = [0]
    with (folder / "data.bin").open("wb") as file:
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype).tobytes())
            lengths.append(len(chunk))
    np.save(folder / "starts.npy", np.cumsum(lengths, dtype=np.int64))


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
