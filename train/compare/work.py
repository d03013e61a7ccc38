"""The runs of a comparison: who trains which, and what comes of each.

A unit of work is one run folder. Whoever takes its lock trains it, tests it and writes what came of
it; processes that share a comparison's folder so share its work, and a run whose owner is gone is
taken over from its last checkpoint. Several processes that train together are one owner: the first
of them chooses and writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax

from seqzoo.train.checked import check_replicas, checked, read_json
from seqzoo.train.compare.curves import read_curves, until
from seqzoo.train.compare.results import (
    MODEL,
    RUNS,
    ModelResult,
    SeedResult,
    save_model,
)
from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import step_flops
from seqzoo.train.devices.processes import failing_together, from_first, is_first
from seqzoo.train.folder.files import plain, write_atomically
from seqzoo.train.folder.lease import LeaseError
from seqzoo.train.folder.metrics import NonFiniteError
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import evaluate_batches, load_selected
from seqzoo.train.loop.held import Held
from seqzoo.train.loop.program import Program, make_program
from seqzoo.train.loop.progress import ComparisonProgress
from seqzoo.train.loop.runner import train_owned
from seqzoo.train.loop.signals import Interrupted, StopRequest
from seqzoo.train.loop.speed import step_speed
from seqzoo.train.loop.state import TrainState
from seqzoo.train.loop.streams import KEPT_BYTES, RunData

TEST, SPEED = "test.json", "speed.json"
CURVE_POINTS = 40  # training metrics are means over a fortieth of the run
POLL = 1.0  # seconds between looks whether another process has finished a model


class _Speed(TypedDict):
    tokens_per_second: float | None
    step_seconds: NotRequired[float | None]
    step_flops: NotRequired[float | None]


class _Test(TypedDict):
    step: list[int | None] | None
    metrics: Mapping[str, float | list[float | None] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """Seeds of a model that share one program: one run, one folder."""

    label: str
    experiment: Experiment
    path: Path

    @property
    def title(self) -> str:
        """The label, with the seed where the unit is not the whole model."""
        train = self.experiment.train
        return self.label if self.path.name == self.label else f"{self.label} seed {train.seed}"

    def result(self) -> dict[str, Any] | None:
        """What the run has reported, if it is through: finished and tested, or failed."""
        result = RunFolder(self.path).result()
        replicas = self.experiment.train.replicas
        if result is not None and not _is_of(result, replicas):
            return None  # damaged: it is made again from the last checkpoint
        through = result is not None and (_all_failed(result) or (self.path / TEST).exists())
        return result if through else None


def laid_out_together(out: Path, label: str, seeds: Sequence[int], wanted: bool) -> bool:
    """Whether all seeds of a model are one unit; a folder that is there decides."""
    path = out / RUNS / label
    if len(seeds) == 1 or RunFolder(path).exists():
        return True
    return wanted and not any(RunFolder(path / f"seed{seed}").exists() for seed in seeds)


def units_of(
    label: str, experiment: Experiment, seeds: Sequence[int], out: Path, *, together: bool
) -> list[Unit]:
    """The units of a model: one for all seeds, or one for each."""
    path = out / RUNS / label

    def unit(path: Path, *seeds: int) -> Unit:
        train = dataclasses.replace(experiment.train, seed=seeds[0], replicas=len(seeds))
        own = dataclasses.replace(experiment, train=train)
        return Unit(label=label, experiment=own, path=path)

    return [unit(path, *seeds)] if together else [unit(path / f"seed{s}", s) for s in seeds]


class Work:
    """The units that one process, or one group of processes, has to see through.

    Args:
        units: label -> the units of a model.
        costs: label -> fields of `ModelResult` that no run tells.
        own: label -> configuration that the models do not share.
        held: what the data hold.
        stop: asks for an end.
        progress: hears of the runs.
    """

    def __init__(
        self,
        units: Mapping[str, list[Unit]],
        costs: Mapping[str, Mapping[str, Any]],
        own: Mapping[str, Mapping[str, Any]],
        held: Held,
        stop: StopRequest,
        progress: ComparisonProgress,
    ):
        self._units, self._costs, self._own, self._held = units, costs, own, held
        self._stop, self._progress = stop, progress
        self._data: dict[int, RunData] = {}  # by number of replicas
        self._programs: dict[str, Program] = {}  # of the model at hand, by label
        self._mine: RunFolder | None = None  # the folder of the unit at hand
        self._stopped = False

    def release(self) -> None:
        """Gives back the folder that this process has at the moment."""
        if self._mine is not None:
            self._mine.release()

    def each(self) -> Iterator[str]:
        """Does one model after another; yields the labels of those that are through.

        Those of other processes are waited for. It ends early when a stop is requested.
        """
        left = list(self._units)
        while left:
            through = from_first("which models are through", lambda: self._through(left))
            for label in through:
                left.remove(label)
                yield label
            if through:
                continue
            if self._stopped or self._asked_to_stop():
                return
            self._do_next(left)

    def _asked_to_stop(self) -> bool:
        return from_first("whether to stop", lambda: bool(self._stop.requested))

    def _through(self, labels: Sequence[str]) -> list[str]:
        found = []
        for label in labels:
            units = self._units[label]
            folder = units[0].path if len(units) == 1 else units[0].path.parent
            if not (folder / MODEL).exists():
                results = [unit.result() for unit in units]
                if None in results:
                    continue
                save_model(self._model(label, results), folder)
            found.append(label)
        return found

    def _do_next(self, labels: Sequence[str]) -> None:
        """Trains and tests the first unit that nobody else has; waits a little if there is none."""
        waiting = [unit for label in labels for unit in self._units[label]]
        with contextlib.ExitStack() as stack:
            if is_first():
                stack.enter_context(failing_together(self.release))
            place = from_first("what to train", lambda: self._claimed(waiting, stack))
            if place is None:
                time.sleep(POLL)
            else:
                self._do(waiting[place])

    def _claimed(self, units: Sequence[Unit], stack: contextlib.ExitStack) -> int | None:
        """The place of a unit that is ours until the stack ends."""
        for place, unit in enumerate(units):
            if unit.result() is not None:
                continue
            folder = RunFolder(unit.path)
            folder.check(unit.experiment, self._held)
            try:
                stack.enter_context(folder.owned(wait=False))
            except LeaseError:
                continue
            self._mine = folder
            folder.adopt(unit.experiment, self._held)
            if unit.result() is None:  # nobody was faster
                return place
            folder.release()
        return None

    def _do(self, unit: Unit) -> None:
        program = self._program(unit)
        folder = self._mine or RunFolder(unit.path)
        alone = jax.process_count() == 1
        try:
            with self._stop.interrupting() if alone else contextlib.nullcontext():
                data = self._data_of(unit, program)
        except Interrupted:
            self._stopped = True
            return
        options = {"data": data, "progress": self._progress, "title": unit.title}
        try:
            result = train_owned(program, folder, self._stop, **options)
        except NonFiniteError:
            return  # its result says so
        if not result["complete"]:
            self._stopped = True  # on all processes, whichever was asked
            return
        selected = load_selected(program, unit.path)
        found = evaluate_batches(program, selected.params, selected.rest, *data.whole("test"))
        found.pop("examples")
        test = {"step": selected.steps, "metrics": found}
        speed = self._speed(unit, program, data, selected.state)
        if is_first():
            text = json.dumps(plain(test), allow_nan=False)
            write_atomically(unit.path / SPEED, json.dumps(speed), folder.guard)
            write_atomically(unit.path / TEST, text, folder.guard)

    def _program(self, unit: Unit) -> Program:
        """The unit's program; the seeds of a model use one after another the same."""
        if unit.label not in self._programs:
            self._programs = {unit.label: make_program(unit.experiment)}
        return self._programs[unit.label]._replace(experiment=unit.experiment)

    def _data_of(self, unit: Unit, program: Program) -> RunData:
        """The data of the unit; all models share it where they have all seeds at once."""
        train = unit.experiment.train
        if train.replicas == 1:
            return RunData(unit.experiment, program.mesh, keep=KEPT_BYTES)
        if train.replicas not in self._data:
            data = RunData(unit.experiment, program.mesh, keep=KEPT_BYTES)
            # The first model would otherwise be timed with the making of everybody's data.
            data.train.fill(train.steps)
            self._data[train.replicas] = data
        return self._data[train.replicas]

    def _speed(self, unit: Unit, program: Program, data: RunData, state: TrainState) -> _Speed:
        """A step of one seed alone on the first batch, whatever trains at once here."""
        train, batch = unit.experiment.train, next(iter(data.train))
        if train.replicas > 1:
            alone = dataclasses.replace(train, replicas=1)
            program = make_program(dataclasses.replace(unit.experiment, train=alone))
            where = jax.tree.map(lambda x: x.sharding, program.like)
            # In one program, for arrays that lie on several hosts too.
            one = jax.jit(lambda s: jax.tree.map(lambda x: x[0], s), out_shardings=where)
            state, batch = one(state), {name: x[0] for name, x in batch.items()}
        flops = step_flops(program)
        seconds, rate = step_speed(program, state, batch)
        return {"tokens_per_second": rate, "step_seconds": seconds, "step_flops": flops}

    def _model(self, label: str, results: Sequence[Mapping[str, Any]]) -> ModelResult:
        units = self._units[label]
        speeds = [_read(unit.path / SPEED, _Speed) for unit in units]

        def of(name: str, best: Callable) -> float | None:
            return best((speed[name] for speed in speeds if speed.get(name)), default=None)

        return ModelResult(
            name=label,
            seeds=tuple(
                seed
                for unit, result in zip(units, results, strict=True)
                for seed in _seed_results(unit, result)
            ),
            steps=units[0].experiment.train.steps,
            config=self._own[label],
            tokens_per_second=of("tokens_per_second", max),
            step_seconds=of("step_seconds", min),
            step_flops=of("step_flops", min),
            train_seconds=sum(result["seconds"] for result in results),
            compile_seconds=sum(result["compile_seconds"] for result in results),
            **self._costs[label],
        )


def _seed_results(unit: Unit, result: Mapping[str, Any]) -> list[SeedResult]:
    train = unit.experiment.train
    several = train.replicas > 1
    failures = result["failure"] if several else [result["failure"]]
    skipped = result["skipped"] if several else [result["skipped"]]
    test = _read(unit.path / TEST, _Test)
    for name, value in test.get("metrics", {}).items():
        check_replicas(value, train.replicas, f"{unit.path / TEST}, {name}")
    tested = test.get("step") or [None] * train.replicas
    if len(tested) != train.replicas:
        raise ValueError(f"{unit.path / TEST}: step has {len(tested)} of {train.replicas} replicas")
    curves = read_curves(unit.path, train.steps, train.replicas, CURVE_POINTS)
    made = []
    for i, (seed, failure) in enumerate(zip(train.seeds, failures, strict=True)):
        final = {} if failure else test["metrics"]
        made.append(
            SeedResult(
                seed=seed,
                final={name: value[i] if several else value for name, value in final.items()},
                curves=until(curves[i], failure["step"]) if failure else curves[i],
                tested=None if failure else tested[i],
                failure=failure,
                skipped=skipped[i],
            )
        )
    return made


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


def _all_failed(result: Mapping[str, Any]) -> bool:
    failure = result.get("failure")
    return bool(all(failure) if isinstance(failure, list) else failure)


def _read(path: Path, kind: type) -> dict[str, Any]:
    return checked(read_json(path), kind, str(path)) if path.exists() else {}
