"""Several seeds of one model, trained in one compiled program.

The program is `vmap` of the same train step that a single run uses; initialisation, data order and
dropout belong to each seed, so that a seed gives what it gives alone (up to rounding: the order of
summation inside a batched product may differ). A seed whose loss or gradient is not finite stands
still from then on and is recorded as failed; the others go on.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from seqzoo.tasks.task import metric_value
from seqzoo.train.compare.results import SeedResult
from seqzoo.train.config import Experiment
from seqzoo.train.devices.sharding import (
    BATCH_AXES,
    batch_sharding,
    check_batch,
    make_mesh,
    place_state,
)
from seqzoo.train.loop.data import HostBatch, eval_batches, to_devices, train_batches
from seqzoo.train.loop.optimizer import make_optimizer, make_schedule
from seqzoo.train.loop.program import model_factory
from seqzoo.train.loop.progress import SILENT, Progress
from seqzoo.train.loop.selection import Best
from seqzoo.train.loop.state import (
    Arrays,
    Blueprint,
    ModelFactory,
    TrainState,
    blueprint,
    init_state,
    seed_keys,
)
from seqzoo.train.loop.stateful import LaneEvaluation, initial_carry, lane_evaluation
from seqzoo.train.loop.step import make_eval_step, make_train_step

KEPT_BYTES = 2**28  # of host batches kept for the next model of a comparison
CURVE_POINTS = 40  # training metrics are means over a fortieth of the run
NOT_CURVES = ("lr", "weight", "grad_norm")


class Kept:
    """A stream of host batches that can be read again; the first of them stay in memory."""

    def __init__(self, start: Callable[[int], Iterator[HostBatch]], limit: int = KEPT_BYTES):
        """`start(n)` gives the stream from batch n on."""
        self._start, self._limit = start, limit
        self._batches: list[HostBatch] = []
        self._bytes = self._last = 0  # of all that is kept; of the newest batch

    def __iter__(self) -> Iterator[HostBatch]:
        yield from self._batches
        position = len(self._batches)
        for batch in self._start(position):
            size = self._last = sum(x.nbytes for x in batch.values())
            if position == len(self._batches) and self._bytes + size <= self._limit:
                self._batches.append(batch)
                self._bytes += size
            position += 1
            yield batch

    def fill(self, count: int) -> None:
        """Reads up to `count` batches ahead, as far as they fit; no model then waits for them."""
        for _ in itertools.islice(self, count):
            if self._bytes + self._last > self._limit:
                break


class SeedData(NamedTuple):
    """What the seeds read: all models of a comparison share it."""

    train: Kept  # leaves [seeds, batch, ...], endless
    validation: Kept  # leaves [batch, ...], the whole split
    test: Kept
    sizes: dict[str, int]  # examples


def seed_data(experiment: Experiment, seeds: tuple[int, ...]) -> SeedData:
    """The data of an experiment for several seeds in place of its own."""
    task, train = experiment.task, experiment.train
    reading = {"threads": train.threads, "prefetch": train.prefetch}
    again = train.steps * train.batch_size > len(task.source("train", seeds[0]))
    sources = [(task.prepare if again else task.source)("train", seed) for seed in seeds]
    held_out = {split: task.prepare(split) for split in ("validation", "test")}

    mesh = make_mesh(experiment.mesh)
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)

    def start(position: int) -> Iterator[HostBatch]:
        streams = [
            train_batches(
                source, train.batch_size, seed=seed, start=position, lanes=task.stateful, **reading
            )
            for source, seed in zip(sources, seeds, strict=True)
        ]
        for parts in zip(*streams, strict=True):
            yield {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def whole(split: str) -> Kept:
        # Rows that only fill the last batch weigh nothing, so it may be a little larger.
        size = -(-(train.eval_batch_size or train.batch_size) // shards) * shards
        source, lanes = held_out[split], task.stateful
        return Kept(
            lambda n: itertools.islice(eval_batches(source, size, lanes=lanes, **reading), n, None)
        )

    sizes = {"train": len(sources[0])} | {name: len(s) for name, s in held_out.items()}
    return SeedData(Kept(start), whole("validation"), whole("test"), sizes)


class Programs(NamedTuple):
    """What is compiled for one model and all seeds."""

    plan: Blueprint
    init: Callable[[], TrainState]
    step: Callable[..., tuple[TrainState, dict]]
    evaluate: Callable[..., dict]
    lanes: LaneEvaluation
    keys: jax.Array
    batch: NamedSharding  # of a training batch with the seeds in front
    rows: NamedSharding  # of an evaluation batch


def make_programs(
    experiment: Experiment, seeds: tuple[int, ...], make_model: ModelFactory | None = None
) -> Programs:
    """The jitted functions for `seeds` of an experiment, over its mesh."""
    task, train = experiment.task, experiment.train
    mesh = make_mesh(experiment.mesh)
    check_batch(mesh, train.batch_size, train.accumulate)
    if train.init_from:
        raise ValueError(
            "a comparison trains every model from scratch, so init_from cannot be set; "
            "fine-tune with `seqzoo train`"
        )
    make = make_model or model_factory(experiment)
    plan = blueprint(make)
    tx = make_optimizer(experiment.optim, train.steps, plan.groups)
    schedule = make_schedule(experiment.optim, train.steps)
    pairs = [seed_keys(seed) for seed in seeds]
    first, keys = (jnp.stack(column) for column in zip(*pairs, strict=True))

    def init_all() -> TrainState:
        start = functools.partial(initial_carry, task, lanes=train.batch_size)
        return jax.vmap(lambda key: init_state(make, plan, tx, key, start))(first)

    behind = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    shardings = place_state(jax.eval_shape(init_all), mesh, behind).shardings
    lanes = lane_evaluation(task, plan)
    step = make_train_step(task, plan, tx, schedule, accumulate=train.accumulate)
    evaluate = make_eval_step(task, plan)
    return Programs(
        plan,
        jax.jit(init_all, out_shardings=shardings),
        jax.jit(jax.vmap(step), donate_argnums=0, out_shardings=(shardings, None)),
        jax.jit(jax.vmap(evaluate, in_axes=(0, 0, None))),
        LaneEvaluation(
            jax.jit(jax.vmap(lanes.start, in_axes=(0, 0, None)), static_argnums=2),
            jax.jit(jax.vmap(lanes.step, in_axes=(0, 0, 0, None))),
        ),
        keys,
        behind,
        batch_sharding(mesh),
    )


class Timing(NamedTuple):
    """Cost of a training run."""

    compile_seconds: float
    train_seconds: float  # steps alone
    tokens_per_second: float  # median over windows of steps, all seeds together


class Trained(NamedTuple):
    """What came of the seeds of one model."""

    seeds: tuple[SeedResult, ...]
    timing: Timing
    state: TrainState  # after the last step; leaves with the seeds in front


def train_seeds(
    experiment: Experiment,
    seeds: tuple[int, ...],
    data: SeedData | None = None,
    progress: Progress = SILENT,
    *,
    title: str = "",
    make_model: ModelFactory | None = None,
) -> Trained:
    """Trains `seeds` of an experiment together; final metrics are those of the test split.

    They are of the last step, or of each seed's own best step on the validation split, as the task
    says (`Task.selection`).

    Args:
        experiment: its own `train.seed` does not count; checkpoints are not written.
        seeds: one run each.
        data: `seed_data(experiment, seeds)`, if it is there already.
        progress: hears of the run, by windows of steps.
        title: of the run, for `progress`.
        make_model: builds the model from random streams, instead of the configuration's.
    """
    data = seed_data(experiment, seeds) if data is None else data
    with jax.set_mesh(make_mesh(experiment.mesh)):
        programs = make_programs(experiment, seeds, make_model)
        run = _Run(experiment, seeds, data, programs)
        progress.begin(title, experiment.train.steps)
        try:
            return run.train(progress)
        finally:
            progress.end()


class _Run:
    """The state of one call of `train_seeds`."""

    def __init__(
        self,
        experiment: Experiment,
        seeds: tuple[int, ...],
        data: SeedData,
        programs: Programs,
    ):
        self.experiment, self.seeds, self.data = experiment, seeds, data
        self.programs = programs
        self.failures: dict[int, dict[str, Any]] = {}  # place among the seeds -> what happened
        self.curves: list[dict[str, dict[str, list]]] = [{} for _ in seeds]
        self.windows: list[tuple[float, int]] = []  # seconds and tokens
        task = experiment.task
        select = task.selection == "best"
        self.best = Best(len(seeds), higher_is_better=task.higher_is_better) if select else None

    def train(self, progress: Progress) -> Trained:
        steps = self.experiment.train.steps
        state = self.programs.init()
        step, compile_seconds = self._compiled(state)
        pending, tokens, started = [], 0, time.perf_counter()
        for done, batch in enumerate(itertools.islice(self.data.train, steps), start=1):
            state, metrics = step(state, to_devices(batch, self.programs.batch), self.programs.keys)
            pending.append(metrics)
            tokens += self.experiment.task.positions(batch)
            if not self._window_ends(done):
                continue
            pending = jax.device_get(pending)
            self.windows.append((time.perf_counter() - started, tokens))
            loss = self._record(done, pending)
            if self._evaluates(done):
                self._validate(done, (state.params, state.rest))
            progress.step(done, loss, tokens)
            if len(self.failures) == len(self.seeds):
                break
            pending, tokens, started = [], 0, time.perf_counter()
        return Trained(self._results(state), self._timing(compile_seconds), state)

    def _compiled(self, state: TrainState) -> tuple[Callable, float]:
        """The step, compiled ahead, so that no window of steps holds the compilation."""
        batch = to_devices(next(iter(self.data.train)), self.programs.batch)
        started = time.perf_counter()
        compiled = self.programs.step.lower(state, batch, self.programs.keys).compile()
        return compiled, time.perf_counter() - started

    def _window_ends(self, done: int) -> bool:
        window = max(1, self.experiment.train.steps // CURVE_POINTS)
        return done % window == 0 or self._evaluates(done)

    def _evaluates(self, done: int) -> bool:
        train = self.experiment.train
        return done == train.steps or (train.eval_every > 0 and done % train.eval_every == 0)

    def _record(self, done: int, window: list[dict[str, np.ndarray]]) -> float:
        """Notes failures and the window's mean metrics; returns the mean loss."""
        start = done - len(window)
        for i, metrics in enumerate(window, start=1):
            self._note_failures(start + i, metrics)
        names = [n for n in window[0] if "/" not in n and n not in NOT_CURVES]
        means = {name: np.mean([m[name] for m in window], axis=0) for name in names}
        self._append("train", done, means)
        going = [i for i in range(len(self.seeds)) if i not in self.failures]
        return float(np.mean(means["loss"][going])) if going else float("nan")

    def _note_failures(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        flags = {k.removeprefix("nonfinite/"): v for k, v in metrics.items() if "nonfinite/" in k}
        for i in range(len(self.seeds)):
            groups = [group for group, flag in flags.items() if flag[i]]
            loss = float(metrics["loss"][i])
            if i not in self.failures and (groups or not np.isfinite(loss)):
                self.failures[i] = {"step": step, "groups": groups, "loss": loss}

    def _append(self, split: str, done: int, values: dict[str, np.ndarray]) -> None:
        for i, curves in enumerate(self.curves):
            if i in self.failures:
                continue
            curve = curves.setdefault(split, {"step": [], **{name: [] for name in values}})
            curve["step"].append(done)
            for name, value in values.items():
                curve[name].append(float(value[i]))

    def _validate(self, done: int, variables: tuple[Arrays, Arrays]) -> None:
        found = self._evaluate(variables, self.data.validation)
        self._append("validation", done, found)
        if self.best:
            self.best.offer(done, found[self.experiment.task.main_metric], variables)

    def _evaluate(self, variables: tuple[Arrays, Arrays], batches: Kept) -> dict[str, np.ndarray]:
        """Metrics of every seed over a whole split; `examples` is how many were counted."""
        totals: dict[str, np.ndarray] = {}
        task, carry = self.experiment.task, None
        for batch in batches:
            on_devices = to_devices(batch, self.programs.rows)
            if not task.stateful:
                measured = self.programs.evaluate(*variables, on_devices)
            else:
                lanes = self.programs.lanes
                carry = lanes.start(*variables, len(batch["fresh"])) if carry is None else carry
                measured, carry = lanes.step(*variables, carry, on_devices)
            for name, pair in jax.device_get(measured).items():
                totals[name] = totals.get(name, 0) + np.stack(pair).astype(np.float64)
        examples = totals.pop("examples")[0]
        means = {name: metric_value(*t, batch_dims=1) for name, t in totals.items()}
        return {**means, **task.derived(means), "examples": examples}

    def _results(self, state: TrainState) -> tuple[SeedResult, ...]:
        tested = self.best.variables if self.best else None  # None too where all failed early
        final = self._evaluate(tested or (state.params, state.rest), self.data.test)
        counted = final.pop("examples")
        if not np.all(counted == self.data.sizes["test"]):
            raise RuntimeError(f"evaluated {counted} of {self.data.sizes['test']} test examples")
        results = []
        for i, seed in enumerate(self.seeds):
            failure = self.failures.get(i)
            own = {} if failure else {name: float(value[i]) for name, value in final.items()}
            for curve in self.curves[i].values():
                curve.pop("examples", None)
            step = self.best.steps[i] if self.best and not failure else None
            results.append(
                SeedResult(
                    seed=seed, final=own, curves=self.curves[i], tested=step, failure=failure
                )
            )
        return tuple(results)

    def _timing(self, compile_seconds: float) -> Timing:
        rates = [tokens / seconds for seconds, tokens in self.windows]
        total = sum(seconds for seconds, _ in self.windows)
        return Timing(compile_seconds, total, float(np.median(rates)))
