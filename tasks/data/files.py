"""Files of published data sets: found in a folder, checked, read without trust in their content.

Nothing here runs code that comes with data: there is no pickle, and an archive's members are read
from it in memory or unpacked where they cannot leave their folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rich.progress import track

from seqzoo.tasks.data.atomic import new_folder
from seqzoo.tasks.data.cache import Key
from seqzoo.tasks.data.places import place

HUGGING_FACE = "huggingface"
BLOCK = 1 << 20


def missing(task: str, looked: str | Path, fetch: str) -> FileNotFoundError:
    """The error for data that is not there; `fetch` says what, how large, from where."""
    where = f"there is nothing of it in {looked}" if str(looked) else "its data is not given"
    return FileNotFoundError(
        f"task {task}: {where}. Fetch {fetch}. "
        "The option data names its folder (--data.data FOLDER)"
    )


def folder_of(task: str, data: str, fetch: str) -> Path:
    """The folder that the user names. Raises FileNotFoundError where there is none."""
    root = place(data) if data else Path()
    if not data or not root.exists():
        raise missing(task, data and root, fetch)
    return root


def files_key(task: str, part: str, files: Sequence[Path], reader: int) -> Key:
    """A cache key for what is read from files: it changes when one of them does."""
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return {"task": task, "split": part, "files": digest.hexdigest(), "reader": reader}


def per_file(function: Callable) -> Callable:
    """Remembers what a function made of files, its first argument, while they are the same."""

    @functools.lru_cache(maxsize=4)
    def kept(stamps: tuple, *args: Any) -> Any:
        return function(*args)

    @functools.wraps(function)
    def call(files: Path | tuple[Path, ...], *args: Any) -> Any:
        stats = [path.stat() for path in ((files,) if isinstance(files, Path) else files)]
        return kept(tuple((s.st_size, s.st_mtime_ns) for s in stats), files, *args)

    return call


def parquet_files(root: Path, part: str) -> list[Path]:
    """The Parquet files of one split below a folder, named as on the Hugging Face hub."""
    return sorted(
        path
        for path in root.rglob("*.parquet")
        if path.stem == part or path.stem.startswith(f"{part}-") or path.parent.name == part
    )


def checksum(path: Path, kind: str) -> str:
    """The hexadecimal digest (md5, sha256) of a file."""
    total = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def check_sum(path: Path, kind: str, expected: str) -> None:
    """Raises ValueError where a file is not the published one."""
    found = checksum(path, kind)
    if found != expected:
        raise ValueError(
            f"{path} has the {kind} sum {found}; the published file has {expected}: it is damaged "
            "or another one; fetch it again"
        )


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of an archive's regular files, in order; nothing is written."""
    with _opened(path) as archive:
        for member in archive:
            if member.isreg():
                yield member.name, archive.extractfile(member).read()


def unpack(path: Path, into: Path) -> Path:
    """Unpacks a tar archive as the folder `into`, which is whole or absent; returns it.

    Raises ValueError for a member that would leave the folder, a link or a device; nothing of the
    archive is then kept.
    """
    if into.is_dir():
        return into
    with _opened(path) as archive, new_folder(into) as partial:
        for member in track(archive, f"unpacking {path.name}", total=None):
            _extract(archive, member, partial, path)
    return into


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no tar archive, or cut short ({error})") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not (member.isreg() or member.isdir()):
        raise ValueError(
            f"{path}: the member {member.name!r} is a link, a device, or leads out of the folder; "
            "nothing was unpacked"
        )
    target = root.joinpath(*name.parts)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.extractfile(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)
