"""A progress bar with loss, tokens per second and time left; silent where there is no terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

REFRESH = 0.2  # seconds between changes of the text
SILENT = Console(quiet=True, force_terminal=False)


class ProgressBar:
    """The bar of one run; a context manager."""

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
