"""The training loop: steps, evaluations, checkpoints; stops and continues without a trace.

Of a step the host does only what costs little: it takes the next batch, starts the step, and reads
the metrics of a step some time ago. A run that was stopped or killed continues from its newest
whole checkpoint to bitwise the same result, as batches and random draws follow from seed and step.
Several processes run this loop side by side; the first one owns the folder and writes, the others
follow what it decides.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from seqzoo.tasks.task import Source
from seqzoo.train.config import Experiment
from seqzoo.train.devices.backend import keep_compiled
from seqzoo.train.devices.processes import (
    Ballot,
    failing_together,
    from_first,
    is_first,
    process_index,
)
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.folder.metrics import Late, MetricsLog, NoLog
from seqzoo.train.folder.run_folder import RunFolder, RunFolderError, say_on_stderr
from seqzoo.train.loop.data import HostBatch, rows_of_process, to_devices, train_batches
from seqzoo.train.loop.evaluate import evaluate
from seqzoo.train.loop.program import Program, count_parameters, make_program
from seqzoo.train.loop.progress import SILENT, Progress
from seqzoo.train.loop.signals import StopRequest
from seqzoo.train.loop.speed import Speed
from seqzoo.train.loop.state import ModelFactory, TrainState, seed_keys
from seqzoo.train.loop.trace import Tracer
from seqzoo.train.loop.waiting import Waiting
from seqzoo.train.loop.warm_start import warm_start

LIFE = 30.0  # seconds between signs of life in the run's lock


def run(
    experiment: Experiment,
    out: Path | str,
    *,
    make_model: ModelFactory | None = None,
    devices: Sequence[jax.Device] | None = None,
    change_steps: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains in the folder `out`, or continues what is there, and returns the result.

    The result has `step`, `complete` (False after SIGTERM or Ctrl-C), the last metrics of training
    and validation, and the best validation result.

    Args:
        experiment: what to train.
        out: the run's folder; it may hold the same experiment, unfinished or finished.
        make_model: builds the model from random streams, instead of the configuration's.
        devices: those of the mesh; all by default.
        change_steps: continue under another number of steps.
        progress: hears of the run in the process that owns the folder.

    Raises ValueError (RunFolderError for the folder) for what cannot be, NonFiniteError for a step
    that is not finite, and CheckpointError if a checkpoint cannot be written or none read.
    """
    before = finished(experiment, out, change_steps=change_steps)
    if before:
        return before
    keep_compiled()
    program = make_program(experiment, make_model=make_model, devices=devices)
    return run_program(program, out, change_steps=change_steps, progress=progress)


def run_program(
    program: Program,
    out: Path | str,
    *,
    change_steps: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """`run` for a program that exists."""
    experiment, folder = program.experiment, RunFolder(out)
    before = finished(experiment, out, change_steps=change_steps)
    if before:
        return before
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest(experiment.train.stop_seconds, folder.release))
        if is_first():
            stack.enter_context(failing_together(folder.release))
        stack.enter_context(_owned(folder, experiment))
        training = stack.enter_context(
            contextlib.closing(_Run(program, folder, stop, progress if is_first() else SILENT))
        )
        with failing_together(training.log.flush):
            return training.train()


def finished(
    experiment: Experiment, out: Path | str, *, change_steps: bool = False
) -> dict[str, Any] | None:
    """The result in the folder `out` if nothing is left to train there, else None.

    Raises RunFolderError if the folder may not be used, ValueError if the processes of this run
    were started with different configurations or a protocol that fine-tunes gets no pretrained run.
    """

    if experiment.task.pretrained and not experiment.train.init_from:
        raise ValueError(
            f"protocol {experiment.task.protocol} fine-tunes: give --init-from RUN, a run of "
            f"masked:{experiment.task.name} or next_token:{experiment.task.name}, or choose another"
        )

    def look() -> dict[str, Any]:
        folder = RunFolder(out)
        folder.check(experiment, change_steps=change_steps)
        return {"experiment": experiment.to_dict(), "result": folder.result()}

    first = from_first("the state of the folder", look)
    _check_same(first["experiment"], experiment.to_dict())
    result = first["result"]
    return result if result and result["step"] == experiment.train.steps else None


def _check_same(first: dict[str, Any], own: dict[str, Any]) -> None:
    different = [key for key in own if own[key] != first[key]]
    if different:
        raise ValueError(
            f"process {process_index()} was started with other options than process 0 "
            f"({', '.join(different)}); start the same command on every host"
        )


@contextlib.contextmanager
def _owned(folder: RunFolder, experiment: Experiment) -> Iterator[None]:
    """Keeps the folder to this run; the first process does so for all."""

    def adopt() -> None:
        stack.enter_context(folder.owned())
        folder.adopt(experiment)

    with contextlib.ExitStack() as stack:
        from_first("the folder is ours", adopt)
        yield


class _Run:
    """One process's work on one run."""

    def __init__(self, program: Program, folder: RunFolder, stop: StopRequest, progress: Progress):
        self.program, self.folder, self.stop, self.progress = program, folder, stop, progress
        self.config = program.experiment.train
        self.task = program.experiment.task
        self.checkpoints = Checkpoints(folder.path, keep=self.config.keep)
        self.late, self.speed = Late(), Speed(program)
        self.latest: dict[str, float] = {}  # of the last step read
        self.validation: dict[str, float] = {}
        self.best: dict[str, Any] | None = None
        self.alive = time.monotonic()
        initial, self.key = seed_keys(self.config.seed)
        self.state, self.done = self._start(initial)
        self.ballot = Ballot(program.mesh)
        self.log = MetricsLog(folder.path, self.done) if is_first() else NoLog()
        title = f"{self.task.name} {program.experiment.model}"
        progress.begin(title, self.config.steps, self.done)

    def train(self) -> dict[str, Any]:
        """All steps that are left, or those until a stop is requested."""
        steps, state = self.config.steps, self.state
        del self.state  # donated by the first step
        validation, batches = self._source("validation"), Waiting(self._batches())
        traced = self.config.profile_steps if self.config.profile else 0
        tracer = Tracer(self.folder.path / "profile", self.done + 1, traced)
        with tracer:
            for step in range(self.done + 1, steps + 1):
                with tracer.step(step):
                    batch = next(batches)
                    state, stopping = self._step(step, state, batch, validation)
                if stopping:
                    break
        return self._end(state, batches.share)

    def _step(
        self, step: int, state: TrainState, batch: HostBatch, validation: Source
    ) -> tuple[TrainState, bool]:
        """The state after a step and what follows it, and whether that was the last one."""
        # A process has its part of the batch.
        tokens = self.task.positions(batch) * self.config.batch_size // len(batch["inputs"])
        placed = to_devices(batch, self.program.rows)
        state, metrics = self.program.step(state, placed, self.key)
        self.late.add(step, metrics)
        self._read(tokens)
        improved = self._due(step, self.config.eval_every) and self._evaluate(
            step, state, validation, tokens
        )
        stopping = self.ballot.stopping(step, self.stop.requested)
        if improved or stopping or self._due(step, self.config.save_every):
            self._save(step, state, tokens)
        self.done = step
        if not stopping:
            self._tend()
        return state, stopping

    def close(self) -> None:
        """Ends files and threads; safe after an error."""
        self.progress.end()
        self.log.close()
        self.checkpoints.close()

    def _start(self, initial: Array) -> tuple[TrainState, int]:
        found = from_first("where to start", self._newest)
        if found is None:
            return self._fresh(self.program.init(initial)), 0
        step, meta = found
        state = self.checkpoints.restore(step, self.program.like)
        self.best, self.validation = meta["best"], meta["validation"]
        self.latest = meta["train"]
        return state, step

    def _fresh(self, state: TrainState) -> TrainState:
        if not self.config.init_from:
            return state
        state, report = warm_start(self.program, state, Path(self.config.init_from))
        if is_first():
            say_on_stderr(str(report))
        return state

    def _newest(self) -> tuple[int, dict[str, Any]] | None:
        step = self.checkpoints.newest_whole(say_on_stderr)
        if step is None:
            return None
        if step > self.config.steps:
            raise RunFolderError(
                f"{self.folder.path} is at step {step} already; --steps must be larger"
            )
        say_on_stderr(f"continuing {self.folder.path} from step {step}")
        return step, self.checkpoints.meta(step)

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        config = self.config
        return train_batches(
            self._source("train"),
            config.batch_size,
            seed=config.seed,
            start=self.done,
            rows=rows_of_process(self.program.rows, config.batch_size),
            lanes=self.task.stateful,
            threads=config.threads,
            prefetch=config.prefetch,
        )

    def _source(self, split: str) -> Source:
        """The split, prepared once if it will be read more than once."""
        source = self.task.source(split, self.config.seed)
        if split == "train":
            reads = self.config.steps * self.config.batch_size / len(source)
        else:
            reads = self.config.steps / (self.config.eval_every or self.config.steps)
        return self.task.prepare(split, self.config.seed) if reads > 1 else source

    def _due(self, step: int, every: int) -> bool:
        return step == self.config.steps or (every > 0 and step % every == 0)

    def _read(self, tokens: int, **options: int) -> None:
        for step, values in self.late.read(**options):
            self.latest = values
            self.log.write(step, {**values, **self.speed.of_step()})
            self.progress.step(step, values["loss"], tokens)

    def _evaluate(self, step: int, state: TrainState, source: Source, tokens: int) -> bool:
        """Adds validation metrics to the step's line; whether they are the best so far."""
        metrics = evaluate(self.program, state.params, state.rest, source)
        self.validation = {f"validation/{name}": value for name, value in metrics.items()}
        self._read(tokens, lag=1)
        for last, values in self.late.read(lag=0):
            self.latest = values
            self.log.write(last, {**values, **self.validation})
        value = metrics[self.task.main_metric]
        sign = 1 if self.task.higher_is_better else -1
        better = math.isfinite(value) and (
            self.best is None or sign * value > sign * self.best["value"]
        )
        if better:
            self.best = {"step": step, "metric": self.task.main_metric, "value": value}
        self.progress.evaluated(step, metrics)
        self.speed.pause()
        return better and self.config.keep_best

    def _save(self, step: int, state: TrainState, tokens: int) -> None:
        # Every line up to this step is on disk before the checkpoint exists, so that a restart
        # from it finds them all; and the step is known to be finite.
        self._read(tokens, lag=0)
        self.log.flush()
        meta = {
            "step": step,
            "position": step,
            "seed": self.config.seed,
            "key": np.asarray(jax.random.key_data(self.key)).tolist(),
            "best": self.best,
            "train": self.latest,
            "validation": self.validation,
        }
        best = self.best["step"] if self.best and self.config.keep_best else None
        self.checkpoints.save(state, meta, keep_also=best)
        self.speed.pause()

    def _tend(self) -> None:
        self.checkpoints.check()
        if time.monotonic() - self.alive > LIFE:
            self.alive = time.monotonic()
            if is_first():
                self.folder.sign_of_life()

    def _end(self, state: TrainState, data_wait: float | None) -> dict[str, Any]:
        self.checkpoints.wait()
        complete = self.done == self.config.steps
        result = {
            "step": self.done,
            "complete": complete,
            "task": self.task.name,
            "model": self.program.experiment.model,
            "parameters": count_parameters(state.params),
            "train": self.latest,
            "validation": self.validation,
            "best": self.best,
            "data_wait": data_wait,  # share of the time since this start, not of the whole run
        }
        if complete and is_first():
            self.folder.finish(result)
        return result
