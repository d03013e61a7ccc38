"""What is found in the rows before anything is trained: every row is read once.

A row that cannot be used is an error that names file and row. What was found is kept in the cache.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from seqzoo.tasks.rows.columns import columns, inputs_of
from seqzoo.tasks.rows.sequences import (
    Found,
    Reading,
    RowError,
    classes_of,
    label,
    number,
    sequence,
)
from seqzoo.tasks.rows.splits import Part


class Options(Protocol):
    """What of the task decides how rows are found and read."""

    data: str
    kind: str
    inputs: str
    target: str
    tokens: str
    form: str
    lengths: str
    series: str
    split: str
    group: str
    validation_share: float
    test_share: float
    standardise: bool

    @property
    def steps(self) -> int:
        """Steps of a row, with padding."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a task's rows are."""

    reading: Reading
    classes: tuple[str | int, ...] = ()
    width: int = 0  # numbers of a target of regression
    steps: bool = False  # whether each step has a target of its own
    mean: tuple[float, ...] = ()  # of the targets for regression
    scale: tuple[float, ...] = ()
    longest: int = 1
    shortest: int = 1
    counts: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # of classes
    lengths: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # for lm

    def to_json(self) -> str:
        """As a text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Reverses `to_json`."""
        data = _tuples(json.loads(text))
        return cls(**{**data, "reading": Reading(**data["reading"])})


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def find_facts(task: Options, parts: Mapping[str, Part]) -> Facts:
    """Reads all rows. Raises ValueError naming file and row for one that cannot be used."""
    found, targets = Found(), Targets(task.kind)
    for part, i, values in _values(task, parts["train"]):
        with at(part, i, task.inputs):
            for form, value in values:
                found.add(form, value, task.tokens)
        if task.target:
            with at(part, i, task.target):
                targets.add(part.table.value(task.target, i))
    reading = found.reading(task.tokens, task.standardise)
    facts = Facts(reading, **targets.facts(task.standardise))
    if task.kind == "lm" and reading.vocab_size is None:
        raise ValueError("task rows: lm predicts tokens, and these inputs are real numbers")
    _check_target(task, facts)
    spans: dict[str, list[int]] = {}
    counts: dict[str, collections.Counter] = {split: collections.Counter() for split in parts}
    for split, part in parts.items():
        spans[split] = []
        for _, i, values in _values(task, part):
            with at(part, i, task.inputs):
                arrays = [reading.array(*value) for value in values]
                spans[split].append(max(map(len, arrays)))
                if not spans[split][-1]:
                    raise RowError("has no steps")
            if task.target:
                with at(part, i, task.target):
                    made = target_of(task, facts, part.table.value(task.target, i), len(arrays[0]))
                    if facts.classes:
                        counts[split].update(np.atleast_1d(made).tolist())
    every = [length for own in spans.values() for length in own]
    known = range(len(facts.classes))
    return dataclasses.replace(
        facts,
        longest=max(every),
        shortest=min(every),
        counts={s: tuple(own[k] for k in known) for s, own in counts.items()},
        lengths={s: tuple(own) for s, own in spans.items()} if task.kind == "lm" else {},
    )


def _values(task: Options, part: Part) -> Iterator[tuple[Part, int, list]]:
    names = columns(part.table, task.inputs)
    each = [(name,) for name in names] if task.kind == "pairs" else [names]
    for i in part.rows.tolist():
        with at(part, i, task.inputs):
            values = [inputs_of(part.table, own, i, task.lengths) for own in each]
            found = [sequence(value, numbers=task.form == "numbers") for value in values]
        yield part, i, found


class at:
    """Adds file, row and column to a RowError."""

    def __init__(self, part: Part, index: int, column: str):
        self._part, self._index, self._column = part, index, column

    def __enter__(self) -> None:
        """Nothing is done before."""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RowError):
            where = self._part.table.place(self._index)
            raise ValueError(f"{where}: column {self._column!r} {error}") from None


class Targets:
    """What the training rows' targets hold."""

    def __init__(self, kind: str):
        self.kind, self.labels, self.width, self.steps = kind, set(), 0, False
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, value: Any) -> None:
        """Takes in one target. Raises RowError."""
        if self.kind in ("classify", "pairs"):
            self.labels.add(label(value))
        elif self.kind == "tag":
            self.labels.update(label(each) for each in steps_of(value) if each is not None)
        else:
            found = number(value) if np.ndim(value) < 2 else np.asarray(value, np.float32)
            self.steps = self.steps or np.ndim(value) == 2
            flat = found if found.ndim == 2 else found[None]
            self.width = self.width or flat.shape[1]
            self.count += len(flat)
            self.total = self.total + flat.sum(0, dtype=np.float64)
            self.squares = self.squares + np.square(flat, dtype=np.float64).sum(0)

    def facts(self, standardise: bool) -> dict[str, Any]:
        """Fields of `Facts`."""
        if not self.width:
            return {"classes": classes_of(self.labels)}
        mean = self.total / max(self.count, 1)
        spread = np.sqrt(np.maximum(self.squares / max(self.count, 1) - mean**2, 0))
        kept = {"mean": tuple(mean.tolist())}
        kept["scale"] = tuple(np.where(spread > 0, spread, 1.0).tolist())
        still = {"mean": (0.0,) * self.width, "scale": (1.0,) * self.width}
        return {"width": self.width, "steps": self.steps, **(kept if standardise else still)}


def steps_of(value: Any) -> list[Any]:
    """The labels of all steps. Raises RowError."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    if not isinstance(value, list | tuple):
        raise RowError(f"is {value!r}; a tag for every step is a list")
    return list(value)


def target_of(task: Options, facts: Facts, value: Any, length: int) -> np.ndarray:
    """A row's target as an array. Raises RowError for what no training row has."""
    if task.kind in ("classify", "pairs"):
        return np.int32(_place(facts, label(value)))
    if task.kind == "tag":
        labels = steps_of(value)
        if len(labels) != length:
            raise RowError(f"has {len(labels)} tags for {length} steps")
        places = [-100 if each is None else _place(facts, label(each)) for each in labels]
        return np.array(places, np.int32)
    found = np.asarray(value, np.float32) if facts.steps else number(value)
    if found.shape[-1:] != (facts.width,) or (facts.steps and len(found) != length):
        raise RowError(
            f"has the shape {found.shape}; training rows have {facts.width} numbers"
            + (" a step" if facts.steps else "")
        )
    return (found - np.float32(facts.mean)) / np.float32(facts.scale)


def _place(facts: Facts, found: str | int) -> int:
    if found not in facts.classes:
        raise RowError(f"is {found!r}, a class that no training row has")
    return facts.classes.index(found)


def _check_target(task: Options, facts: Facts) -> None:
    if task.kind in ("classify", "pairs", "tag") and len(facts.classes) < 2:
        raise ValueError(
            f"task rows: column {task.target!r} has one class in the training rows "
            f"({', '.join(map(str, facts.classes))}); there is nothing to tell apart"
        )
    if len(facts.classes) > MOST_CLASSES:
        raise ValueError(
            f"task rows: column {task.target!r} has {len(facts.classes)} classes; is it a number "
            "(--data.kind regress)?"
        )


MOST_CLASSES = 100_000
