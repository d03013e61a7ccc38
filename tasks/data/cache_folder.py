"""The user's cache folder: entries that are whole or absent, checked when they are opened.

It is `SEQZOO_CACHE`, else `$XDG_CACHE_HOME/seqzoo`, else `~/.cache/seqzoo`. Where that cannot be
written (no home, a full or read-only file system, another's folder), what is there is read and what
is made goes to a folder for this process alone, which is said once; where that is full too, callers
go on in memory.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import errno
import functools
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from seqzoo.tasks.data.atomic import new_folder, write_file
from seqzoo.tasks.data.digest import content_digest
from seqzoo.tasks.data.places import place

WAY_OUT = "set SEQZOO_CACHE to a folder that can be written"
ROOM = 2**16  # bytes without which a cache is full
SUMS = "sums.json"  # of an entry's files: digests of samples and of the whole
_whole: contextvars.ContextVar[bool] = contextvars.ContextVar("whole", default=False)


def folder() -> Path:
    """The cache folder of this user, which may not exist yet; without a home a temporary one."""
    named, base = os.environ.get("SEQZOO_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        return place(named) if named else place(base or Path.home() / ".cache") / "seqzoo"
    except (RuntimeError, ValueError) as error:  # RuntimeError: nobody knows this user's home
        return _spare(str(error)) or Path(os.devnull, "seqzoo")  # where nothing can be


def entry(name: str) -> Path | None:
    """Where an entry is, or None."""
    bases = folder(), *([_temporary()] if _temporary.cache_info().currsize else [])
    return next((base / name for base in bases if base and (base / name).exists()), None)


def new_entry(name: str, fill: Callable[[Path], None]) -> Path | None:
    """Has `fill` write files into an empty folder, which becomes the entry of this name.

    Returns where it is, be it another process's; None where no folder can be written.
    """

    def make(path: Path) -> None:
        with new_folder(path) as partial:
            fill(partial)
            _seal(partial)

    return _written(name, make)


def text_entry(name: str, make: Callable[[], str], use: Callable[[str], object]) -> object:
    """`use` of the text that `make` makes; the text is kept as an entry of one file.

    One that `use` cannot read is damaged, and made again.
    """
    found = entry(name)
    if found is not None:
        with contextlib.suppress(Exception):  # libraries raise of any kind
            return use(found.read_text(encoding="utf-8"))
    text = make()
    _written(name, lambda path: write_file(path, text))
    return use(text)


@contextlib.contextmanager
def thorough() -> Iterator[None]:
    """Inside, entries are checked to the last byte when they are opened."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def check(path: Path) -> None:
    """Raises ValueError where the files of an entry are not as they were written.

    Large files are sampled, but inside `thorough`. Entries of earlier versions have no sums.
    """
    if not (path / SUMS).exists():
        return
    try:
        whole = _whole.get()
        for file, digests in json.loads((path / SUMS).read_text(encoding="utf-8")).items():
            if content_digest(path / file, whole=whole) != digests[whole]:
                raise ValueError(f"{file} is not as it was written")
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> ValueError:
    """The error for an entry that cannot be used."""
    why = " ".join(str(reason).split())[:200]
    return ValueError(
        f"the cached set {path} is damaged ({why}); delete this folder, and the set is made again"
    )


def check_writable() -> None:
    """Raises ValueError where nothing can be kept for later runs."""
    try:
        _try(folder())
    except OSError as error:
        raise ValueError(f"{_unwritable(folder(), error)}; {WAY_OUT}") from error
    if _temporary.cache_info().currsize and folder() == _temporary():
        raise ValueError(f"there is no home, hence nothing is kept; {WAY_OUT}")


def _seal(path: Path) -> None:
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    sums = {
        file.relative_to(path).as_posix(): [content_digest(file, whole=w) for w in (False, True)]
        for file in files
    }
    (path / SUMS).write_text(json.dumps(sums), encoding="utf-8")


def _written(name: str, make: Callable[[Path], None]) -> Path | None:
    """Where `make` could write an entry: in the cache, or for this process; None: nowhere."""
    home = folder()
    try:
        _try(home)  # before anything is made that takes long
        make(home / name)
        return home / name
    except OSError as error:
        if (home / name).exists():  # of a faster process
            return home / name
        about = Path(os.fsdecode(error.filename or home))
        of_cache = home in (about, *about.parents) or about in home.parents
        if not of_cache and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # of the files that the entry is made from
        spare = _spare(_unwritable(home, error))
    with contextlib.suppress(OSError):
        if spare is not None:
            make(spare / name)
            return spare / name
    return None


def _try(home: Path) -> None:
    """Raises OSError where nothing can be written."""
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=home) as file:
        file.write(bytes(ROOM))


def _unwritable(home: Path, error: OSError) -> str:
    return f"the cache folder {home} cannot be written ({error.strerror or error})"


def _spare(why: str) -> Path | None:
    """A folder for this process; the first time it is said why, and what that costs."""
    first = not _temporary.cache_info().currsize
    spare = _temporary()
    if first:
        where = f"for this one in {spare}" if spare else "and in memory"
        warnings.warn(
            f"{why}: what is kept there is made again by every run, {where}; {WAY_OUT}",
            stacklevel=2,
        )
    return spare


@functools.cache
def _temporary() -> Path | None:
    """Goes when the process ends; None where there is no room for one."""
    try:
        made = tempfile.TemporaryDirectory(prefix="seqzoo-cache-")
    except OSError:
        return None
    atexit.register(made.cleanup)
    return Path(made.name)
