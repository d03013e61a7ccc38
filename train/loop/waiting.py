"""How long a run's steps take, and how much of its time is spent waiting for data."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from seqzoo.train.loop.data import HostBatch


class Waiting:
    """Hands on batches and takes the time that each one makes the caller wait.

    The first batch does not count: opening files and compiling the step come with it.
    """

    def __init__(
        self, batches: Iterator[HostBatch], clock: Callable[[], float] = time.perf_counter
    ):
        self._batches, self._clock = batches, clock
        self._waited, self._since, self._until = 0.0, None, None

    def __iter__(self) -> Iterator[HostBatch]:
        return self

    def __next__(self) -> HostBatch:
        asked = self._clock()
        batch = next(self._batches)
        if self._until is not None:  # not the first
            self._since = asked if self._since is None else self._since
            self._waited += self._clock() - asked
        self._until = self._clock()
        return batch

    @property
    def share(self) -> float | None:
        """Waiting over all time from the second batch on, until now; None before that."""
        if self._since is None:
            return None
        return self._waited / max(self._clock() - self._since, 1e-9)


class Stopwatch:
    """Seconds of the steps of a run, and those of the first step's compilation apart."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.seconds = self.compile_seconds = 0.0
        self._clock, self._since, self._compiled = clock, None, False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around the start of a step; time runs from then on, after the first one's call."""
        if self._compiled:
            self._since = self._clock() if self._since is None else self._since
            yield
            return
        started, self._compiled = self._clock(), True
        yield
        self._since = self._clock()
        self.compile_seconds += self._since - started

    def pause(self) -> None:
        """What follows is no step, until the next one."""
        if self._since is not None:
            self.seconds += self._clock() - self._since
            self._since = None

    def add(self, seconds: float, compile_seconds: float) -> None:
        """Adds what an earlier part of the run took."""
        self.seconds += seconds
        self.compile_seconds += compile_seconds
