"""Evaluation over a whole split: every example counts once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from seqzoo.tasks.data.positions import LAST, POSITIONS, curve
from seqzoo.tasks.task import Source, metric_value
from seqzoo.train.config import Experiment, MeshConfig, TrainConfig, train_of
from seqzoo.train.devices.processes import from_first
from seqzoo.train.folder.checkpoint import CheckpointError, Checkpoints
from seqzoo.train.folder.run_folder import RunFolder, say_on_stderr
from seqzoo.train.loop.data import HostBatch, to_devices
from seqzoo.train.loop.program import Program, make_program
from seqzoo.train.loop.selection import keeps_copy
from seqzoo.train.loop.state import Arrays, ModelFactory, TrainState
from seqzoo.train.loop.step import Measured
from seqzoo.train.loop.streams import RunData


def evaluate(
    program: Program, params: Arrays, rest: Arrays, source: Source, *, places: bool = False
) -> dict[str, Any]:
    """Metrics over a split, totals summed in float64 before dividing, and `examples` seen.

    With `places` also accuracy by position and at each row's last label, where there are labels at
    positions. A number each, of several replicas an array; NaN where no example counts for a
    metric. Raises RuntimeError if the number of examples is not the split's size.
    """
    batches = RunData(program.experiment, program.mesh).over(source)(0)
    return evaluate_batches(program, params, rest, batches, len(source), places=places)


def evaluate_batches(
    program: Program,
    params: Arrays,
    rest: Arrays,
    batches: Iterable[HostBatch],
    size: int,
    *,
    places: bool = False,
) -> dict[str, Any]:
    """`evaluate` on batches that hold `size` examples."""
    task = program.experiment.task
    placed = (to_devices(batch, program.eval_rows) for batch in batches)
    if task.stateful:
        results, carry = [], None
        for batch in placed:
            if carry is None:
                carry = program.lanes.start(params, rest, len(batch["fresh"]))
            measured, carry = program.lanes.step(params, rest, carry, batch)
            results.append(measured)
    else:
        results = [program.evaluate(params, rest, batch) for batch in placed]
    metrics = combine(results, several=program.experiment.train.replicas > 1, places=places)
    metrics |= task.derived(metrics)
    if metrics["examples"] != size:
        raise RuntimeError(f"evaluated {metrics['examples']} examples of {size}")
    return metrics


def combine(
    results: list[Measured], several: bool = False, *, places: bool = False
) -> dict[str, Any]:
    """A value for each metric from the totals and weights of all batches."""
    host = jax.device_get(results)
    counted = np.sum([batch.pop("examples")[0] for batch in host], axis=0, dtype=np.float64)
    metrics: dict[str, Any] = {}
    for name in host[0]:
        if name in (POSITIONS, LAST) and not places:
            continue
        pairs = [np.stack(batch[name]) for batch in host]
        sums = np.sum(pairs, axis=0, dtype=np.float64)
        if name == POSITIONS:
            metrics[name] = curve(*sums)
            continue
        value = metric_value(*sums, batch_dims=int(several))
        metrics[name] = value if several else float(value)
    if np.ptp(counted):
        raise RuntimeError(f"replicas were evaluated on different examples: {counted}")
    metrics["examples"] = int(counted.flat[0])
    return metrics


def saved(state: TrainState, best: tuple[Arrays, Arrays] | None) -> PyTree:
    """What a checkpoint holds; `best` are parameters and other variables (see `keeps_copy`)."""
    return state if best is None else {"state": state, "best": best}


def saved_like(program: Program) -> PyTree:
    """Shapes, dtypes and shardings of what a run's checkpoints hold."""
    like = program.like
    copy = (like.params, like.rest) if keeps_copy(program.experiment.train) else None
    return saved(like, copy)


def from_saved(found: PyTree) -> tuple[TrainState, tuple[Arrays, Arrays] | None]:
    """Reverses `saved`."""
    return (found, None) if isinstance(found, TrainState) else (found["state"], found["best"])


def load_run(
    run: Path,
    *,
    which: str = "last",
    seed: int | None = None,
    make_model: ModelFactory | None = None,
    experiment: Experiment | None = None,
) -> tuple[Program, TrainState, dict[str, Any]]:
    """Program, state and checkpoint data of a run, on one device.

    The state's parameters are those that are evaluated, which may be an average.

    Args:
        run: the run's folder.
        which: "last", "best" (on validation) or a step.
        seed: of a run of several replicas the one that is wanted; by default the first.
        make_model: builds the model, where it is not the configuration's.
        experiment: in place of the run's own, with the same arrays: another rate of its test split,
            another step of its state space.

    Raises ValueError for what is no run, has no such seed or other arrays, and CheckpointError
    where there is no whole checkpoint.
    """
    own = RunFolder(run).experiment()
    place = _place(own.train, seed)

    alone = own.alone(place)

    def program_of(experiment: Experiment) -> Program:
        here = dataclasses.replace(experiment, mesh=MeshConfig())
        return make_program(here, make_model=make_model, devices=jax.local_devices()[:1])

    program = program_of(alone)
    if experiment is not None:
        kept, program = (
            program.like,
            program_of(dataclasses.replace(experiment, train=alone.train, swept={})),
        )
        check_like(kept, program.like)
    fallback: list[str] = []

    def passed(text: str) -> None:
        say_on_stderr(text)
        fallback.append(text)

    whole = program if own.train.replicas == 1 else program_of(own)
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        step = _choose(checkpoints, which, own.train, passed)
        state, best = from_saved(checkpoints.restore(step, saved_like(whole)))
        meta = checkpoints.meta(step, own.train.replicas) | {"fallback": fallback}
    state = state._replace(params=whole.weights(state))
    if own.train.replicas > 1:
        meta = _of_replica(meta, place)
        if which == "best" and meta.get("best"):
            state = state._replace(params=best[0], rest=best[1])
            meta["step"] = meta["best"]["step"]
        state = jax.tree.map(lambda x: x[place], state)
    return program, state, meta


class Selected(NamedTuple):
    """What the task's protocol tests of a run, for each replica, where the program has it."""

    params: Arrays
    rest: Arrays
    steps: list[int | None] | None  # None: the last; in place of a step: none was finite
    state: TrainState  # of the same checkpoint


def load_selected(program: Program, run: Path) -> Selected:
    """The parameters of a finished run that are tested, on all its processes."""
    experiment = program.experiment
    with contextlib.closing(Checkpoints(run)) as checkpoints:

        def choose() -> tuple[int, dict[str, Any] | None]:
            # The first process alone knows that what it writes is written.
            which, train = experiment.task.selection, experiment.train
            step = _choose(checkpoints, which, train, say_on_stderr)
            return step, checkpoints.meta(step, train.replicas).get("best")

        step, found = from_first("which checkpoint is tested", choose)
        state, best = from_saved(checkpoints.restore(step, saved_like(program)))
    params = program.weights(state)
    if experiment.task.selection == "last":
        return Selected(params, state.rest, None, state)
    steps = found["step"] if found else None
    if best is None:
        return Selected(params, state.rest, [steps], state)
    return Selected(*best, steps or [None] * experiment.train.replicas, state)


def look_into(run: Path, *, which: str, seed: int) -> tuple[Arrays, dict[str, Any]]:
    """Parameters and checkpoint data of a run, as `load_run` finds them, without its code."""
    train = train_of(RunFolder(run).config())
    place = _place(train, seed)
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        step = _choose(checkpoints, which, train, say_on_stderr)
        found, meta = checkpoints.read(step), checkpoints.meta(step, train.replicas)
    params = found.get("state", found)["params"]
    if train.replicas > 1:
        meta = _of_replica(meta, place)
        if which == "best" and meta.get("best"):
            params, meta["step"] = found["best"][0], meta["best"]["step"]
        params = jax.tree.map(lambda x: x[place], params)
    return params, meta


def _place(train: TrainConfig, seed: int | None) -> int:
    seeds = train.seeds
    if seed is None:
        return 0
    if seed not in seeds:
        raise ValueError(f"the run has no seed {seed} (it has {', '.join(map(str, seeds))})")
    return seeds.index(seed)


def _of_replica(value: Any, place: int) -> Any:
    """The part of one replica in what `Record.meta` gave."""
    if isinstance(value, Mapping):
        shared = ("key", "fallback")
        one = {n: v if n in shared else _of_replica(v, place) for n, v in value.items()}
        best = one.get("best")
        return {**one, "best": None} if best and best["step"] is None else one
    return value[place] if isinstance(value, list) else value


def check_like(kept: TrainState, like: TrainState) -> None:
    """Raises ValueError unless both have the same arrays."""
    one, two = ([(x.shape, x.dtype) for x in jax.tree.leaves(s)] for s in (kept, like))
    if one != two or kept.params.keys() != like.params.keys():
        raise ValueError(
            "the run has no arrays for these options: a model may be evaluated with others only "
            "where they change none of its sizes"
        )


def _choose(
    checkpoints: Checkpoints, which: str, train: TrainConfig, say: Callable[[str], None]
) -> int:
    """The step of a checkpoint; `say` hears of newer ones that are passed over.

    A step that is named, or is the best one, is that one or none.
    """
    if which.isdecimal():
        return _named(checkpoints, int(which))
    newest = checkpoints.newest_whole(say)
    if newest is None:
        raise CheckpointError(f"{checkpoints.folder.parent} has no checkpoint yet")
    if which == "last":
        return newest
    if which != "best":
        raise ValueError(f"no checkpoint {which!r} (valid: {_known(checkpoints)})")
    if not train.keep_best:
        raise ValueError("the run was trained with --no-keep-best; --checkpoint last is there")
    best = checkpoints.meta(newest, train.replicas).get("best")
    if best is None or keeps_copy(train):
        return newest
    return _named(checkpoints, best["step"])


def _named(checkpoints: Checkpoints, step: int) -> int:
    if step not in checkpoints.steps():
        raise ValueError(f"no checkpoint '{step}' (valid: {_known(checkpoints)})")
    fault = checkpoints.fault(step)
    if fault:
        raise CheckpointError(f"checkpoint {step} is damaged ({fault})")
    return step


def _known(checkpoints: Checkpoints) -> str:
    return ", ".join(["last", "best", *map(str, checkpoints.steps())])
