"""The error for a name that does not exist, for models, tasks and training alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(
    kind: str, given: object, valid: Iterable[object], shown: Iterable[str] | None = None
) -> ValueError:
    """The one line for a name that does not exist: the name, the nearest one, all that do.

    `shown` stands for the valid ones where they are too many to read.
    """
    names = [str(name) for name in valid]
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ValueError(f"unknown {kind} {given!r}{hint} (valid: {', '.join(shown or names)})")
