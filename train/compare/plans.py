"""What is trained of each model, and how much of it in one program."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from seqzoo.train.compare import sweep as sweeps
from seqzoo.train.compare.results import RUNS
from seqzoo.train.compare.sweep import Sweep, changes_model, check_sweep, with_values
from seqzoo.train.compare.tuning import affordable, group_of
from seqzoo.train.compare.units import TRIALS, Plan, laid_out_in_groups, laid_out_together
from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import cost
from seqzoo.train.folder.files import run_path

Vectorise = Literal["auto", "always", "never"]
SMALL = 4_000_000  # parameters of all replicas together that "auto" trains in one program
Trials = Mapping[str, Sequence[Mapping[str, Any]]]  # label -> the values of each


def trials_of(models: Mapping[str, Experiment], sweep: Sweep | None) -> Trials:
    """The trials of each model. Raises ValueError for what cannot be tried."""
    if sweep is None:
        return {label: [] for label in models}
    check_sweep(sweep, models)
    found = {
        label: affordable(sweep, label, experiment, sweeps.trials_of(sweep, label, models))
        for label, experiment in models.items()
    }
    for label, trials in found.items():
        for trial in filter(changes_model, trials):
            cost(with_values(models[label], trial))  # finds what cannot be
    return found


def check_paths(
    labels: Iterable[str], out: Path, seeds: tuple[int, ...], sweep: Sweep | None
) -> None:
    """Raises ValueError where the folder of a run, named by label and seed, could not be made."""
    last = f"seed{seeds[-1] + (sweep.seeds if sweep else 0)}"
    for label in labels:
        run_path(out / RUNS / label / last)
        if sweep:
            run_path(out / TRIALS / label / "0000-0000" / last)


def layout_of(
    out: Path,
    label: str,
    parameters: int,
    seeds: Sequence[int],
    trials: Sequence[Mapping[str, Any]],
    sweep: Sweep | None,
    vectorise: Vectorise,
) -> tuple[bool, int]:
    """`Plan.together` and `Plan.group`: folders that are there count for more than the size."""
    most = {"always": math.inf, "never": 0, "auto": SMALL}[vectorise]
    together = laid_out_together(out, label, seeds, len(seeds) * parameters <= most)
    if sweep is None:
        return together, 0
    group = group_of(trials, sweep.seeds, parameters, most)
    if _seconds(sweep) < math.inf:
        group = min(group, 1)  # each begins when it is known what those before it took
    return together, laid_out_in_groups(out, label, group)


def plans_of(
    models: Mapping[str, Experiment],
    out: Path,
    seeds: tuple[int, ...],
    sweep: Sweep | None,
    trials: Trials,
    layouts: Mapping[str, tuple[bool, int]],
) -> dict[str, Plan]:
    """The plan of each model that has a layout. Trials have seeds that no final run has."""
    fresh = seeds[-1] + 1
    return {
        label: Plan(
            label=label,
            experiment=models[label],
            out=out,
            seeds=seeds,
            together=together,
            trials=tuple(trials[label]),
            tuning_seeds=tuple(range(fresh, fresh + sweep.seeds)) if sweep else (),
            group=group,
            seconds=_seconds(sweep),
        )
        for label, (together, group) in layouts.items()
    }


def _seconds(sweep: Sweep | None) -> float:
    what, most = sweep.limit if sweep else ("", math.inf)
    return most if what == "seconds" else math.inf
