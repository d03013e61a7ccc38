"""What is said of a file that is not what it should be: which one, why, and the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

HEAD = 512  # bytes by which a file is recognised
BOM = b"\xef\xbb\xbf"
TEXT = "a text in UTF-8"
MEND = "mend that line, or fetch the file again"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_BEGINNINGS = {  # what files begin with -> what they are, and words of what they may be as well
    b"\x1f\x8b": ("a gzip file", ("gzip", "tar")),
    b"BZh": ("a bzip2 file", ("bzip2", "tar")),
    b"\xfd7zXZ": ("an xz file", ("xz", "tar")),
    b"PK\x03\x04": ("a zip archive", ("zip",)),
    b"\x89PNG": ("a PNG picture", ("PNG",)),
    b"\xff\xd8\xff": ("a JPEG picture", ("JPEG",)),
    b"PAR1": ("a Parquet file", ("Parquet",)),
    b"ARROW1": ("an Arrow file", ("Arrow",)),
    b"RIFF": ("a RIFF file", ("WAV",)),
    b"\x93NUMPY": ("a NumPy array", ("NumPy",)),
    b"\x80\x04": ("a pickle", ("pickle",)),
    b"\x80\x05": ("a pickle", ("pickle",)),
    b"%PDF": ("a PDF document", ()),
}
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")


class DamagedError(ValueError):
    """A file that cannot be read as what it should be."""


def check_kind(name: object, kind: str, head: bytes) -> None:
    """Raises ValueError where a file or member begins as something else than a `kind`."""
    if not head:
        raise DamagedError(f"{name} is empty; it should be {kind}: fetch it again")
    if head.startswith(LFS_POINTER):
        raise DamagedError(
            f"{name} is a Git LFS pointer, which stands for {kind}: run `git lfs pull` in its "
            "repository"
        )
    if head.removeprefix(BOM).lstrip().lower().startswith(_MARKUP):
        raise DamagedError(
            f"{name} is a page for browsers, as servers send in place of a file; it should be "
            f"{kind}: fetch it again by the address of the file itself"
        )
    for begins, (found, words) in _BEGINNINGS.items():
        if head.startswith(begins) and not any(word in kind for word in words):
            raise DamagedError(f"{name} is {found}; it should be {kind}: fetch that")


def damaged(name: object, kind: str, head: bytes | None, reason: object = "") -> DamagedError:
    """The error for a file `name` that is no `kind` and begins with `head`; None: for a part."""
    because = f" ({' '.join(str(reason).split())[:200] or type(reason).__name__})"
    because = "" if reason == "" else because
    if head is None:
        return DamagedError(f"{name} is damaged{because}: fetch it again")
    try:
        check_kind(name, kind, head)
    except DamagedError as error:
        return error
    what = kind.split(" ", 1)[1]  # without its article
    return DamagedError(f"{name} is no {what}, or damaged{because}: fetch it again")


@contextlib.contextmanager
def reading(name: object, kind: str, source: bytes | Path | None) -> Iterator[None]:
    """Makes one error of whatever a library raises about a file, its bytes or a part (None) of it.

    What the system refuses (OSError with a number) and what is known already passes.
    """
    try:
        yield
    except (DamagedError, MemoryError):
        raise
    except Exception as error:  # libraries raise of any kind about bytes that they do not expect
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged(name, kind, head_of(source), error) from error


def head_of(source: bytes | Path | None) -> bytes | None:
    """The first bytes of a file or of what was read."""
    if source is None or isinstance(source, bytes):
        return source and source[:HEAD]
    with source.open("rb") as file:
        return file.read(HEAD)


def text_of(name: object, content: bytes) -> str:
    """A text in UTF-8, with or without a byte order mark, and with plain line ends."""
    if content:
        check_kind(name, TEXT, content[:HEAD])
    with reading(name, TEXT, content):
        return content.decode("utf-8-sig").replace("\r\n", "\n")


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, which has some; blank ones at its end are none."""
    content = path.read_bytes()
    check_kind(path, TEXT, content[:HEAD])
    return text_of(path, content).rstrip().splitlines()
