"""Numbers for a reader: lines, and progress bars of runs in a terminal and in a notebook.

Elsewhere, as in a file of a scheduler, there is a line now and then.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from seqzoo.train.loop.progress import ComparisonProgress

REFRESH = 0.2  # seconds between changes of the text
EVERY = 30.0  # seconds between lines where there is no terminal


class ProgressBars(ComparisonProgress):
    """A bar for the run at hand: loss, tokens per second, time left; above it one for models."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars: Progress | None = None
        self._models = self._run = None

    def models(self, total: int, done: int) -> None:
        """Shows how many models are trained, until all are."""
        if self._models is None:
            self._start(TimeElapsedColumn())
            self._models = self._bars.add_task("models", total=total, note="")
        self._bars.update(self._models, completed=done)
        if done == total:
            self.close()

    def begin(self, title: str, steps: int, done: int = 0) -> None:
        """Shows the bar of a run."""
        if self._bars is None:
            self._start(TimeRemainingColumn())
        self._run = self._bars.add_task(escape(title), total=steps, completed=done, note="")
        self._title, self._steps, self._first = title, steps, None
        self._tokens, self._since = 0, time.monotonic()
        self._shown = self._since if self._bars.disable else 0.0

    def step(self, step: int, loss: float, tokens: int) -> None:
        """Shows a step's loss, and the rate of tokens since the start."""
        now = time.monotonic()
        if self._first is None:  # it was compiled for: no rate follows from it
            self._first, self._since = step, now
            return
        self._tokens += tokens
        if now - self._shown < (EVERY if self._bars.disable else REFRESH):
            return
        self._shown, passed = now, max(now - self._since, 1e-9)
        note = f"loss {loss:.4f}  {self._tokens / passed:,.0f} tokens/s"
        if self._bars.disable:
            left = (self._steps - step) * passed / (step - self._first)
            gone = datetime.timedelta(seconds=round(left))
            self.say(f"{self._title}: step {step} of {self._steps}  {note}  {gone} left")
        else:
            self._bars.update(self._run, completed=step, note=note)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line with the metrics; of a comparison's runs there would be too many."""
        if self._models is None:
            found = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self.say(f"step {step}: {found}")

    def say(self, text: str) -> None:
        """A line for the user, above the bars."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Removes the bar of a run; without models, all of it."""
        self._bars.remove_task(self._run)
        if self._models is None:
            self.close()

    def close(self) -> None:
        """Ends the bars, also after an error."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._models = None

    def _start(self, time_column: TimeElapsedColumn | TimeRemainingColumn) -> None:
        on = redraws(self._console) or self._console.is_jupyter
        self._bars = Progress(*self._columns, time_column, console=self._console, disable=not on)
        self._bars.start()


def redraws(console: Console) -> bool:
    """Whether a line may be drawn again; who forces colours into a file has not asked for that."""
    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    return console.is_terminal and (not forced or console.file.isatty())


def words(values: Mapping[str, Any]) -> str:
    """`name value, name value`, numbers with six digits."""
    return ", ".join(f"{name} {_word(value)}" for name, value in values.items())


def bare(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without their split."""
    return {name.rpartition("/")[2]: value for name, value in metrics.items()}


def _word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
