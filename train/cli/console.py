"""Progress bars of a run and of a comparison; silent where there is no terminal."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

REFRESH = 0.2  # seconds between changes of the text
SILENT = Console(quiet=True, force_terminal=False)


class ProgressBar:
    """The bar of one run: loss, tokens per second and time left; a context manager."""

    def __init__(self, title: str, steps: int, done: int = 0, console: Console | None = None):
        self._console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        on = self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, disable=not on)
        self._task = self._bar.add_task(title, total=steps, completed=done, note="")
        self._tokens, self._since, self._shown = 0, time.monotonic(), 0.0

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Shows a step's loss, and the rate of tokens since the start."""
        now = time.monotonic()
        self._tokens += tokens
        if self._bar.disable or now - self._shown < REFRESH:
            return
        self._shown = now
        rate = self._tokens / max(now - self._since, 1e-9)
        note = f"loss {loss:.4f}  {rate:,.0f} tokens/s"
        self._bar.update(self._task, completed=step, note=note)

    def say(self, text: str) -> None:
        """A line for the user, above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class ComparisonBars(contextlib.AbstractContextManager):
    """Progress over models and over the steps of one; a context manager."""

    def __init__(self, console: Console, models: int, done: int):
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._models = self._bars.add_task("models", total=models, completed=done, note="")
        self._steps = None

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __enter__(self) -> ComparisonBars:
        self._bars.start()
        return self

    def start(self, label: str, steps: int) -> None:
        self._total = steps
        self._steps = self._bars.add_task(label.replace("[", "\\["), total=steps, note="starting")

    def step(self, done: int, loss: float) -> None:
        self._bars.update(self._steps, completed=done, note=f"loss {loss:.3f}")

    def part(self, index: int, count: int) -> Any:
        """`step` of one seed of several in turn."""

        def step(done: int, loss: float) -> None:
            self.step((index * self._total + done) // count, loss)

        return step

    def finish(self, models: int = 1) -> None:
        self._bars.remove_task(self._steps)
        self._bars.advance(self._models, models)
