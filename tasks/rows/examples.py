"""Examples made of rows: each row one, or documents in pieces."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from seqzoo.tasks.rows.columns import columns, inputs_of
from seqzoo.tasks.rows.facts import Options, target_of
from seqzoo.tasks.rows.parts import facts_of, parts
from seqzoo.tasks.rows.sequences import sequence
from seqzoo.tasks.rows.splits import Part
from seqzoo.tasks.task import IGNORED, Example, Split


@dataclasses.dataclass(frozen=True)
class Whole:
    """The rows of a split, each an example."""

    task: Options
    split: Split

    def __len__(self) -> int:
        return len(parts(self.task)[self.split].rows)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        task, facts = self.task, facts_of(self.task)
        part = parts(task)[self.split]
        row, steps = int(part.rows[index]), task.steps
        names = columns(part.table, task.inputs)
        each = [(name,) for name in names] if task.kind == "pairs" else [names]
        arrays = [self._array(part, own, row) for own in each]
        value = part.table.value(task.target, row)
        target = target_of(task, facts, value, len(arrays[0]))
        rows = [_padded(array[:steps], steps) for array in arrays]
        ids = [_padded(np.ones(min(len(array), steps), np.int32), steps) for array in arrays]
        if task.kind == "tag":
            target = _padded(target[:steps], steps, IGNORED)
        elif facts.steps:
            target = _padded(target[:steps], steps)
        several = task.kind == "pairs"
        example = {"inputs": np.stack(rows) if several else rows[0], "targets": target}
        if facts.shortest < steps or several:
            example["segment_ids"] = np.stack(ids) if several else ids[0]
        return example

    def _array(self, part: Part, names: tuple[str, ...], row: int) -> np.ndarray:
        return _array_of(self.task, part, names, row)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The documents of a split in pieces of `steps` tokens, each token predicted once."""

    task: Options
    split: Split

    def __len__(self) -> int:
        return int(_pieces(self.task, self.split)[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"piece {index} of {len(self)}")
        ends, steps = _pieces(self.task, self.split), self.task.steps
        document = int(np.searchsorted(ends, index, "right"))
        part = parts(self.task)[self.split]
        begin = (index - int(ends[document - 1] if document else 0)) * steps
        row = int(part.rows[document])
        ids = _array_of(self.task, part, columns(part.table, self.task.inputs), row)
        ids = ids[begin : begin + steps + 1]
        targets = ids[1:]
        example = {
            "inputs": _padded(ids[:-1], steps),
            "targets": _padded(targets, steps, IGNORED),
            "segment_ids": _padded(np.ones(len(targets), np.int32), steps),
        }
        if facts_of(self.task).reading.form == "text":
            size = len(targets)
            if self.task.tokens != "byte":
                size = len(facts_of(self.task).reading.words(targets).encode())
            example["bytes"] = np.float32(size)
        return example


@functools.lru_cache(maxsize=16)
def _pieces(task: Options, split: Split) -> np.ndarray:
    """How many pieces there are up to each document and with it."""
    lengths = np.array(facts_of(task).lengths[split])
    return np.cumsum(-(-np.maximum(lengths - 1, 0) // task.steps))


def _array_of(task: Options, part: Part, names: tuple[str, ...], row: int) -> np.ndarray:
    value = inputs_of(part.table, names, row, task.lengths)
    return facts_of(task).reading.array(*sequence(value, numbers=task.form == "numbers"))


def _padded(array: np.ndarray, steps: int, value: Any = 0) -> np.ndarray:
    out = np.full((steps, *array.shape[1:]), value, array.dtype)
    out[: len(array)] = array
    return out
