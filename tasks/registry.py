"""The list of tasks."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from seqzoo.tasks.listops import ListOps, ListOpsShort
from seqzoo.tasks.mqar import MQAR
from seqzoo.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "listops": ListOps,
    "listops_short": ListOpsShort,
    "mqar": MQAR,
}


def names() -> tuple[str, ...]:
    """The names that `build` knows."""
    return tuple(TASKS)


def build(name: str, **options: Any) -> Task:
    """The task of this name. Raises ValueError for a name, an option or a value that is wrong."""
    if name not in TASKS:
        raise ValueError(_unknown("task", name, TASKS))
    fields = [field.name for field in dataclasses.fields(TASKS[name])]
    for option in options:
        if option not in fields:
            raise ValueError(_unknown(f"option of task {name}", option, fields))
    return TASKS[name](**options)


def _unknown(what: str, given: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(given), list(valid), 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what}: {given!r}; valid: {', '.join(valid)}{hint}"
