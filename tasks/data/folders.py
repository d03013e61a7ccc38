"""Where published data are: the folder that a user names, and its files."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from seqzoo.tasks.data.cache import Key
from seqzoo.tasks.data.places import place

HUGGING_FACE = "huggingface"
BLOCK = 1 << 20
STRAYS = {
    *("__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "lost+found"),
    *("$RECYCLE.BIN", "System Volume Information", "Icon\r"),
}


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
        stamps = tuple((s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats)
        return kept(stamps, files, *args)

    return call


def stray(path: PurePath) -> bool:
    """Whether a path below a data folder, or in an archive, is what a system left there.

    Hidden files and folders are (resource forks, `.DS_Store`, `.nfs*` among them), and the things
    of file managers and file systems that have other names.
    """
    return any(part.startswith(".") or part in STRAYS for part in path.parts if part != "..")


def files_below(root: Path, *patterns: str, without: Sequence[str] = ()) -> list[Path]:
    """Files under `root` that match a pattern, by path; no strays, nothing in folders `without`."""

    def wanted(path: Path) -> bool:
        below = path.relative_to(root)
        return not stray(below) and not set(below.parts[:-1]) & set(without) and path.is_file()

    found = {path for pattern in patterns for path in _matches(root, pattern, without)}
    return sorted(filter(wanted, found), key=lambda path: path.relative_to(root).as_posix())


def _matches(root: Path, pattern: str, without: Sequence[str]) -> Iterator[Path]:
    """What a pattern finds; folders `without` and strays, which may be large, are not gone into."""
    name = pattern.removeprefix("**/")
    if name == pattern or "/" in name:
        yield from root.glob(pattern)
        return
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in without and not stray(PurePath(f))]
        yield from (Path(folder, file) for file in files if fnmatch.fnmatchcase(file, name))


def spread(items: Sequence, most: int) -> list:
    """At most so many of some items, from the first to the last."""
    count = min(most, len(items))
    return [items[i * (len(items) - 1) // max(1, count - 1)] for i in range(count)]


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
