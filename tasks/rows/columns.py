"""The rows of a table as a task sees them: its inputs and its target, by the names of columns."""

from __future__ import annotations

import fnmatch
from typing import Any

import numpy as np
from jaxtyping import Int64

from seqzoo.models.errors import unknown
from seqzoo.tasks.rows.sequences import RowError
from seqzoo.tasks.rows.tables import Table


class Series:
    """A long table: neighbours with one value of a column are the steps of one row."""

    def __init__(self, table: Table, column: str):
        table.check(column)
        self._table, self.files, self.names = table, table.files, table.names
        values = [table.value(column, i) for i in range(len(table))]
        changes = [i for i in range(1, len(values)) if values[i] != values[i - 1]]
        self._bounds = [0, *changes, len(values)] if values else [0]
        seen: set[object] = set()
        for begin in self._bounds[:-1]:
            if values[begin] in seen:
                raise ValueError(
                    f"{table.place(begin)}: {values[begin]!r} of column {column!r} comes again "
                    "after others; sort the rows by it"
                )
            seen.add(values[begin])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def check(self, name: str) -> None:
        """Raises ValueError for a column that is not there."""
        self._table.check(name)

    def value(self, name: str, index: int) -> Any:
        """The values of all steps; one value where all have the same."""
        steps = self.steps(name, index)
        return steps[0] if all(step == steps[0] for step in steps[1:]) else steps

    def steps(self, name: str, index: int) -> list[Any]:
        """The values of all steps."""
        begin, end = self._bounds[index : index + 2]
        return [self._table.value(name, i) for i in range(begin, end)]

    def place(self, index: int) -> str:
        """Where a row begins."""
        return self._table.place(self._bounds[index])


Rows = Table | Series


def columns(table: Rows, named: str) -> tuple[str, ...]:
    """The columns that a comma-separated text names; `t*` is all that begin so, in their order.

    Raises ValueError for one that is not there.
    """
    found: list[str] = []
    for part in filter(None, (part.strip() for part in named.split(","))):
        if part in table.names:
            found.append(part)
            continue
        matching = [name for name in table.names if fnmatch.fnmatchcase(name, part)]
        if not matching:
            raise unknown(f"column of {table.files[0]}", part, table.names)
        found += matching
    if not found:
        raise ValueError(
            f"task rows: name the inputs with --data.inputs; the columns are "
            f"{', '.join(table.names)}"
        )
    return tuple(found)


def inputs_of(table: Rows, names: tuple[str, ...], index: int, lengths: str = "") -> Any:
    """The value of a row: of several columns channels, or steps where each holds one number.

    `lengths` is a column with the number of steps that are real. Raises RowError.
    """
    if isinstance(table, Series):
        steps = [table.steps(name, index) for name in names]
        value = _series(steps) if len(names) > 1 else _one(steps[0])
    elif len(names) == 1:
        value = table.value(names[0], index)
    else:
        value = _several(names, [table.value(name, index) for name in names])
    if not lengths:
        return value
    real = table.value(lengths, index)
    if real is None or not 0 <= int(real) <= len(value):
        raise RowError(f"has {len(value)} steps, and column {lengths!r} says {real}")
    return value[: int(real)]


def _one(steps: list[Any]) -> Any:
    if any(step is None for step in steps):
        raise RowError(f"is empty at step {steps.index(None)}")
    return steps if isinstance(steps[0], str) else np.asarray(steps)


def _series(steps: list[list[Any]]) -> np.ndarray:
    for channel in steps:
        if None in channel:
            raise RowError(f"is empty at step {channel.index(None)}")
    try:
        return np.asarray(steps, np.float32).T
    except (TypeError, ValueError):
        raise RowError("has steps that are no numbers; several columns are channels") from None


def _several(names: tuple[str, ...], values: list[Any]) -> np.ndarray:
    for name, value in zip(names, values, strict=True):
        if value is None or isinstance(value, str):
            raise RowError(f"has {value!r} in column {name!r}; several columns hold numbers")
    sizes = {np.shape(value) for value in values}
    if len(sizes) > 1:
        raise RowError(f"has channels of different lengths: {sorted(sizes)}")
    found = np.asarray(values)
    return found if found.ndim == 1 else found.T


def all_rows(table: Rows) -> Int64[np.ndarray, "size"]:
    """The numbers of all rows."""
    return np.arange(len(table))
