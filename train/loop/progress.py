"""What a run and a comparison tell while they work; whoever shows it to a user extends these."""

from __future__ import annotations

from collections.abc import Mapping


class Progress:
    """Hears of one run at a time; this one keeps silent."""

    def begin(self, title: str, steps: int, done: int = 0) -> None:
        """A run of `steps` steps starts after step `done`."""

    def step(self, step: int, loss: float, tokens: int) -> None:
        """A step has been read, of `tokens` positions; NaN is the loss of one not finite."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> bool | None:
        """What the validation split gave at a step; True asks the run to stop, saved."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def end(self) -> None:
        """The run of `begin` is over, one way or another."""


class ComparisonProgress(Progress):
    """Hears of the runs of a comparison and of its models; this one keeps silent."""

    def models(self, total: int, done: int) -> None:
        """A comparison of `total` models starts, or goes on, with `done` of them trained."""


SILENT = ComparisonProgress()
