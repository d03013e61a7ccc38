"""A run on a whole split, and on other terms of its task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqzoo.train.config import Experiment
from seqzoo.train.evaluation.axes import Axis, Point, along, program_at
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import evaluate, load_run
from seqzoo.train.loop.held import changes_of
from seqzoo.train.loop.program import count_parameters


class Terms(NamedTuple):
    """What is evaluated besides the run as it is."""

    experiment: Experiment | None = None
    axes: Sequence[Axis] = ()
    chunk: int = 0


def evaluate_run(
    run: Path,
    *,
    split: str = "test",
    which: str = "selected",
    experiment: Experiment | None = None,
    axes: Sequence[Axis] = (),
    chunk: int = 0,
) -> dict[str, Any]:
    """Metrics of a run on a split, with the step they belong to and the task's baselines.

    Where labels stand at positions, also accuracy at each row's last one and by position. `axes`
    holds what is found along each of `axes`. With `chunk` rows are streamed, so many tokens at a
    time.

    `changes` holds what `experiment` (see `load_run`) changes of the run's own.
    `which` is as for `load_run`, or "selected": the last or the best, as the task's protocol says.
    """
    own = RunFolder(run).experiment()
    which = own.task.selection if which == "selected" else which
    terms = Terms(experiment, axes, chunk)
    if own.train.replicas > 1:
        several = [_evaluated(run, split, which, seed, terms) for seed in own.train.seeds]
        return {"seeds": list(own.seeds)} | _side_by_side(several)
    return _evaluated(run, split, which, own.train.seed, terms)


def _evaluated(run: Path, split: str, which: str, seed: int, terms: Terms) -> dict[str, Any]:
    experiment = terms.experiment
    own = RunFolder(run).experiment()
    changes = changes_of(run, own, experiment or own, split)
    program, state, meta = load_run(run, which=which, seed=seed, experiment=experiment)
    experiment = experiment or own
    task = experiment.task
    # The train split of a generated task is another one for each seed.
    where = program_at(program, Point(0, program.experiment, terms.chunk))
    trained = (state.params, state.rest)
    metrics = evaluate(where, *trained, task.source(split, seed), places=True)
    lines = {
        str(axis.name): along(program, *trained, axis, split=split, seed=seed)
        for axis in terms.axes
    }
    about = {"task": task.name, "model": experiment.model, "split": split}
    about |= {"main_metric": task.main_metric}
    about |= {"changes": changes} if changes else {}
    about |= {"streamed": terms.chunk} if terms.chunk else {}
    parameters = count_parameters(state.params)
    if meta["fallback"]:  # the numbers are those of an older checkpoint than was asked for
        about |= {"fallback": meta["fallback"]}
    trivial = {"baselines": task.baselines(split, seed)}  # of the main metric
    found = {**metrics, **trivial, **({"axes": lines} if lines else {})}
    return {**about, "step": meta["step"], "parameters": parameters, **found}


def _side_by_side(several: list[dict[str, Any]]) -> dict[str, Any]:
    """What is alike of several results as it is, what differs as a list."""
    joined = {name: [each[name] for each in several] for name in several[0]}
    for name, values in joined.items():
        if all(isinstance(value, dict) for value in values):
            joined[name] = [_side_by_side(values)]
    return {name: x[0] if all(y == x[0] for y in x) else x for name, x in joined.items()}
