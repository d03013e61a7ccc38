"""How long a training step takes, beside one that is timed with it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax

from seqzoo.train.config import Experiment
from seqzoo.train.devices.processes import from_first
from seqzoo.train.loop.data import HostBatch, to_devices
from seqzoo.train.loop.program import make_program, replica_keys
from seqzoo.train.loop.speed import timed_enough
from seqzoo.train.loop.streams import RunData

ROUNDS = 7  # steps that say how long the reference takes


class Times:
    """Seconds of a step of one seed on one batch; `reference` is timed in turns with each.

    A machine's speed comes and goes, and both feel it: a ratio of medians is what is measured.
    """

    def __init__(self, reference: Experiment):
        self._key, self._reference = reference.key(), _Timed(reference)
        self._seconds = statistics.median(self._reference.step() for _ in range(ROUNDS))

    def __call__(self, experiment: Experiment) -> float:
        """Seconds of a step, where a step of the reference takes as long as at first."""
        if experiment.key() == self._key:
            return from_first("how long a step takes", lambda: self._seconds)
        other, own, theirs = _Timed(experiment, self._reference.batch), [], []
        while not timed_enough(len(own), sum(own)):
            own.append(other.step())
            theirs.append(self._reference.step())
        ratio = statistics.median(own) / statistics.median(theirs)
        return from_first("how long a step takes", lambda: ratio * self._seconds)


class _Timed:
    """A compiled step and what it goes on with."""

    def __init__(self, experiment: Experiment, batch: HostBatch | None = None):
        self._program = make_program(experiment)
        self.batch = batch or next(iter(RunData(experiment, self._program.mesh).train))
        first, self._key = replica_keys(experiment)
        self._state: Any = self._program.init(first)
        self._placed = to_devices(self.batch, self._program.rows)
        self.step()  # compiles

    def step(self) -> float:
        """Seconds that one more step takes."""
        started = time.perf_counter()
        self._state, metrics = self._program.step(self._state, self._placed, self._key)
        jax.block_until_ready(metrics)
        return time.perf_counter() - started
