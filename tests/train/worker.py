"""One of several processes that train the tiny model together, or with TINY_COMPARE compare it.

With TINY_PACK=AXIS short rows share rows, over an axis of the mesh.

python -m tests.train.worker FOLDER PORT COUNT INDEX [TrainConfig fields as JSON]
"""

import dataclasses
import functools
import json
import os
import sys
import time
import types
from unittest import mock

import jax

from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.cli.errors import exit_code
from seqzoo.train.compare import comparison, work
from seqzoo.train.config import MeshConfig
from seqzoo.train.cost import times
from seqzoo.train.devices.processes import Processes, is_first, joined
from seqzoo.train.loop import speed
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.runner import run
from tests.train.loop import test_packing
from tests.train.tiny_run import Slow, SlowRows, experiment, make_model


@dataclasses.dataclass(frozen=True)
class BrokenRows(SlowRows):
    """Examples of which some cannot be read."""

    def __getitem__(self, index):
        if index % 20 == 7:
            raise FileNotFoundError("an example is gone")
        return super().__getitem__(index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Slow):
    """The same task, which fails soon."""

    def _source(self, split, seed):
        rows = super()._source(split, seed)
        return BrokenRows(rows.size, rows.stream) if split == "train" else rows


def in_turns():
    """Devices of both processes in turns, as the mesh of a pod may have them."""
    first = {d.process_index: d.id for d in reversed(jax.devices())}
    return sorted(jax.devices(), key=lambda d: d.id - first[d.process_index])


def models(task, **options):
    """Two models to compare, whose programs are the tiny one's."""
    wanted = dataclasses.replace(
        experiment(task, **{"seed": 3, "eval_every": 20, **options}),
        model="lru",
        backbone=BackboneConfig(d_model=8, depth=1),
    )
    if os.environ.get("TINY_SEEDS"):  # a seed for each process
        wanted = dataclasses.replace(wanted, mesh=MeshConfig(data=1, seeds=-1))
    return {"a": wanted, "b": wanted}


def packed(axis):
    """A run of two seeds whose rows are short, over an axis of the mesh."""
    often = {"eval_every": 10, "save_every": 20, "keep_best": False}
    changes = {"steps": 40, "batch_size": 16, "replicas": 2, "seed": 1, **often}
    return test_packing.experiment(mesh={"data": 1, axis: -1}, **changes)


def fast_clock():
    """The clock of a process whose steps seem to take much longer than those of process 0."""
    return types.SimpleNamespace(perf_counter=lambda: 1e4 * time.perf_counter())


def compared(folder, task, options):
    """Two seeds of each, side by side; prints those that are through.

    Processes may differ in how long they find their steps to take.
    """
    made = functools.partial(make_program, make_model=make_model, devices=in_turns())
    with (
        mock.patch.object(comparison, "make_program", made),
        mock.patch.object(work, "make_program", made),
        mock.patch.object(speed, "time", time if is_first() else fast_clock()),
    ):
        found = comparison.compare(models(task, **options), folder, seeds=2, vectorise="always")
    if is_first():
        print("through", *(model.name for model in found.models))


def timed(task, options):
    """How long a step of another model takes, as matching in time asks; prints it."""
    made = functools.partial(make_program, make_model=make_model, devices=in_turns())
    with (
        mock.patch.object(times, "make_program", made),
        mock.patch.object(times, "time", time if is_first() else fast_clock()),
    ):
        seconds = times.Times(experiment(task, **options))(experiment(task, seed=4))
    print("took", seconds)


def main(folder, port, count, index, options="{}"):
    processes = Processes(
        coordinator=f"127.0.0.1:{port}",
        num_processes=int(count),
        process_id=int(index),
        wait_seconds=int(os.environ.get("TINY_WAIT", "60")),
    )
    task = Broken() if os.environ.get("TINY_BROKEN") == index else Slow()
    with joined(processes, exit_code):
        if os.environ.get("TINY_COMPARE"):
            return compared(folder, task, json.loads(options))
        if os.environ.get("TINY_TIMES"):
            return timed(task, json.loads(options))
        if axis := os.environ.get("TINY_PACK"):
            result = run(packed(axis), folder, devices=in_turns())
        else:
            wanted = experiment(task, **json.loads(options))
            result = run(wanted, folder, make_model=make_model, devices=in_turns())
        if is_first():
            print(result["step"], result["complete"])


if __name__ == "__main__":
    main(*sys.argv[1:])
