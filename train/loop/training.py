"""The loop over the steps of a run, of one replica or of several side by side.

Of a step the host does only what costs little: it takes the next batch, starts the step, and reads
the metrics of a step some time ago. What is written never changes what is computed.
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.train.devices.ballot import Ballot
from seqzoo.train.devices.processes import from_first, is_first
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.folder.metrics import Late, MetricsLog, NoLog, NonFiniteError
from seqzoo.train.folder.run_folder import RunFolder, RunFolderError, say_on_stderr
from seqzoo.train.loop.data import HostBatch, seeds_of_process, to_devices
from seqzoo.train.loop.evaluate import evaluate_batches, from_saved, saved, saved_like
from seqzoo.train.loop.program import Program, count_parameters, replica_keys
from seqzoo.train.loop.progress import SILENT, Progress
from seqzoo.train.loop.record import Record
from seqzoo.train.loop.selection import keeps_copy
from seqzoo.train.loop.signals import Interrupted, StopRequest
from seqzoo.train.loop.speed import Speed
from seqzoo.train.loop.state import TrainState
from seqzoo.train.loop.step import STOPPED
from seqzoo.train.loop.streams import RunData
from seqzoo.train.loop.trace import Tracer
from seqzoo.train.loop.waiting import Stopwatch, Waiting
from seqzoo.train.loop.warm_start import warm_start

SAVE, STOP = 1, 2  # what a process may wish after a step


class Training:
    """One process's work on one run in a folder that is its own."""

    def __init__(
        self,
        program: Program,
        folder: RunFolder,
        stop: StopRequest,
        data: RunData,
        progress: Progress,
        title: str,
    ):
        self.program, self.folder, self.stop, self.data = program, folder, stop, data
        self.progress = progress if is_first() else SILENT
        self.experiment = program.experiment
        self.config, self.task = program.experiment.train, program.experiment.task
        self.checkpoints = Checkpoints(folder.path, keep=self.config.keep, guard=folder.guard)
        self.fallback: list[str] = []  # checkpoints that were passed over, and why
        self.late, self.speed, self.watch = Late(), Speed(program), Stopwatch()
        self.saved = time.monotonic()
        initial, self.key = replica_keys(self.experiment)
        self.state, self.done = self._start(initial)
        self.ballot = Ballot(program.mesh)
        options = {"seeds": self.config.seeds, "guard": folder.guard}
        options |= {"names": self.config.trackers, "config": self.experiment.to_dict()}
        self.log = MetricsLog(folder.path, self.done, **options) if is_first() else NoLog()
        self.progress.begin(title, self.config.steps, self.done)

    def train(self) -> dict[str, Any]:
        """All steps that are left, or those until a stop is requested; returns the result.

        Raises NonFiniteError where too many steps were not finite, on every replica; the result
        in the folder says so then.
        """
        try:
            return self._finished(self._train())
        except NonFiniteError:
            self._finished(None)
            raise

    def close(self) -> None:
        """Ends files and threads; safe after an error."""
        self.progress.end()
        self.log.close()
        self.checkpoints.close()

    def _train(self) -> float | None:
        """Share of the time that was spent waiting for data."""
        state = self.state
        del self.state  # donated by the first step
        self.batches, batch = None, {}
        traced = self.config.profile_steps if self.config.profile else 0
        where = self.folder.path / "profile"
        with Tracer(where, self.done + 1, traced, self._pause) as tracer:
            for step in range(self.done + 1, self.config.steps + 1):
                if self._ended():
                    break
                with tracer.step(step):
                    batch = self._batch()
                    if batch is None:
                        break
                    state, stopping = self._step(step, state, batch)
                if stopping:
                    break
        if batch is None and self.done:
            self._save(state)
        return self.batches.share if self.batches else None

    def _batch(self) -> HostBatch | None:
        """The next batch, which may take long to make; None if a stop is requested meanwhile.

        Of several processes all go on to the step at which they agree to stop.
        """
        alone = jax.process_count() == 1
        try:
            with self.stop.interrupting() if alone else contextlib.nullcontext():
                if self.batches is None:
                    self.batches = Waiting(self.data.train.beginning(self.done))
                return next(self.batches)
        except Interrupted:
            return None

    def _finished(self, data_wait: float | None) -> dict[str, Any]:
        self.watch.pause()
        self.checkpoints.wait()
        failed = all(self.record.failures)
        through = self.done == self.config.steps or self._ended()
        result = self._result(data_wait, complete=through and not failed)
        if is_first() and (result["complete"] or failed):
            self.folder.finish(result)
        return result

    def _result(self, data_wait: float | None, complete: bool) -> dict[str, Any]:
        several = {"seeds": list(self.experiment.seeds)} if self.config.replicas > 1 else {}
        return {
            "step": self.done,
            "complete": complete,
            "task": self.task.name,
            "model": self.experiment.model,
            **several,
            "parameters": count_parameters(self.program.like.params) // self.config.replicas,
            **self.record.meta(),
            **self.record.stops(self.done),
            **({"fallback": self.fallback} if self.fallback else {}),
            "data_wait": data_wait,  # share of the time since this start, not of the whole run
            "seconds": self.watch.seconds,  # of steps; compilation, evaluations, saves are not in
            "compile_seconds": self.watch.compile_seconds,
        }

    def _step(self, step: int, state: TrainState, batch: HostBatch) -> tuple[TrainState, bool]:
        """The state after a step and what follows it, and whether that was the last one."""
        # A process has its part of the batch, and of the replicas.
        config, here = self.config, math.prod(batch["weight"].shape)
        self.tokens = self.task.real_tokens(batch) * config.batch_size * config.replicas // here
        placed = to_devices(self._marked(batch), self.program.rows)
        with self.watch.step():
            state, metrics = self.program.step(state, placed, self.key)
        self.late.add(step, metrics)
        self.done = step
        self._read()
        improved = self._due(self.config.eval_every) and self._evaluate(state)
        wish = self.ballot.asked(step, self._wish())
        if improved or wish or self._due(self.config.save_every) or self._ended():
            self._save(state)
        if wish != STOP:
            self._tend()
        return state, wish == STOP

    def _ended(self) -> bool:
        """Whether all replicas have stopped."""
        return bool(self.record.stopped(self.done).all())

    def _marked(self, batch: HostBatch) -> HostBatch:
        """A batch that says which replicas have stopped, if any has."""
        stopped = self.record.stopped(self.done)
        if not stopped.any():
            return batch
        own = stopped[list(seeds_of_process(self.program.mesh, len(stopped)))]
        return {**batch, STOPPED: np.broadcast_to(own[:, None], batch["weight"].shape)}

    def _start(self, initial: jax.Array) -> tuple[TrainState, int]:
        found, copy = from_first("where to start", self._newest), None
        if found is None:
            state, step = self._fresh(self.program.init(initial)), 0
            if keeps_copy(self.config):  # the next step is given these buffers to write over
                copy = jax.tree.map(jnp.copy, (state.params, state.rest))
        else:
            step, meta = found
            state, copy = from_saved(self.checkpoints.restore(step, saved_like(self.program)))
        self.record = Record(self.experiment, copy)
        if found is not None:
            self.record.restore(meta)
            self.watch.add(meta.get("seconds", 0.0), meta.get("compile_seconds", 0.0))
        return state, step

    def _fresh(self, state: TrainState) -> TrainState:
        if not self.config.init_from:
            return state
        state, report = warm_start(self.program, state, Path(self.config.init_from))
        if is_first():
            say_on_stderr(str(report))
        return state

    def _newest(self) -> tuple[int, dict[str, Any]] | None:
        self.checkpoints.sweep()
        step = self.checkpoints.newest_whole(self._falls_back)
        if step is None:
            return None
        if step > self.config.steps:
            raise RunFolderError(
                f"{self.folder.path} is at step {step} already; --steps must be larger"
            )
        say_on_stderr(f"continuing {self.folder.path} from step {step}")
        return step, self.checkpoints.meta(step, self.config.replicas)

    def _falls_back(self, text: str) -> None:
        say_on_stderr(text)
        self.fallback.append(text)

    def _due(self, every: int) -> bool:
        return self.done == self.config.steps or (every > 0 and self.done % every == 0)

    def _wish(self) -> int:
        if self.stop.requested:
            return STOP
        now, every = time.monotonic(), self.config.save_seconds
        if not every or now - self.saved < every:
            return 0
        self.saved = now
        return SAVE

    def _read(self, **lag: int) -> None:
        """Writes the lines of steps that are over; too many that were not finite end the run."""
        for step, metrics in self.late.read(**lag):
            self._write(step, {**self.record.read(step, metrics), **self.speed.of_step()})

    def _write(self, step: int, line: dict[str, Any]) -> None:
        self.log.write(step, line)
        self.progress.step(step, self.record.loss, self.tokens)
        self.record.check()

    def _evaluate(self, state: TrainState) -> bool:
        """Adds validation metrics to the step's line; whether they ask for a checkpoint."""
        # Steps are read, and so timed, before the evaluation takes its time.
        self._read(lag=1)
        ((step, metrics),) = self.late.read(lag=0)
        line = {**self.record.read(step, metrics), **self.speed.of_step()}
        self._pause()
        variables = self.program.weights(state), state.rest
        found = evaluate_batches(self.program, *variables, *self.data.whole("validation"))
        better = self.record.evaluated(step, found, variables)
        if is_first():
            for text in self.task.warnings(found):
                say_on_stderr(f"step {step}: {text}")
        validation = self.record.plain(self.record.validation)
        self._write(step, {**line, **validation})
        if self.progress.evaluated(step, {k: float(np.mean(v)) for k, v in found.items()}):
            self.stop.requested = True
        return bool(np.any(better)) and self.config.keep_best and not keeps_copy(self.config)

    def _save(self, state: TrainState) -> None:
        # Every line up to this step is on disk before the checkpoint exists, so that a restart
        # from it finds them all; and the step is known to be finite.
        self._read(lag=0)
        self._pause()
        self.log.flush()
        meta = {
            "step": self.done,
            "position": self.done,
            "seed": self.config.seed,
            "key": np.asarray(jax.random.key_data(self.key)).tolist(),
            **self.record.meta(),
            "seconds": self.watch.seconds,
            "compile_seconds": self.watch.compile_seconds,
        }
        best = None
        if self.config.keep_best and not keeps_copy(self.config):
            best = self.record.best.steps[0]
        copy = self.record.best.variables
        self.checkpoints.save(saved(state, copy), meta, keep_also=best)
        self.saved = time.monotonic()

    def _pause(self) -> None:
        """What follows takes time that is no step's."""
        self.watch.pause()
        self.speed.pause(len(self.late))

    def _tend(self) -> None:
        self.checkpoints.check()
        if self.folder.lost():
            self.folder.guard()  # says so
