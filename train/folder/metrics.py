"""Metrics of a run: one JSON line a step, and what trackers make of it.

The lines are the record: after a crash and a restart each step is there once. The host reads what a
step returned a few steps later, so that it never waits for the device in order to start the next.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from seqzoo.train.folder.files import in_bucket, run_path, write_atomically
from seqzoo.train.folder.lease import LeaseLostError
from seqzoo.train.folder.run_folder import say_on_stderr
from seqzoo.train.folder.trackers import TRACKERS, names_of, trackers

FILE = "metrics.jsonl"
LAG = 4  # steps between the start of a step and the reading of its metrics
OFTEN = 1.0  # seconds after which lines that wait are written
WAIT = "wait for the device"  # an event in profiles


class NonFiniteError(ArithmeticError):
    """A step whose loss or gradient was not finite, where no more steps may be skipped.

    Attributes:
        step: the step, from 1.
        loss: its loss.
        groups: the parameter groups whose gradient was not finite.
        skipped: steps that were not finite so far, this one among them.
    """

    def __init__(self, step: int, loss: float, groups: tuple[str, ...], skipped: int = 1):
        self.step, self.loss, self.groups, self.skipped = step, loss, groups, skipped
        where = f"the gradient of the group(s) {', '.join(groups)}" if groups else "the loss alone"
        text = f"step {step} was not finite: loss {loss}, {where}; the state was kept"
        if skipped > 1:
            text += f". It was the {skipped}th such step, more than --max-skipped allows"
        super().__init__(text)


class Late:
    """Metrics of steps that may still be running, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Mapping[str, Array]]] = deque()

    def add(self, step: int, metrics: Mapping[str, Array]) -> None:
        """Keeps the metrics of a step that was started."""
        self._waiting.append((step, metrics))

    def __len__(self) -> int:
        return len(self._waiting)

    def read(self, lag: int = LAG) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """The metrics of all but the last `lag` steps, waiting for those to end."""
        while len(self._waiting) > lag:
            step, metrics = self._waiting.popleft()
            with jax.profiler.TraceAnnotation(WAIT):
                jax.block_until_ready(metrics)
            yield step, jax.device_get(dict(metrics))


class MetricsLog:
    """Writes the metrics of one run from step `done` on.

    Args:
        run: the run's folder. In a bucket lines appear at each flush, and no events are written.
        done: the step that training continues from; later lines are removed.
        seeds: of several replicas, whose metrics are lists.
        names: of `trackers`, which hear of every step too.
        config: of the run, for these.
        guard: called before lines are written; raises where the folder is another's by now.
    """

    def __init__(
        self,
        run: Path,
        done: int,
        *,
        seeds: Sequence[int] = (),
        guard: Callable[[], None] = lambda: None,
        names: str = "tensorboard",
        config: Mapping[str, Any] | None = None,
    ):
        self._path, self._text = run_path(run) / FILE, ""
        self._guard, self._written = guard, time.monotonic()
        truncate(self._path, done, guard)
        self._lines, bucket = None, in_bucket(self._path)
        if bucket:  # whose files libraries cannot write
            names = ",".join(name for name in names_of(names) if name not in TRACKERS)
        self._trackers = trackers(names, Path(run), config or {}, done, seeds, say_on_stderr)
        if bucket:  # whose objects are written whole
            self._text = self._path.read_text() if self._path.exists() else ""
            return
        self._lines = self._path.open("a+")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds the line of a step; evaluations are recognised by a "/" in their names."""
        values = {name: _strict(value) for name, value in values.items()}
        line = json.dumps({"step": step, **values}) + "\n"
        self._text += line
        self._trackers.write(step, values)
        if self._lines is not None and time.monotonic() - self._written > OFTEN:
            self._append()

    def flush(self) -> None:
        """Returns when all lines are on disk, as they must be before a checkpoint counts."""
        if self._lines is None:
            write_atomically(self._path, self._text, self._guard)
            return
        self._append()
        os.fsync(self._lines.fileno())
        if not self._in_place():
            self._put_back()
        self._trackers.flush()

    def close(self) -> None:
        """Flushes, where the folder is still ours, and closes."""
        with contextlib.suppress(LeaseLostError):
            self.flush()
        if self._lines is not None:
            self._lines.close()
        self._trackers.close()

    def _in_place(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(self._lines.fileno()))
        return False

    def _put_back(self) -> None:
        """An owner of before, which stood still while it renamed, has put its own file there."""
        own = self._lines
        own.seek(0)
        write_atomically(self._path, own.read(), self._guard)
        self._lines = self._path.open("a+")
        own.close()

    def _append(self) -> None:
        """Writes the lines that wait, in one piece."""
        self._guard()
        self._lines.write(self._text)
        self._lines.flush()
        self._text, self._written = "", time.monotonic()


class NoLog:
    """Stands for the log in processes that write nothing."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class Line(NamedTuple):
    """One step's metrics."""

    step: int
    values: dict[str, Any]


def read_lines(run: Path) -> list[Line]:
    """The lines of a run's metrics up to the first that is none, as a torn last one."""
    path = run_path(run) / FILE
    if not path.is_file():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            break
        step = values.pop("step", None) if isinstance(values, dict) else None
        if type(step) is not int or not all(map(_is_metric, values.values())):
            break
        lines.append(Line(step, values))
    return lines


def _is_metric(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_metric, value)) and not any(isinstance(each, list) for each in value)
    return value is None or isinstance(value, int | float)


def truncate(path: Path, done: int, guard: Callable[[], None] = lambda: None) -> None:
    """Removes the lines of steps after `done`, and a torn last line, in one move."""
    if path.exists():
        kept = [line for line in read_lines(path.parent) if line.step <= done]
        text = "".join(json.dumps({"step": line.step, **line.values}) + "\n" for line in kept)
        # Always another file: what a process that stood still has open then is not this one.
        write_atomically(path, text, guard)


def _strict(value: Any) -> Any:
    # Nine digits bring a float32 back exactly; JSON has no NaN.
    if isinstance(value, list | np.ndarray):
        return [_strict(each) for each in value]
    return float(f"{value:.9g}") if math.isfinite(value) else None
