"""What a run knows of its replicas so far: it goes into metrics, checkpoints and the result.

A run of one replica writes numbers, one of several writes lists in the order of its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from seqzoo.train.config import Experiment
from seqzoo.train.folder.metrics import NonFiniteError
from seqzoo.train.loop.selection import Best

NONFINITE = "nonfinite/"
SKIPPED = "skipped"
Metrics = Mapping[str, np.ndarray]  # of one step; of several replicas with those in front


class Record:
    """The newest metrics, the best results, and what was not finite.

    Args:
        experiment: of the run.
        variables: a first copy of the best parameters; None where none is kept.
    """

    def __init__(self, experiment: Experiment, variables: PyTree[Array] | None = None):
        self._task, self._train = experiment.task, experiment.train
        replicas = experiment.train.replicas
        better = experiment.task.higher_is_better
        self.train: dict[str, np.ndarray] = {}  # of the newest finite steps read
        self.validation: dict[str, np.ndarray] = {}
        self.best = Best(replicas, higher_is_better=better, variables=variables)
        self.skipped = np.zeros(replicas, int)  # steps
        self.failures: list[dict[str, Any] | None] = [None] * replicas

    def read(self, step: int, metrics: Metrics) -> dict[str, Any]:
        """The line of a step; its skips are counted, and who has skipped too many has failed.

        Of a replica that had stopped there is nothing.
        """
        values = {k: np.atleast_1d(v) for k, v in metrics.items()}
        skipped = values.pop(SKIPPED)
        flags = {k.removeprefix(NONFINITE): values.pop(k) for k in [*values] if NONFINITE in k}
        values = {name: np.asarray(value, np.float64) for name, value in values.items()}
        over = self.stopped(step - 1)
        if over.any():
            values = {name: np.where(over, np.nan, value) for name, value in values.items()}
        self.skipped += skipped
        for i in np.flatnonzero(self.skipped > self._allowed):
            if self.failures[i] is None:
                groups = [group for group, flag in flags.items() if flag[i]]
                found = {"step": step, "loss": float(values["loss"][i]), "groups": groups}
                self.failures[i] = {**found, SKIPPED: int(self.skipped[i])}
        old = self.train
        self.train = {k: np.where(skipped | over, old.get(k, np.nan), v) for k, v in values.items()}
        counts = {SKIPPED: self.skipped.copy()} if self.skipped.any() else {}
        return self.plain({**values, **counts})

    def check(self) -> None:
        """Raises NonFiniteError where all replicas have failed."""
        if all(self.failures):
            last = max(self.failures, key=lambda failure: failure["step"])
            loss = math.nan if last.get("loss") is None else last["loss"]
            groups = tuple(last.get("groups", ()))
            raise NonFiniteError(last["step"], loss, groups, last.get(SKIPPED, 1))

    @property
    def loss(self) -> float:
        """The mean of the replicas that have not failed."""
        going = [failure is None for failure in self.failures]
        return float(np.mean(self.train["loss"][going])) if any(going) else math.nan

    def evaluated(
        self, step: int, metrics: Metrics, variables: PyTree[Array]
    ) -> Bool[np.ndarray, " S"]:
        """Takes a validation; which replicas had their best result so far."""
        shape = self.skipped.shape  # the examples are the same for all
        self.validation = {f"validation/{k}": np.broadcast_to(v, shape) for k, v in metrics.items()}
        main = self.validation[f"validation/{self._task.main_metric}"]
        return self.best.offer(step, main, variables)

    def stopped(self, step: int) -> Bool[np.ndarray, " S"]:
        """Which replicas have had no better result for long enough, after so many steps.

        It follows from the best results alone, so nothing of it is saved.
        """
        if not self._train.patience:
            return np.zeros(self.skipped.shape, bool)
        newest = step - step % self._train.eval_every  # evaluation, or the start
        return newest - self._best_steps() >= self._train.patience * self._train.eval_every

    def stops(self, step: int) -> dict[str, list[int | None] | int | None]:
        """For the result: the steps at which replicas stopped before the last one."""
        if not self._train.patience:
            return {}
        ends = self._best_steps() + self._train.patience * self._train.eval_every
        found = [int(e) if s else None for e, s in zip(ends, self.stopped(step), strict=True)]
        return {"stopped": found if self._several else found[0]}

    def _best_steps(self) -> Int[np.ndarray, " S"]:
        return np.array([best or 0 for best in self.best.steps])

    def meta(self) -> dict[str, Any]:
        """What a checkpoint and the result hold of it, for JSON but for NaN."""
        return {
            "train": self.plain(self.train),
            "validation": self.plain(self.validation),
            "best": self._best(),
            SKIPPED: self.plain({SKIPPED: self.skipped})[SKIPPED],
            "failure": self.failures if self._several else self.failures[0],
        }

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Takes what `meta` gave, but for the copy of the best parameters."""
        self.train, self.validation = (
            _arrays(meta.get(part, {})) for part in ("train", "validation")
        )
        if SKIPPED in meta:  # which first versions did not write
            self.skipped = np.atleast_1d(np.asarray(meta[SKIPPED]))
        if "failure" in meta:
            self.failures = list(meta["failure"]) if self._several else [meta["failure"]]
        if meta.get("best"):
            found = meta["best"]["step"], meta["best"]["value"]
            steps, values = found if self._several else [[x] for x in found]
            self.best.steps = list(steps)
            self.best.values = np.array([np.nan if v is None else v for v in values])

    def plain(self, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Numbers of one replica, lists of several."""
        if self._several:
            return {name: np.asarray(value).tolist() for name, value in values.items()}
        return {name: np.asarray(value).item() for name, value in values.items()}

    @property
    def _several(self) -> bool:
        return self._train.replicas > 1

    @property
    def _allowed(self) -> int:
        # The slack is for 0.07 * 100 = 7.000000000000001 and its like below a whole number.
        return math.floor(self._train.max_skipped * self._train.steps * (1 + 1e-9))

    def _best(self) -> dict[str, Any] | None:
        if all(step is None for step in self.best.steps):
            return None
        steps, values = self.best.steps, self.best.values.tolist()
        if not self._several:
            (steps,), (values,) = steps, values
        return {"step": steps, "metric": self._task.main_metric, "value": values}


def _arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reverses `Record.plain`, after a way through JSON."""
    return {k: np.atleast_1d(np.array(v, np.float64)) for k, v in values.items()}
