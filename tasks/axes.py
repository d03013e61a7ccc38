"""A task on other terms: longer rows, more pairs, more noise.

    length=64,128,256          an option of the task, and the values that it is tested at

Where a task has an option for testing alone (`test_length` beside `length`, `test_blanks` beside
`num_blanks`), that is what is meant.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from seqzoo.models.errors import unknown
from seqzoo.tasks.task import Task


class Variant(NamedTuple):
    """A task at one value of an axis."""

    value: float
    task: Task


def variants(task: Task, name: str, values: str, also: Sequence[str] = ()) -> list[Variant]:
    """The task at each value of `values`, as in "64,128,256"; `also` are axes of another kind.

    Raises ValueError for an option that the task does not have, and for what it cannot be.
    """
    option = name.replace("-", "_")
    numbers = dict(_numbers(task))
    if option not in numbers:
        known = [*(n.replace("_", "-") for n in numbers), *also]
        raise unknown(f"axis of task {task.name}", name, known)
    kind = type(numbers[option])
    return [Variant(v, _at(task, option, v)) for v in _parsed(name, values, kind)]


def _numbers(task: Task) -> Iterator[tuple[str, float]]:
    for field in dataclasses.fields(task):
        value = getattr(task, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield field.name, value


def _parsed(name: str, values: str, kind: type) -> list[float]:
    try:
        found = [kind(text) for text in values.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        word = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"axis {name} takes {word} with commas between; got {values!r}")
    return found


def _at(task: Task, option: str, value: float) -> Task:
    if hasattr(task, f"test_{option}s"):  # one or several, as of the needle's lengths
        return dataclasses.replace(task, **{f"test_{option}s": (value,)})
    tests = (f"test_{option}", f"test_{option.removeprefix('num_')}")
    own = next((name for name in tests if hasattr(task, name)), option)
    return dataclasses.replace(task, **{own: value})
