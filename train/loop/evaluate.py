"""Evaluation over a whole split: every example counts once."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqzoo.tasks.task import Source, metric_value
from seqzoo.train.config import Experiment, MeshConfig, differences
from seqzoo.train.folder.checkpoint import CheckpointError, Checkpoints
from seqzoo.train.folder.run_folder import RunFolder, say_on_stderr
from seqzoo.train.loop.data import eval_batches, rows_of_process, to_devices
from seqzoo.train.loop.program import Program, count_parameters, make_program
from seqzoo.train.loop.state import Arrays, ModelFactory, TrainState
from seqzoo.train.loop.step import Measured


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
    run: Path,
    *,
    which: str = "last",
    make_model: ModelFactory | None = None,
    experiment: Experiment | None = None,
) -> tuple[Program, TrainState, dict[str, Any]]:
    """Program, state and checkpoint data of a run, on one device.

    Args:
        run: the run's folder.
        which: "last", "best" (on validation) or a step.
        make_model: builds the model, where it is not the configuration's.
        experiment: in place of the run's own, with the same arrays: another rate of its test split,
            another step of its state space.

    Raises ValueError for what is no run or has other arrays, and CheckpointError where there is no
    whole checkpoint.
    """
    own = RunFolder(run).experiment()
    checkpoints = Checkpoints(run)
    step = _choose(checkpoints, which)

    def program_of(experiment: Experiment) -> Program:
        alone = dataclasses.replace(experiment, mesh=MeshConfig())
        return make_program(alone, make_model=make_model, devices=jax.local_devices()[:1])

    program = program_of(own)
    if experiment is not None:
        kept, program = program.like, program_of(experiment)
        _check_like(kept, program.like)
    state = checkpoints.restore(step, program.like)
    meta = checkpoints.meta(step)
    checkpoints.close()
    return program, state, meta


def _check_like(kept: TrainState, like: TrainState) -> None:
    one, two = ([(x.shape, x.dtype) for x in jax.tree.leaves(s)] for s in (kept, like))
    if one != two or kept.params.keys() != like.params.keys():
        raise ValueError(
            "the run has no arrays for these options: a model may be evaluated with others only "
            "where they change none of its sizes"
        )


def evaluate_run(
    run: Path,
    *,
    split: str = "test",
    which: str = "selected",
    experiment: Experiment | None = None,
) -> dict[str, Any]:
    """Metrics of a run on a split, with the step they belong to and the task's baselines.

    `changes` holds what `experiment` (see `load_run`) changes of the run's own.
    `which` is as for `load_run`, or "selected": the last or the best, as the task's protocol says.
    """
    own = RunFolder(run).experiment()
    which = own.task.selection if which == "selected" else which
    program, state, meta = load_run(run, which=which, experiment=experiment)
    experiment = experiment or own
    changes = {d.key: d.new for d in differences(own.to_dict(), experiment.to_dict())}
    metrics = evaluate(program, state.params, state.rest, experiment.task.source(split))
    about = {"task": experiment.task.name, "model": experiment.model, "split": split}
    about |= {"changes": changes} if changes else {}
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
