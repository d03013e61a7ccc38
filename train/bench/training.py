"""The train step: how long a stack compiles, and what the host does beside the program."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.bench.options import Bench
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.loop.data import to_devices, train_batches
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.runner import run
from seqzoo.train.loop.state import seed_keys
from seqzoo.train.loop.trace import SKIP, host_time

Row = dict[str, Any]


def depth(bench: Bench) -> Iterator[Row]:
    """Compile time of the train step of a deep stack over that of a shallow one."""
    for name in bench.names if bench.models else (bench.baseline,):
        seconds: dict[int, list[float]] = {n: [] for n in bench.depths}
        for _ in range(bench.rounds):
            for layers in bench.depths:
                seconds[layers].append(_compile_seconds(_experiment(bench, name, layers)))
        shallow, deep = (statistics.median(seconds[n]) for n in bench.depths)
        few, many = bench.depths
        yield {
            "model": name,
            f"seconds_{few}_layers": shallow,
            f"seconds_{many}_layers": deep,
            "ratio": deep / shallow,
        }


def _experiment(bench: Bench, name: str, layers: int) -> Experiment:
    task = tasks.build("mqar", length=bench.lengths[0], vocab_size=bench.lengths[0] + 2)
    backbone = BackboneConfig(d_model=bench.d_model, depth=layers, dtype=bench.dtype)
    # The batch is divided over all devices there are.
    size = bench.batch_size * jax.device_count()
    return Experiment(
        task=task,
        model=bench.kind(name),
        mixer=bench.options_of(name),
        backbone=backbone,
        train=TrainConfig(steps=bench.steps, batch_size=size),
    )


def _compile_seconds(experiment: Experiment) -> float:
    """Tracing, lowering and compiling the train step, which no cache holds."""
    program = make_program(experiment)
    (batch,) = _batches(experiment, 1)
    _, key = seed_keys(0)
    started = time.perf_counter()
    program.step.lower(program.like, to_devices(batch, program.rows), key).compile()
    return time.perf_counter() - started


def _batches(experiment: Experiment, count: int) -> list[dict]:
    train = experiment.train
    source = experiment.task.source("train", train.seed)
    stream = train_batches(source, train.batch_size, seed=train.seed, threads=0)
    return [batch for _, batch in zip(range(count), stream, strict=False)]


def host(bench: Bench) -> Iterator[Row]:
    """Milliseconds that the loop's thread works for a step, read from a profile of the loop.

    What it waits for the compiled program or runs it does not count; `idle_ms` is the time of a
    step in which no program ran.
    """
    for name in bench.names if bench.models else (bench.baseline,):
        with tempfile.TemporaryDirectory() as folder:
            run(_watched(bench, name), Path(folder) / "run")
            time_ = host_time(Path(folder))
        yield {"model": name, "host_ms": time_.host, "idle_ms": time_.idle, "step_ms": time_.step}


def _watched(bench: Bench, name: str) -> Experiment:
    """An experiment whose loop does nothing but steps while it is traced."""
    experiment = _experiment(bench, name, 2)
    train = dataclasses.replace(
        experiment.train,
        steps=bench.steps + 2 * SKIP,
        profile=True,
        profile_steps=bench.steps,
        eval_every=0,
        save_every=0,
        keep_best=False,
    )
    task = dataclasses.replace(experiment.task, validation_size=train.batch_size)
    return dataclasses.replace(experiment, task=task, train=train)
