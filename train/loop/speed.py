"""How fast a model trains: in tokens a second, and in units of what its chips could do."""

from __future__ import annotations

import statistics
import time

import jax

from seqzoo.tasks.data.shared_rows import PACKED, packing_for
from seqzoo.tasks.task import Task
from seqzoo.train.devices.chips import chip_of
from seqzoo.train.devices.flops import Operations, operations
from seqzoo.train.devices.processes import from_first
from seqzoo.train.loop import stateful
from seqzoo.train.loop.data import HostBatch, batch_shapes, to_devices
from seqzoo.train.loop.program import Program, replica_keys
from seqzoo.train.loop.state import TrainState

LEAST, MOST, ENOUGH = 7, 60, 0.5  # steps that are timed, and seconds after which they are enough


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
        self._untimed = 0  # of the steps that are not read yet
        if self._chip is not None:
            task, train = program.experiment.task, program.experiment.train
            work = forward_operations(program, task, train.batch_size).products * train.replicas
            self._seconds_at_peak = 3 * work / (self._chip.flops * program.mesh.size)

    def pause(self, running: int = 0) -> None:
        """What follows is no step's: an evaluation, a checkpoint, a trace.

        The `running` steps that are not read yet come in its time or right behind it.
        """
        self._last, self._untimed = None, running

    def of_step(self) -> dict[str, float]:
        """`step_seconds` and `mfu` of the step whose metrics came now; empty if not known."""
        if self._chip is None:
            return {}
        if self._untimed:
            self._untimed -= 1
            return {}
        now, last = time.perf_counter(), self._last
        self._last = now
        if last is None or now == last:
            return {}
        return {"step_seconds": now - last, "mfu": self._seconds_at_peak / (now - last)}


def timed_enough(steps: int, seconds: float) -> bool:
    """Whether so many steps tell how long one takes.

    Process 0 says so for all: their clocks differ, and a step that only some take never ends.
    """
    return from_first(
        "whether steps are timed enough",
        lambda: steps >= LEAST and (seconds >= ENOUGH or steps >= MOST),
    )


def step_speed(program: Program, state: TrainState, batch: HostBatch) -> tuple[float, float]:
    """Seconds of a training step on one batch, a median, and real tokens a second.

    For numbers that can be compared the program is of one replica, and the batch the same. The
    state is donated.
    """
    _, key = replica_keys(program.experiment)
    placed, seconds = to_devices(batch, program.rows), []
    while not timed_enough(len(seconds), sum(seconds[1:])):
        started = time.perf_counter()
        state, metrics = program.step(state, placed, key)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    train = program.experiment.train
    share = len(batch["inputs"]) / train.batch_size  # of several processes each has a part
    tokens = program.experiment.task.real_tokens(batch) / share
    step = statistics.median(seconds[1:])  # the first one compiles
    return step, tokens / step


def training_shapes(
    program: Program, task: Task, batch_size: int, length: int = 0
) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of one replica, packed where the experiment packs."""
    packing, packed = None, program.experiment.packed_length
    if packed and not length:
        packing = packing_for(task.source("train"), batch_size, packed)
    return batch_shapes(task, batch_size, program.eval_rows, length, packing)


def forward_operations(
    program: Program, task: Task, batch_size: int, length: int = 0
) -> Operations:
    """Operations of one forward pass over a training batch, of one replica."""

    def forward(params: dict, rest: dict, batch: dict) -> object:
        return stateful.forward(program.plan.merge(params, rest), batch, ())[0]

    batch = training_shapes(program, task, batch_size, length)
    variables = program.like.params, program.like.rest
    if program.experiment.train.replicas > 1:
        variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), variables)
    read = {name: x for name, x in batch.items() if name in ("inputs", "segment_ids", *PACKED)}
    return operations(forward, *variables, read)
