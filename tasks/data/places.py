"""How a place that a user names is read: once, for every command and task."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
import urllib.parse
from pathlib import Path

# What common file systems take, less room for the files of a run below its folder.
LONGEST_NAME, LONGEST_PATH = 255, 4096 - 256


def place(text: Path | str) -> Path:
    """The path that a text names: `~` is the home, `~user` another's, file:///x is /x.

    A `Path` has been read before and is only checked. Raises ValueError, before anything is read
    or written, for what names no path here: an empty text, another kind of address, characters
    that are not text, a name or path that is too long, a link to nothing, what lies below a file.
    """
    path = text if isinstance(text, Path) else _spelled(text)
    shown = _shown(str(text))
    absolute = path.absolute()
    longest = max(map(len, map(os.fsencode, absolute.parts)))
    if longest > LONGEST_NAME or len(os.fsencode(absolute)) > LONGEST_PATH:
        raise ValueError(
            f"{shown}: file systems take {LONGEST_NAME} bytes for a name, and {LONGEST_PATH} for a "
            "path that has room for files below; give a shorter one"
        )
    there = next(part for part in (absolute, *absolute.parents) if os.path.lexists(part))
    if there.is_symlink() and not there.exists():
        raise ValueError(f"{shown}: {there} is a link to nothing; remove it, or make what it names")
    if there != absolute and not there.is_dir():
        raise ValueError(f"{shown}: {there} is a file, so nothing lies below it")
    return path


def address(text: Path | str) -> tuple[str, str]:
    """Kind and rest of an address, `gs` and `bucket/run` of gs://bucket/run; no kind of a path."""
    # pathlib makes one slash of two; a single letter would be a drive.
    found = re.fullmatch(r"([A-Za-z][\w+.-]+):/+(.*)", str(text), re.DOTALL)
    return (found[1].lower(), found[2]) if found else ("", str(text))


def _spelled(text: str) -> Path:
    if not text.strip():
        raise ValueError(f"a place has a name; got {text!r}")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        hint = "" if sys.getfilesystemencoding() == "utf-8" else "; set PYTHONUTF8=1"
        raise ValueError(
            f"{_shown(text)}: control characters and bytes that are no text name none{hint}"
        )
    kind, _ = address(text)
    if kind == "file":
        parts = urllib.parse.urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"{text}: a file of another host; mount it and give its path here")
        return _spelled(urllib.parse.unquote(parts.path))
    if kind:
        raise ValueError(
            f"{_shown(text)}: {kind} is no file system here; mount other storage and give its path"
        )
    whole = os.path.expanduser(text)
    if text.startswith("~") and whole == text:
        raise ValueError(f"{_shown(text)}: whose home is not known here; write the path in full")
    return Path(whole)


def _shown(text: str) -> str:
    """The text for a line of an error."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
