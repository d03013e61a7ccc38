"""Errors of a command line, in one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UsageError(ValueError):
    """A command line that cannot be; the message is one line."""


def unknown(kind: str, given: str, valid: Iterable[str]) -> UsageError:
    """The one line for a name that does not exist."""
    valid = list(valid)
    near = difflib.get_close_matches(given, valid, 1, 0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return UsageError(f"unknown {kind} {given!r}{hint} (valid: {', '.join(valid)})")


def take(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag, read before the flags are known; the last one counts."""
    value = None
    for i, arg in enumerate(argv):
        if arg == flag:
            if i + 1 == len(argv) or argv[i + 1].startswith("--"):
                raise UsageError(f"{flag} needs a value")
            value = argv[i + 1]
        elif arg.startswith(f"{flag}="):
            value = arg.partition("=")[2]
    return value
