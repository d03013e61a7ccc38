"""What the trained models of a comparison do along axes, found from their checkpoints.

    OUT/runs/LABEL/axes.json      axis -> seed -> {"at": [...], metric: [...]}

An axis that is asked for later is added to what is there; nothing is trained again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.train.checked import checked, read_json
from seqzoo.train.compare.results import AXES, Curve
from seqzoo.train.compare.units import Unit
from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import cost
from seqzoo.train.devices.processes import from_first, is_first
from seqzoo.train.evaluation.axes import Axis, along, points
from seqzoo.train.folder.files import plain, write_atomically
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import load_selected
from seqzoo.train.loop.program import make_program

Found = dict[str, dict[str, Curve]]  # axis as written -> seed -> curve


def check_axes(models: Mapping[str, Experiment], axes: Sequence[Axis]) -> None:
    """Raises ValueError, before anything is trained, for what a model cannot be tested at."""
    for label, experiment in models.items():
        own = cost(experiment)["parameters"] if axes else 0
        for axis in axes:
            for point in points(experiment, axis):
                if point.experiment is experiment:
                    continue
                if cost(point.experiment)["parameters"] != own:
                    raise ValueError(
                        f"{label} has other parameters at {axis.name}={point.value:g}, as learned "
                        "positions do for longer rows: build it for the longest by the task's own "
                        "option for testing (--data.test-length), or leave that value out"
                    )


def measure(models: Mapping[str, Experiment], folder: Path, axes: Sequence[Axis]) -> None:
    """Evaluates every model along every axis that is not there yet.

    What is loaded is what the runs' own folders say, the values that a sweep has chosen among it.
    """
    for label, experiment in models.items():
        own = [
            Unit(label=label, experiment=_as_run(run, experiment), path=run)
            for run in _runs(folder / label)
        ]
        path = folder / label / AXES
        known = from_first("what was measured", lambda path=path: read(path))
        for axis in axes:
            if str(axis) not in known:
                found = [_of_unit(unit, axis) for unit in own]
                known[str(axis)] = {seed: curve for part in found for seed, curve in part.items()}
                if is_first():
                    text = json.dumps(plain(known), indent=1, allow_nan=False)
                    write_atomically(path, text + "\n")


def read(path: Path) -> Found:
    """What was found so far."""
    return checked(read_json(path), Found, str(path)) if path.is_file() else {}


def _runs(folder: Path) -> list[Path]:
    """The run of all seeds, or those of each."""
    return [folder] if RunFolder(folder).exists() else sorted(folder.glob("seed*"))


def _as_run(run: Path, experiment: Experiment) -> Experiment:
    return dataclasses.replace(RunFolder(run).experiment(), mesh=experiment.mesh)


def _of_unit(unit: Unit, axis: Axis) -> dict[str, dict[str, Any]]:
    """Seed -> curve, of the seeds that finished."""
    train = unit.experiment.train
    failures = (RunFolder(unit.path).result() or {}).get("failure")
    failures = failures if train.replicas > 1 else [failures]
    if all(failures):
        return {}
    program = make_program(unit.experiment)
    selected = load_selected(program, unit.path)
    curves = along(program, selected.params, selected.rest, axis)
    return {
        str(seed): {name: _of_replica(name, curves[name], i, train.replicas) for name in curves}
        for i, (seed, failure) in enumerate(zip(train.seeds, failures, strict=True))
        if not failure
    }


def _of_replica(name: str, values: Iterable[Any], place: int, replicas: int) -> list[float]:
    if name == "at" or replicas == 1:
        return list(values)
    return [np.asarray(value)[place].item() for value in values]
