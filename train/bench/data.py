"""Generation rates of tasks beside the train step of a small model.

    seqzoo bench --what data --models gru --d-model 32

A task never holds up training if one thread makes more examples a second than the smallest model
takes. Both are the best of several rounds and, on a CPU, counted in its own seconds, since other
programs only slow them down.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

import jax

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.tasks.task import Source
from seqzoo.train.bench.options import Bench
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.loop.data import to_devices, train_batches
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.state import seed_keys


def data(bench: Bench) -> Iterator[dict[str, Any]]:
    """Examples a second from one thread, and those that a one-layer model trains on."""
    model = bench.names[0] if bench.models else "gru"
    for name in bench.task_names:
        task = tasks.build(name)
        source = task.source("train")
        example = source[0]
        made = examples_per_second(source, bench.rounds)
        trained = _trained_per_second(bench, task, model)
        yield {
            "task": name,
            "length": len(example["inputs"]),
            "made_per_second": made,
            "microseconds": 1e6 / made,
            f"{model}_per_second": trained,
            "ratio": made / trained,
        }


def examples_per_second(source: Source, rounds: int, seconds: float = 0.1) -> float:
    """Best of `rounds` runs of at least `seconds` and 8 examples, by this thread's CPU time."""
    places, rates = itertools.cycle(range(len(source))), []
    for _ in range(rounds):
        count, started = 0, time.thread_time()
        while count < 8 or time.thread_time() - started < seconds:
            source[next(places)]
            count += 1
        rates.append(count / (time.thread_time() - started))
    return max(rates)


def _trained_per_second(bench: Bench, task: tasks.Task, model: str) -> float:
    """Examples a second of the compiled step alone, on one batch that is there already."""
    size = bench.batch_size * jax.device_count()
    experiment = Experiment(
        task=task,
        model=model,
        backbone=BackboneConfig(d_model=bench.d_model, depth=1, dtype=bench.dtype),
        train=TrainConfig(steps=bench.rounds, batch_size=size, threads=0),
    )
    program = make_program(experiment)
    first, key = seed_keys(0)
    state = program.init(first)
    batch = next(train_batches(task.source("train"), size, seed=0, threads=0))
    batch = to_devices(batch, program.rows)
    on_cpu = jax.default_backend() == "cpu"
    clock, cores = (time.process_time, os.cpu_count()) if on_cpu else (time.perf_counter, 1)
    times = []
    for _ in range(bench.rounds + 1):
        started = clock()
        state, metrics = program.step(state, batch, key)
        jax.block_until_ready((state, metrics))
        times.append(clock() - started)
    # The first step compiles. CPU seconds are spent on all cores at once, at best.
    return size * cores / min(times[1:])
