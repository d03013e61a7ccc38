"""Units of work of a comparison: run folders, and which of them a model has."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.train.checked import check_replicas
from seqzoo.train.compare.results import RUNS
from seqzoo.train.compare.sweep import numbers_of, with_values
from seqzoo.train.config import Experiment
from seqzoo.train.folder.run_folder import CONFIG, RunFolder

TEST = "test.json"
TRIALS = "trials"  # beside RUNS: the folders of runs that are not tested
NAME = re.compile(r"(\d+)(?:-(\d+))?")  # of such a folder: a trial, or from one to another
DIVIDED = "divided.json"  # the configuration of a run that had no memory: smaller ones replace it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """Seeds of a model, or of some of its trials, that share one program: one run, one folder."""

    label: str
    experiment: Experiment
    path: Path
    trials: tuple[int, ...] = ()  # which ones; none: it is a final run, which is tested
    chosen: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    @property
    def compiled(self) -> Experiment:
        """What its program is made of: numbers that trials chose enter it as those of trials do."""
        if not self.chosen:
            return self.experiment
        return dataclasses.replace(self.experiment, swept=self.chosen)

    @property
    def title(self) -> str:
        """The label, with trials and with the seed where the unit is not the whole model."""
        alone = self.path.name.startswith("seed")
        words = [self.label]
        if self.trials:
            ends = sorted({self.trials[0] + 1, self.trials[-1] + 1})
            words.append(f"trial{'s' if len(ends) > 1 else ''} {' to '.join(map(str, ends))}")
        return " ".join([*words, f"seed {self.experiment.train.seed}"] if alone else words)

    def result(self) -> dict[str, Any] | None:
        """What the run has reported, if it is through: finished and tested, or failed."""
        result = RunFolder(self.path).result()
        replicas = self.experiment.train.replicas
        if result is not None and not _is_of(result, replicas):
            return None  # damaged: it is made again from the last checkpoint
        if result is None or all_failed(result):
            return result
        done = result["complete"] if self.trials else (self.path / TEST).exists()
        return result if done else None

    @property
    def due(self) -> bool:
        """Whether it is to be trained: it is not through, and no smaller units replace it."""
        return not is_divided(self.path) and self.result() is None

    def divide(self) -> None:
        """Has smaller units replace it, for all processes and for ever; its folder is no run."""
        (self.path / CONFIG).rename(self.path / DIVIDED)

    def failed(self, reason: str) -> dict[str, Any]:
        """The result of a run that could not be."""
        replicas = self.experiment.train.replicas

        def each(value: Any) -> Any:
            return value if replicas == 1 else [value] * replicas

        failure = each({"step": 0, "reason": reason})
        spent = {"seconds": 0.0, "compile_seconds": 0.0}
        return {"step": 0, "complete": False, "failure": failure, "skipped": each(0), **spent}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained of one model: its trials, where there are some, then its seeds."""

    label: str
    experiment: Experiment
    out: Path  # the folder of the comparison
    seeds: tuple[int, ...]
    together: bool  # whether the seeds are one unit
    trials: tuple[Mapping[str, Any], ...] = ()
    tuning_seeds: tuple[int, ...] = ()
    group: int = 0  # trials of a unit; 0: each seed of each trial is one
    seconds: float = math.inf  # of training after which no trial is begun

    @property
    def path(self) -> Path:
        """The folder of the final runs."""
        return self.out / RUNS / self.label

    @property
    def tuning_path(self) -> Path:
        """The folder of the trials."""
        return self.out / TRIALS / self.label

    def final_units(self, values: Mapping[str, Any]) -> list[Unit]:
        """The units of the final runs, with what was chosen of the trials."""
        experiment = with_values(self.experiment, values)
        units = self._units(experiment, self.seeds, self.path, self.together)
        chosen = numbers_of([values]) if values else None
        if chosen and len(units) < len(self.seeds):
            units = [dataclasses.replace(unit, chosen=chosen) for unit in units]
        return units

    def trial_units(self) -> list[Unit]:
        """The units of the trials, in their order."""
        units, size = [], max(1, self.group)
        for first in range(0, len(self.trials), size):
            places = tuple(range(first, min(first + size, len(self.trials))))
            units += self._trial_units(places)
        return units

    def _trial_units(self, places: tuple[int, ...]) -> list[Unit]:
        own = [self.trials[place] for place in places]
        path = self.tuning_path / "-".join(f"{i:03}" for i in sorted({places[0], places[-1]}))
        if len(own) == 1:
            experiment = with_values(self.experiment, own[0])
            made = self._units(experiment, self.tuning_seeds, path, self.group > 0)
        elif is_divided(path):
            half = -(-len(places) // 2)
            return [*self._trial_units(places[:half]), *self._trial_units(places[half:])]
        else:
            count = len(own) * len(self.tuning_seeds)
            train = dataclasses.replace(
                self.experiment.train, seed=self.tuning_seeds[0], replicas=count
            )
            swept = numbers_of(own)
            experiment = dataclasses.replace(self.experiment, train=train, swept=swept)
            made = [Unit(label=self.label, experiment=experiment, path=path)]
        return [dataclasses.replace(unit, trials=places) for unit in made]

    def _units(
        self, experiment: Experiment, seeds: Sequence[int], path: Path, together: bool
    ) -> list[Unit]:
        """One unit for all seeds, or one for each, as where all had no memory."""

        def unit(path: Path, *seeds: int) -> Unit:
            train = dataclasses.replace(experiment.train, seed=seeds[0], replicas=len(seeds))
            own = dataclasses.replace(experiment, train=train)
            return Unit(label=self.label, experiment=own, path=path)

        if together and not is_divided(path):
            return [unit(path, *seeds)]
        return [unit(path / f"seed{s}", s) for s in seeds]


def is_divided(path: Path) -> bool:
    """Whether smaller units replace the one of this folder."""
    return (path / DIVIDED).exists()


def laid_out_together(out: Path, label: str, seeds: Sequence[int], wanted: bool) -> bool:
    """Whether all seeds of a model are one unit; a folder that is there decides."""
    path = out / RUNS / label
    if len(seeds) == 1 or RunFolder(path).exists():
        return True
    return wanted and not any(RunFolder(path / f"seed{seed}").exists() for seed in seeds)


def laid_out_in_groups(out: Path, label: str, wanted: int) -> int:
    """`Plan.group`; folders that are there decide, of which the largest was not divided before."""
    path = out / TRIALS / label
    there = sorted(p.name for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    found = [match for name in there if (match := NAME.fullmatch(name))]
    if not found:
        return wanted
    sizes = [int(match[2]) - int(match[1]) + 1 for match in found if match[2]]
    if sizes:
        return max(sizes)
    first = path / found[0][0]
    return 1 if RunFolder(first).exists() or is_divided(first) else 0


def all_failed(result: Mapping[str, Any]) -> bool:
    """Whether every replica of a run has failed."""
    failure = result.get("failure")
    return bool(all(failure) if isinstance(failure, list) else failure)


def _is_of(result: Mapping[str, Any], replicas: int) -> bool:
    """Whether a result has what a comparison reads, of as many replicas."""
    if not {"failure", "skipped", "seconds", "compile_seconds"} <= result.keys():
        return False
    try:
        for name in ("failure", "skipped"):
            check_replicas(result[name], replicas, name)
    except ValueError:
        return False
    return True
