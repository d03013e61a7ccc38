"""Metrics of a run: one JSON line a step, and TensorBoard events.

The lines are the record: after a crash and a restart each step is there once. The host reads what a
step returned a few steps later, so that it never waits for the device in order to start the next.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from seqzoo.train.folder.files import in_bucket, run_path, write_atomically

FILE = "metrics.jsonl"
LAG = 4  # steps between the start of a step and the reading of its metrics
NONFINITE = "nonfinite/"
WAIT = "wait for the device"  # an event in profiles


class NonFiniteError(ArithmeticError):
    """A step whose loss or gradient was not finite.

    Attributes:
        step: the step, from 1.
        loss: its loss.
        groups: the parameter groups whose gradient was not finite.
    """

    def __init__(self, step: int, loss: float, groups: tuple[str, ...]):
        self.step, self.loss, self.groups = step, loss, groups
        where = f"the gradient of the group(s) {', '.join(groups)}" if groups else "the loss alone"
        super().__init__(f"step {step} was not finite: loss {loss}, {where}; the state was kept")


class Late:
    """Metrics of steps that may still be running, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Mapping[str, Array]]] = deque()

    def add(self, step: int, metrics: Mapping[str, Array]) -> None:
        """Keeps the metrics of a step that was started."""
        self._waiting.append((step, metrics))

    def read(self, lag: int = LAG) -> Iterator[tuple[int, dict[str, float]]]:
        """The metrics of all but the last `lag` steps, waiting for those to end.

        Raises NonFiniteError for a step that was not finite.
        """
        while len(self._waiting) > lag:
            step, metrics = self._waiting.popleft()
            with jax.profiler.TraceAnnotation(WAIT):
                jax.block_until_ready(metrics)
            yield step, finite_values(step, metrics)


def finite_values(step: int, metrics: Mapping[str, Array]) -> dict[str, float]:
    """Host numbers of a step's metrics. Raises NonFiniteError where the step was not finite."""
    values = {name: np.asarray(value).item() for name, value in metrics.items()}
    groups = tuple(
        name.removeprefix(NONFINITE)
        for name, bad in values.items()
        if name.startswith(NONFINITE) and bad
    )
    if groups or not math.isfinite(values["loss"]):
        raise NonFiniteError(step, values["loss"], groups)
    return {name: float(v) for name, v in values.items() if not name.startswith(NONFINITE)}


class MetricsLog:
    """Writes the metrics of one run from step `done` on.

    Args:
        run: the run's folder. In a bucket lines appear at each flush, and no events are written.
        done: the step that training continues from; later lines are removed.
        every: steps between TensorBoard points of the training metrics.
    """

    def __init__(self, run: Path, done: int, *, every: int = 10):
        self._path, self._every, self._text = run_path(run) / FILE, every, ""
        truncate(self._path, done)
        self._lines, self._events = None, None
        if in_bucket(self._path):  # whose objects are written whole
            self._text = self._path.read_text() if self._path.exists() else ""
            return
        from tensorboardX import SummaryWriter

        self._lines = self._path.open("a")
        purge = done + 1 if done else None
        self._events = SummaryWriter(str(Path(run) / "tensorboard"), purge_step=purge)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the line of a step; evaluations are recognised by a "/" in their names."""
        line = json.dumps({"step": step, **_strict(values)}) + "\n"
        if self._lines is None:
            self._text += line
            return
        self._lines.write(line)
        for name, value in values.items():
            if "/" in name or step % self._every == 0:
                tag = name if "/" in name else f"train/{name}"
                self._events.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Returns when all lines are on disk, as they must be before a checkpoint counts."""
        if self._lines is None:
            write_atomically(self._path, self._text)
            return
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if self._lines is not None:
            self._lines.close()
            self._events.close()


class NoLog:
    """Stands for the log in processes that write nothing."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
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
    """All whole lines of a run's metrics; a torn last line is left out."""
    path = run_path(run) / FILE
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            values = json.loads(text)
            lines.append(Line(values.pop("step"), values))
        except (ValueError, KeyError, AttributeError):
            break
    return lines


def truncate(path: Path, done: int) -> None:
    """Removes the lines of steps after `done`, and a torn last line, in one move."""
    if path.exists():
        kept = [line for line in read_lines(path.parent) if line.step <= done]
        text = "".join(json.dumps({"step": line.step, **line.values}) + "\n" for line in kept)
        if text.encode() != path.read_bytes():
            write_atomically(path, text)


def _strict(values: Mapping[str, float]) -> dict[str, float | None]:
    # Nine digits bring a float32 back exactly; JSON has no NaN.
    return {n: float(f"{v:.9g}") if math.isfinite(v) else None for n, v in values.items()}
