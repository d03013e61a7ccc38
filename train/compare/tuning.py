"""Trials of a model: which may be trained, what came of them, and which is chosen.

All models get the same trials (`sweep.py`), each with the same seeds, which no final run has. They
are chosen by the task's main metric on validation, by the step that the task's protocol selects;
the test split is read by final runs alone. A trial with a seed that failed is a failed trial: it is
never chosen for the seeds that survived.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from seqzoo.train.checked import checked, read_json
from seqzoo.train.compare.results import ModelResult, Trial
from seqzoo.train.compare.sweep import (
    Sweep,
    changes_model,
    field_kinds,
    numbers_of,
    trials_of,
    with_values,
)
from seqzoo.train.compare.units import Plan, Unit
from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import step_flops
from seqzoo.train.folder.files import plain, write_atomically
from seqzoo.train.loop.program import make_program

TUNED = "tuned.json"
SAME = "every model had the same trials"


class Tuned(TypedDict):
    """What came of a model's trials."""

    trials: list[Trial]
    chosen: int | None  # None: none has finished
    seconds: float


class Stage(TypedDict):
    """What may be trained of a model now."""

    units: int  # of the trials, the first so many
    values: Mapping[str, Any] | None  # what the final runs have; None: none are due
    through: bool  # whether the trials are


def stage_of(plan: Plan) -> Stage:
    """What is due of a model, by what its folders hold."""
    if not plan.trials:
        return Stage(units=0, values={}, through=True)
    tuned = tuned_of(plan)
    if tuned is None:
        return Stage(units=len(_begun(plan)), values=None, through=False)
    chosen = tuned["chosen"]
    values = None if chosen is None else dict(plan.trials[chosen])
    return Stage(units=0, values=values, through=True)


def units_at(plan: Plan, stage: Stage) -> list[Unit]:
    """The units that may be trained at a stage."""
    if not stage["through"]:
        return plan.trial_units()[: stage["units"]]
    return [] if stage["values"] is None else plan.final_units(stage["values"])


def tuned_of(plan: Plan) -> Tuned | None:
    """What came of the trials when all are through, written at the first look; else None."""
    path = plan.tuning_path / TUNED
    if path.exists():
        content = checked(read_json(path), Tuned, str(path))
        chosen, count = content["chosen"], len(content["trials"])
        if count > len(plan.trials) or not (chosen is None or 0 <= chosen < count):
            raise ValueError(f"{path} has no such trials: the file is damaged, remove it")
        return Tuned(**{**content, "trials": [Trial(**t) for t in content["trials"]]})
    units = _begun(plan)
    results = [unit.result() for unit in units]
    if None in results:
        return None
    trials = _trials(plan, list(zip(units, results, strict=True)))
    better = plan.experiment.task.higher_is_better
    seconds = sum(result["seconds"] for result in results)
    found = Tuned(trials=trials, chosen=choose(trials, higher_is_better=better), seconds=seconds)
    write_atomically(path, json.dumps(plain(found), indent=1, allow_nan=False) + "\n")
    return found


def _begun(plan: Plan) -> list[Unit]:
    """The units that the budget lets begin.

    Where it is of seconds, the next one begins when those before it are through.
    """
    units = plan.trial_units()
    if plan.seconds == math.inf:
        return units
    spent = 0.0
    for count, unit in enumerate(units, 1):
        result = unit.result()
        spent += result["seconds"] if result else math.inf
        if spent >= plan.seconds and (count == len(units) or units[count].trials != unit.trials):
            return units[:count]
    return units


def _trials(plan: Plan, through: Sequence[tuple[Unit, Mapping[str, Any]]]) -> list[Trial]:
    found: dict[int, list[Trial]] = {}
    for unit, result in through:
        replicas = unit.experiment.train.replicas
        for place in range(replicas):
            trial = unit.trials[place * len(unit.trials) // replicas]
            one = _of_replica(result, unit, place)
            found.setdefault(trial, []).append(one)
    return [
        Trial(
            values=plan.trials[trial],
            scores=tuple(score for one in own for score in one.scores),
            losses=tuple(loss for one in own for loss in one.losses),
            failure="; ".join(one.failure for one in own if one.failure),
        )
        for trial, own in found.items()
    ]


def _of_replica(result: Mapping[str, Any], unit: Unit, place: int) -> Trial:
    experiment = unit.experiment
    several, task = experiment.train.replicas > 1, experiment.task

    def of(value: Any) -> Any:
        return value[place] if several and isinstance(value, list) else value

    validation = result.get("validation", {})
    score = of(validation.get(f"validation/{task.main_metric}"))
    if task.selection == "best":
        score = of((result.get("best") or {}).get("value"))
    failure, seed = of(result["failure"]), experiment.seeds[place]
    why = ""
    if failure is not None:
        said = failure.get("reason") or f"not finite at step {failure['step']}"
        why = f"seed {seed}: {said}"
    elif score is None or not math.isfinite(score):
        why = f"seed {seed}: no finite {task.main_metric} on validation"
    loss = of(validation.get("validation/loss"))
    return Trial(values={}, scores=(None if why else score,), losses=(loss,), failure=why)


def choose(trials: Sequence[Trial], *, higher_is_better: bool) -> int | None:
    """The place of the best mean score; of equal ones the least loss counts, then the first."""

    def key(place: int) -> tuple[float, float, int]:
        trial = trials[place]
        losses = [math.inf if loss is None else loss for loss in trial.losses]
        score = float(np.mean(trial.scores))
        return (-score if higher_is_better else score), float(np.mean(losses)), place

    finished = [place for place, trial in enumerate(trials) if not trial.failure]
    return min(finished, key=key, default=None)


def affordable(
    sweep: Sweep, label: str, experiment: Experiment, trials: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    """Those of a model's trials that its budget pays for, which it has to know before training.

    Raises ValueError where that is none.
    """
    what, most = sweep.limit
    if what != "flops" or not trials:
        return trials
    spent, own, kept = 0.0, 0.0, []
    for trial in trials:
        if not own or changes_model(trial):
            own = operations_of(with_values(experiment, trial)) * sweep.seeds
        spent += own
        if spent > most:
            break
        kept.append(trial)
    if not kept:
        raise ValueError(
            f"--budget flops={most:g} pays for no trial of {label}, which takes {own:.3g}"
        )
    return kept


def operations_of(experiment: Experiment) -> float:
    """Floating-point operations of a whole training with one seed."""
    alone = dataclasses.replace(experiment.train, replicas=1)
    return step_flops(make_program(dataclasses.replace(experiment, train=alone))) * alone.steps


def group_of(trials: Sequence[Mapping[str, Any]], seeds: int, parameters: int, most: float) -> int:
    """How many trials share a program of at most so many parameters; 0: not even the seeds do."""
    if not trials or seeds * parameters > most:
        return 0
    if numbers_of(list(trials)) is None:
        return 1
    return int(max(1, min(len(trials), most // max(1, seeds * parameters))))


def tuning_note(sweep: Sweep, models: Mapping[str, Experiment]) -> str:
    """How models were tuned, for a reader of the page."""
    tried = "; ".join(
        f"{name} of {', '.join(map(str, v)) if isinstance(v, list) else v}"
        for name, v in sweep.to_dict()["fields"].items()
    )
    counts = {label: len(trials_of(sweep, label, models)) for label in models}
    alone = any(len(field_kinds(name, models)) < len(models) for name in sweep.fields)
    had = f"as many trials as a model has values for, {_counted(counts)}" if alone else SAME
    seeds = f"{sweep.seeds} seed{'s' if sweep.seeds > 1 else ''}"
    within = f", as far as a budget of {sweep.budget} for each model goes" if sweep.budget else ""
    task = next(iter(models.values())).task
    return (
        f"Tuning: {had} ({sweep.trials}), {tried}{within}, with {seeds} "
        f"each. The best mean {task.main_metric} on validation was chosen, of equal ones that of "
        "the least loss; final runs have other seeds, and they alone were tested."
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {count or 'none'}" for label, count in counts.items())


def at_edge(model: ModelResult) -> dict[str, str]:
    """Swept field -> "lowest" or "highest", where the chosen value is that of all tried."""
    found = {}
    for name, value in model.tuned_values.items():
        tried = {trial.values[name] for trial in model.trials}
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in tried)
        if numbers and len(tried) > 1 and value in (min(tried), max(tried)):
            found[name] = "lowest" if value == min(tried) else "highest"
    return found
