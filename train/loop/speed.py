"""How fast a run is, in units of what its chips could do."""

from __future__ import annotations

import time

from seqzoo.tasks.task import Task
from seqzoo.train.devices.chips import chip_of
from seqzoo.train.devices.flops import Operations, operations
from seqzoo.train.loop.data import batch_shapes
from seqzoo.train.loop.program import Program


class Speed:
    """Seconds of a step and its model FLOPs utilisation, where the chip is in our table.

    Utilisation is three forward passes' products (see `flops`) over the peak of all chips, as MFU
    is usually defined; what rematerialisation repeats does not count. Steps are timed by when their
    metrics come, which the devices set.
    """

    def __init__(self, program: Program):
        device = program.mesh.devices.flat[0]
        self._chip = chip_of(device)
        self._last: float | None = None
        if self._chip is not None:
            task, size = program.experiment.task, program.experiment.train.batch_size
            self._seconds_at_peak = (
                3
                * forward_operations(program, task, size).products
                / (self._chip.flops * program.mesh.size)
            )

    def pause(self) -> None:
        """The time until the next step is not the step's: an evaluation, a checkpoint."""
        self._last = None

    def of_step(self) -> dict[str, float]:
        """`step_seconds` and `mfu` of the step whose metrics came now; empty if not known."""
        if self._chip is None:
            return {}
        now, last = time.perf_counter(), self._last
        self._last = now
        if last is None or now == last:
            return {}
        return {"step_seconds": now - last, "mfu": self._seconds_at_peak / (now - last)}


def forward_operations(
    program: Program, task: Task, batch_size: int, length: int = 0
) -> Operations:
    """Operations of one forward pass over a training batch."""

    def forward(params: dict, rest: dict, inputs: object, ids: object) -> object:
        return program.plan.merge(params, rest)(inputs, ids)

    batch = batch_shapes(task, batch_size, program.rows, length)
    state = program.like
    return operations(forward, state.params, state.rest, batch["inputs"], batch.get("segment_ids"))
