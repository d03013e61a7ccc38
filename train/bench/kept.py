"""Rows of measurements that are kept in a file, with what all of them have alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from seqzoo.train.checked import checked, read_json

Row = dict[str, Any]


class _Kept(TypedDict):
    format: int
    settings: Mapping[str, Any]
    ceiling: NotRequired[float]
    rows: Sequence[Mapping[str, Any]]
    fits: NotRequired[Sequence[Mapping[str, Any]]]


def rows_of(path: Path, settings: Mapping[str, Any]) -> list[Row]:
    """The rows that are there. Raises ValueError where they are of other settings."""
    if not path.exists():
        return []
    found = checked(read_json(path), _Kept, str(path))
    there = found["settings"]
    lines = [
        f"  {name}: {there.get(name)!r} there, {value!r} here"
        for name, value in settings.items()
        if there.get(name) != value
    ]
    if lines:
        raise ValueError(
            f"{path} holds measurements of other sizes or another machine:\n"
            + "\n".join(lines)
            + "\nname another folder, or remove that one"
        )
    return [dict(row) for row in found["rows"]]
