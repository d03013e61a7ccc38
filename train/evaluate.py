"""Evaluation over a whole split: every example counts once."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqzoo.tasks.task import Source, metric_value
from seqzoo.train.checkpoint import CheckpointError, Checkpoints
from seqzoo.train.config import MeshConfig
from seqzoo.train.data import eval_batches, rows_of_process, to_devices
from seqzoo.train.folder import RunFolder, say_on_stderr
from seqzoo.train.program import Program, count_parameters, make_program
from seqzoo.train.state import Arrays, ModelFactory, TrainState
from seqzoo.train.step import Measured


def evaluate(program: Program, params: Arrays, rest: Arrays, source: Source) -> dict[str, float]:
    """Metrics over a split, totals summed in float64 before dividing, and `examples` seen.

    Raises RuntimeError if the number of examples is not the split's size.
    """
    train = program.experiment.train
    shards = math.prod(program.mesh.shape[axis] for axis in ("replica", "data", "fsdp"))
    size = -(-(train.eval_batch_size or train.batch_size) // shards) * shards
    rows = rows_of_process(program.rows, size)
    task = program.experiment.task
    reading = {"threads": train.threads, "prefetch": train.prefetch}
    batches = eval_batches(source, size, rows=rows, lanes=task.stateful, **reading)
    placed = (to_devices(batch, program.rows) for batch in batches)
    if task.stateful:
        results, carry = [], program.lanes.start(params, rest, size)
        for batch in placed:
            measured, carry = program.lanes.step(params, rest, carry, batch)
            results.append(measured)
    else:
        results = [program.evaluate(params, rest, batch) for batch in placed]
    metrics = combine(results)
    metrics |= task.derived(metrics)
    if metrics["examples"] != len(source):
        raise RuntimeError(f"evaluated {metrics['examples']} examples of {len(source)}")
    return metrics


def combine(results: list[Measured]) -> dict[str, float]:
    """One number a metric from the totals and weights of all batches."""
    host = jax.device_get(results)
    metrics = {}
    for name in host[0]:
        total, weight = np.sum([batch[name] for batch in host], axis=0, dtype=np.float64)
        metrics[name] = float(metric_value(total, weight)) if np.any(weight) else math.nan
    metrics["examples"] = int(sum(batch["examples"][0] for batch in host))
    return metrics


def load_run(
    run: Path, *, which: str = "last", make_model: ModelFactory | None = None
) -> tuple[Program, TrainState, dict[str, Any]]:
    """Program, state and checkpoint data of a run, on one device.

    Args:
        run: the run's folder.
        which: "last", "best" (on validation) or a step.
        make_model: builds the model, where it is not the configuration's.

    Raises ValueError for what is no run and CheckpointError where there is no whole checkpoint.
    """
    experiment = dataclasses.replace(RunFolder(run).experiment(), mesh=MeshConfig())
    checkpoints = Checkpoints(run)
    step = _choose(checkpoints, which)
    program = make_program(experiment, make_model=make_model, devices=jax.local_devices()[:1])
    state = checkpoints.restore(step, program.like)
    meta = checkpoints.meta(step)
    checkpoints.close()
    return program, state, meta


def evaluate_run(run: Path, *, split: str = "test", which: str = "selected") -> dict[str, Any]:
    """Metrics of a run on a split, with the step they belong to and the task's baselines.

    `which` is as for `load_run`, or "selected": the last or the best, as the task's protocol says.
    """
    if which == "selected":
        which = RunFolder(run).experiment().task.selection
    program, state, meta = load_run(run, which=which)
    experiment = program.experiment
    metrics = evaluate(program, state.params, state.rest, experiment.task.source(split))
    about = {"task": experiment.task.name, "model": experiment.model, "split": split}
    parameters = count_parameters(state.params)
    trivial = {"baselines": experiment.task.baselines(split)}  # of the main metric
    return {**about, "step": meta["step"], "parameters": parameters, **metrics, **trivial}


def _choose(checkpoints: Checkpoints, which: str) -> int:
    newest = checkpoints.newest_whole(say_on_stderr)
    if newest is None:
        raise CheckpointError(f"{checkpoints.folder.parent} has no checkpoint yet")
    if which == "last":
        return newest
    if which == "best":
        best = checkpoints.meta(newest).get("best")
        which = str(best["step"]) if best else str(newest)
    if not which.isdecimal() or int(which) not in checkpoints.steps():
        known = ", ".join(map(str, checkpoints.steps()))
        raise ValueError(f"no checkpoint {which!r} (valid: last, best, {known})")
    fault = checkpoints.fault(int(which))
    if fault:
        raise CheckpointError(f"checkpoint {which} is damaged ({fault}); newest whole: {newest}")
    return int(which)
