"""Examples with their far context out of order: what of an answer needs no more than near steps.

Each run of real steps is cut into blocks of a few, which change places; labels of single steps go
along with theirs. What stands within a block is as it was, what stands further away is not where it
was. A model whose accuracy does not fall has not used the long range.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int64

from seqzoo.tasks.data.streams import words
from seqzoo.tasks.task import Example, Source, Task


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """The examples of a source, blocks of `block` steps in an order that belongs to each."""

    source: Source
    block: int
    axes: int  # of `inputs` that are positions: 1, or 2 of a pair of rows

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        shape = example["inputs"].shape[: self.axes]
        ids = np.broadcast_to(example.get("segment_ids", 1), shape)
        if self.axes == 1:
            order = block_order(ids, self.block, index)
            return {k: v[order] if v.shape[:1] == shape else v for k, v in example.items()}
        orders = [block_order(own, self.block, index, i) for i, own in enumerate(ids)]
        return {
            name: np.stack([row[order] for row, order in zip(value, orders, strict=True)])
            if value.shape[:2] == shape
            else value
            for name, value in example.items()
        }


def shuffled(task: Task, source: Source, block: int) -> Shuffled:
    """`source` with blocks in another order. Raises ValueError for what has no order to lose."""
    check_shuffle(task, block)
    return Shuffled(source, block, 2 if task.spec.head == "two_tower" else 1)


def check_shuffle(task: Task, block: int) -> None:
    """Raises ValueError where the blocks of a task's rows cannot change places."""
    if not 1 <= block < task.spec.length:
        raise ValueError(
            f"shuffle takes blocks of at least 1 step and fewer than a row of task {task.name} "
            f"has ({task.spec.length}); got {block}"
        )
    if task.stateful:
        raise ValueError(
            f"task {task.name} carries its state from row to row, so order within one says little; "
            "leave out --controls and the axis shuffle"
        )
    if task.spec.head not in ("classify", "two_tower"):
        source = task.source("test")
        example = source[0] if len(source) else {}
        if example and example["targets"].shape[:1] != example["inputs"].shape[:1]:
            raise ValueError(
                f"task {task.name} has labels of other positions than its inputs, which cannot "
                "change places with them; leave out --controls and the axis shuffle"
            )


def block_order(ids: np.ndarray, block: int, *name: int) -> Int64[np.ndarray, "L"]:
    """An order of positions: within each run of one id above 0 its blocks change places."""
    borders = np.flatnonzero(np.diff(ids)) + 1
    order = []
    for place, run in enumerate(np.split(np.arange(len(ids)), borders)):
        blocks = np.split(run, np.arange(block, len(run), block))
        if ids[run[0]] > 0:
            drawn = words(len(blocks), "shuffled blocks", *name, place).argsort(kind="stable")
            blocks = [blocks[i] for i in drawn]
        order += blocks
    return np.concatenate(order)
