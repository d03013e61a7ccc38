"""Which rows are for training, validation and test: as the data say, else as the options say.

Files and folders named train, validation (valid, val, dev) and test are splits of their own; so are
the values of a split column. What is missing is cut from the training rows, by a fixed random order
of rows, or of the values of a group column, which stay together. Nothing is mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from seqzoo.tasks.data.folders import files_below
from seqzoo.tasks.data.places import place
from seqzoo.tasks.data.streams import words
from seqzoo.tasks.language.bytes import NAMES, split_named
from seqzoo.tasks.rows.readers import SUFFIXES
from seqzoo.tasks.rows.tables import Table
from seqzoo.tasks.task import SPLITS

ALL = "train"  # the split of files that say nothing


class Part(NamedTuple):
    """Rows of one table."""

    table: Table
    rows: Int64[np.ndarray, "size"]


def files_of(data: str) -> dict[str, tuple[Path, ...]]:
    """Split -> files. Raises ValueError for a folder where some files have a split and others none.

    Raises FileNotFoundError where nothing can be read.
    """
    root = place(data) if data else None
    if root is None or not root.exists():
        raise FileNotFoundError(
            f"task rows: there is no {data or 'data'}; name a file or folder with --data.data"
        )
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{root}: rows are read from {', '.join(SUFFIXES)}")
        return {ALL: (root,)}
    found = files_below(root, *(f"**/*{suffix}" for suffix in SUFFIXES))
    found = [path for path in found if not path.name.startswith("cache-")]  # of `datasets`
    if not found:
        raise FileNotFoundError(f"{root} has no file of {', '.join(SUFFIXES)}")
    splits = {path: split_named(path.relative_to(root)) for path in found}
    if not any(splits.values()):
        return {ALL: tuple(found)}
    without = [path for path, split in splits.items() if split is None]
    if without:
        raise ValueError(
            f"{root} has splits, and {without[0]} belongs to none: rename it, or move it away"
        )
    if "train" not in splits.values():
        raise ValueError(f"{root} has {', '.join(sorted(set(splits.values())))} and no train split")
    return {s: tuple(p for p in found if splits[p] == s) for s in SPLITS if s in splits.values()}


def by_column(table: Table, column: str) -> dict[str, Part]:
    """Split -> rows, by the values of a column. Raises ValueError for another word."""
    table.check(column)
    found: dict[str, list[int]] = {}
    for i in range(len(table)):
        word = table.value(column, i)
        split = NAMES.get(str(word).strip().lower())
        if split is None:
            raise ValueError(
                f"{table.place(i)}: column {column!r} says {word!r}; it should be one of "
                f"{', '.join(NAMES)}"
            )
        found.setdefault(split, []).append(i)
    if "train" not in found:
        raise ValueError(f"{table.files[0]}: column {column!r} has no row of train")
    return {split: Part(table, np.array(rows)) for split, rows in found.items()}


def completed(
    parts: Mapping[str, Part], shares: Mapping[str, float], group: str
) -> dict[str, Part]:
    """All splits: those that are missing get their share of the training rows."""
    made, rows = dict(parts), parts["train"].rows
    table = parts["train"].table
    groups = _groups(table, rows, group) if group else np.arange(len(rows))
    order = words(int(groups.max(initial=0)) + 1, "split of rows").argsort(kind="stable")
    rank = np.argsort(order, kind="stable")[groups]  # place of a row's group in the fixed order
    left = np.ones(len(rows), bool)
    begin = 0
    for split in ("validation", "test"):
        if split in parts:
            continue
        count = max(1, round(shares[split] * len(order)))
        mine = (rank >= begin) & (rank < begin + count)
        made[split], begin = Part(table, rows[mine]), begin + count
        left &= ~mine
    made["train"] = Part(table, rows[left])
    for split, part in made.items():
        if not len(part.rows):
            what = f"{len(order)} values of {group!r}" if group else f"{len(rows)} rows"
            raise ValueError(f"task rows: nothing is left for the {split} split of {what}")
    return made


def _groups(table: Table, rows: np.ndarray, group: str) -> np.ndarray:
    """The number of each row's group, by the order of their first rows."""
    table.check(group)
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(table.value(group, int(i)), len(numbers)) for i in rows])
