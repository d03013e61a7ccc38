"""Profiles of the loop: writing one for XProf, and reading what the host did in it.

    seqzoo train ... --profile      writes RUN/profile, which `xprof RUN/profile` shows

A trace has an event for each step of the loop, and mixers' names in those of the compiled program.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from seqzoo.train.folder.metrics import WAIT

STEP = "train"  # the loop's event for one step
SKIP = 3  # steps before the trace, which compile
# What a thread does in these events is waiting for a program, or running one.
_WAITS = (WAIT, "ThunkExecutor::Execute")
_RUNS = ("tf_XLAPjRtCpuClient", "tf_XLAEigen", "XLA Modules")  # lines where programs run

Span = tuple[float, float]  # start and end, nanoseconds


class Tracer:
    """Traces `count` steps of a loop into a folder; 0: none. A context, for a loop that fails.

    `pause` is called before a trace begins or ends between two steps, which takes its time.
    """

    def __init__(self, folder: Path, first: int, count: int, pause: Callable[[], None]):
        self._folder, self._steps = folder, range(first + SKIP, first + SKIP + count)
        self._running, self._pause = False, pause

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """A context for step `number` of the loop."""
        if number == self._steps.stop and self._running:
            self._pause()
            self.stop()
        if number in self._steps and not self._running:
            self._pause()
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it would cost more than what it watches
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True
        return jax.profiler.StepTraceAnnotation(STEP, step_num=number)

    def stop(self) -> None:
        """Writes the trace, if one is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


class HostTime(NamedTuple):
    """Milliseconds of a step, medians over the steps of a trace."""

    step: float  # from one step's start to the next one's
    host: float  # of those the loop's thread worked: neither waited for nor ran the program
    idle: float  # of those no program ran anywhere on this host


def host_time(folder: Path) -> HostTime:
    """What the newest trace under `folder` says of the loop's thread.

    The first step traced is left out. Raises ValueError where there is no trace of two steps.
    """
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise ValueError(f"no trace (*.xplane.pb) under {folder}")
    loop, running = _read(traces[-1])
    steps = [event[1] for event in loop if event[0] == STEP]
    if len(steps) < 3:
        raise ValueError(f"{traces[-1]} has {len(steps)} steps; at least 3 are needed")
    busy = _union(span for name, span in loop if name.startswith(_WAITS))
    periods = [(a, b) for (a, _), (b, _) in itertools.pairwise(steps[1:])]
    return HostTime(
        _median(b - a for a, b in periods),
        _median(b - a - _covered((a, b), busy) for a, b in periods),
        _median(b - a - _covered((a, b), running) for a, b in periods),
    )


def _read(path: Path) -> tuple[list[tuple[str, Span]], list[Span]]:
    """Events of the thread that ran the loop, in time; and when programs ran."""
    loop: list[tuple[str, Span]] = []
    runs: list[Span] = []
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            events = [(e.name, (e.start_ns, e.start_ns + e.duration_ns)) for e in line.events]
            if any(name == STEP for name, _ in events) and plane.name.startswith("/host"):
                loop = sorted(events, key=lambda event: event[1])
                runs += [span for name, span in events if name.startswith("ThunkExecutor")]
            elif line.name.startswith(_RUNS):
                runs += [span for _, span in events]
    return loop, _union(runs)


def _union(spans: Iterable[Span]) -> list[Span]:
    """Disjoint spans that cover the same time."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((start, end))
    return out


def _covered(period: Span, spans: Sequence[Span]) -> float:
    """How much of a period disjoint spans cover."""
    start, end = period
    return sum(max(0.0, min(b, end) - max(a, start)) for a, b in spans)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values) / 1e6
