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
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax

from seqzoo.train.checked import check_replicas, checked, read_json
from seqzoo.train.compare.curves import read_curves, until
from seqzoo.train.compare.results import MODEL, ModelResult, SeedResult, save_model
from seqzoo.train.compare.sweep import changes_model, with_values
from seqzoo.train.compare.tuning import Tuned, stage_of, tuned_of, units_at
from seqzoo.train.compare.units import TEST, Plan, Unit
from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import cost, step_flops
from seqzoo.train.devices.processes import failing_together, from_first, is_first
from seqzoo.train.devices.sharding import SEEDS_AXIS
from seqzoo.train.folder.files import plain, write_atomically
from seqzoo.train.folder.lease import LeaseError
from seqzoo.train.folder.metrics import NonFiniteError
from seqzoo.train.folder.run_folder import RunFolder, say_on_stderr
from seqzoo.train.loop.evaluate import evaluate_batches, load_selected
from seqzoo.train.loop.held import Held
from seqzoo.train.loop.program import Program, make_program
from seqzoo.train.loop.progress import ComparisonProgress
from seqzoo.train.loop.runner import train_owned
from seqzoo.train.loop.signals import Interrupted, StopRequest
from seqzoo.train.loop.speed import step_speed
from seqzoo.train.loop.state import TrainState
from seqzoo.train.loop.streams import KEPT_BYTES, RunData

SPEED = "speed.json"
CURVE_POINTS = 40  # training metrics are means over a fortieth of the run
NO_MEMORY = "RESOURCE_EXHAUSTED"  # in XLA's message
POLL = 1.0  # seconds between looks whether another process has finished a model


class _Speed(TypedDict):
    tokens_per_second: float | None
    step_seconds: NotRequired[float | None]
    step_flops: NotRequired[float | None]


class _Test(TypedDict):
    step: list[int | None] | None
    metrics: Mapping[str, float | list[float | None] | None]


class Work:
    """The units that one process, or one group of processes, has to see through.

    Args:
        plans: label -> what is trained of a model.
        costs: label -> fields of `ModelResult` that no run tells.
        programs: label -> the program of the model's experiment, of one seed.
        own: the configuration of a model that the others do not share.
        held: what the data hold.
        stop: asks for an end.
        progress: hears of the runs.
    """

    def __init__(
        self,
        plans: Mapping[str, Plan],
        costs: Mapping[str, Mapping[str, Any]],
        programs: Mapping[str, Program],
        own: Callable[[Experiment], Mapping[str, Any]],
        held: Held,
        stop: StopRequest,
        progress: ComparisonProgress,
    ):
        self._plans, self._costs, self._own, self._held = plans, costs, own, held
        self._stop, self._progress = stop, progress
        self._data: dict[tuple[int, ...], RunData] = {}  # by the replicas' seeds
        self._programs: dict[str, Program] = {}  # the newest, by `_key`
        self._unused = {_key(program.experiment): program for program in programs.values()}
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
        left = list(self._plans)
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
            plan = self._plans[label]
            if not (plan.path / MODEL).exists():
                stage = stage_of(plan)
                units = units_at(plan, stage)
                results = [unit.result() for unit in units]
                if not stage["through"] or None in results:
                    continue
                save_model(self._model(plan, units, results), plan.path)
            found.append(label)
        return found

    def _do_next(self, labels: Sequence[str]) -> None:
        """Trains and tests the first unit that nobody else has; waits a little if there is none."""
        plans = [self._plans[label] for label in labels]
        stages = from_first("what is due", lambda: [stage_of(plan) for plan in plans])
        waiting = [u for p, s in zip(plans, stages, strict=True) for u in units_at(p, s)]
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
            if not unit.due:
                continue
            folder = RunFolder(unit.path)
            try:
                stack.enter_context(folder.owned(wait=False))
            except LeaseError:
                continue
            self._mine = folder
            if unit.due:  # nobody was faster
                folder.check(unit.experiment, self._held)
                folder.adopt(unit.experiment, self._held)
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
        try:
            self._train(unit, program, data, folder)
        except NonFiniteError:
            return  # its result says so
        except jax.errors.JaxRuntimeError as error:
            if NO_MEMORY not in str(error) or not alone or not self._given_up(unit, folder):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what has filled the memory

    def _train(self, unit: Unit, program: Program, data: RunData, folder: RunFolder) -> None:
        options = {"data": data, "progress": self._progress, "title": unit.title}
        result = train_owned(program, folder, self._stop, **options)
        if not result["complete"]:
            self._stopped = True  # on all processes, whichever was asked
        elif not unit.trials:
            self._test(unit, program, data, folder)

    def _given_up(self, unit: Unit, folder: RunFolder) -> bool:
        """Whether the others go on: with smaller units in place of one that has no memory.

        A trial that is alone has failed, a final run that is alone ends the comparison.
        """
        why, runs = "the devices have too little memory", unit.experiment.train.replicas
        if runs > 1:
            folder.guard()
            unit.divide()
            self._programs.clear()
            self._data.pop(unit.experiment.seeds, None)
            words = f"{unit.title}: {why} for {runs} runs in one program"
            say_on_stderr(f"{words}; smaller programs take its place")
        elif unit.trials:
            folder.finish(unit.failed(why))
        return runs > 1 or bool(unit.trials)

    def _test(self, unit: Unit, program: Program, data: RunData, folder: RunFolder) -> None:
        """Writes what the selected parameters give on the test split, and how fast they train."""
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
        """The unit's program; trials and seeds of a model use one after another the same."""
        key = _key(unit.compiled)
        if key not in self._programs:
            self._programs = {key: self._made(unit.compiled)}
        return self._programs[key].given(unit.compiled)._replace(experiment=unit.experiment)

    def _made(self, experiment: Experiment) -> Program:
        """The program that was made before, which this gives away with what it compiles, or one."""
        made = self._unused.pop(_key(experiment), None) or make_program(experiment)
        return made.given(experiment)

    def _data_of(self, unit: Unit, program: Program) -> RunData:
        """The data of the unit; all models share it where they have all seeds at once."""
        train, seeds = unit.experiment.train, unit.experiment.seeds
        if train.replicas == 1:
            return RunData(unit.experiment, program.mesh, keep=KEPT_BYTES)
        if seeds not in self._data:
            data = RunData(unit.experiment, program.mesh, keep=KEPT_BYTES)
            # The first model would otherwise be timed with the making of everybody's data.
            data.train.fill(train.steps)
            self._data[seeds] = data
        return self._data[seeds]

    def _speed(self, unit: Unit, program: Program, data: RunData, state: TrainState) -> _Speed:
        """A step of one seed alone on the first batch, whatever trains at once here."""
        train, batch = unit.experiment.train, next(iter(data.train))
        if train.replicas > 1:
            alone = dataclasses.replace(train, replicas=1)
            program = self._made(dataclasses.replace(unit.experiment, train=alone))
            where = jax.tree.map(lambda x: x.sharding, program.like)
            # In one program, for arrays that lie on several hosts too.
            one = jax.jit(lambda s: jax.tree.map(lambda x: x[0], s), out_shardings=where)
            if program.mesh.shape[SEEDS_AXIS] == 1:
                batch = {name: x[0] for name, x in batch.items()}
            else:  # processes hold other seeds, and this is of one
                batch = next(iter(RunData(program.experiment, program.mesh).train))
            state = one(state)
        flops = step_flops(program)
        seconds, rate = step_speed(program, state, batch)
        return {"tokens_per_second": rate, "step_seconds": seconds, "step_flops": flops}

    def _model(
        self, plan: Plan, units: Sequence[Unit], results: Sequence[Mapping[str, Any]]
    ) -> ModelResult:
        """What came of a model; without units where none of its trials has finished."""
        tuned = tuned_of(plan) if plan.trials else None
        values = {} if tuned is None or tuned["chosen"] is None else plan.trials[tuned["chosen"]]
        experiment = with_values(plan.experiment, values)
        speeds = [_read(unit.path / SPEED, _Speed) for unit in units]
        pairs = zip(units, results, strict=True)
        seeds = [seed for unit, result in pairs for seed in _seed_results(unit, result)]

        def of(name: str, best: Callable) -> float | None:
            return best((speed[name] for speed in speeds if speed.get(name)), default=None)

        return ModelResult(
            name=plan.label,
            seeds=tuple(seeds or _untrained(plan)),
            steps=experiment.train.steps,
            config=self._own(experiment),
            tokens_per_second=of("tokens_per_second", max),
            step_seconds=of("step_seconds", min),
            step_flops=of("step_flops", min),
            train_seconds=sum(result["seconds"] for result in results),
            compile_seconds=sum(result["compile_seconds"] for result in results),
            **(_tuning_of(tuned) if tuned else {}),
            **{**self._costs[plan.label], **(cost(experiment) if changes_model(values) else {})},
        )


def _key(experiment: Experiment) -> str:
    """What a program is of: a configuration but for the seed and for numbers that it is given."""
    config = experiment.to_dict()
    config["train"]["seed"] = 0
    for name in experiment.swept:
        config["optim"][name] = config["swept"][name] = None
    return json.dumps(config, sort_keys=True)


def _tuning_of(tuned: Tuned) -> dict[str, Any]:
    fields = {"trials": tuple(tuned["trials"]), "chosen": tuned["chosen"]}
    return {**fields, "tuning_seconds": tuned["seconds"]}


def _untrained(plan: Plan) -> list[SeedResult]:
    """The seeds of a model that has no values to be trained with."""
    why = f"each of its {len(plan.trials)} trials failed"
    return [SeedResult(seed=seed, failure={"step": 0, "reason": why}) for seed in plan.seeds]


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


def _read(path: Path, kind: type) -> dict[str, Any]:
    return checked(read_json(path), kind, str(path)) if path.exists() else {}
