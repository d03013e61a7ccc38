"""Learning curves of a run, read from its metrics and thinned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.train.compare.results import Curve

NOT_CURVES = {"examples", "lr", "weight", "grad_norm", "epoch", "skipped", "step_seconds", "mfu"}
VALIDATION = "validation"


def read_curves(folder: Path, steps: int, replicas: int, points: int) -> list[dict[str, Curve]]:
    """Of each replica split -> {"step": [...], metric: [...]}.

    Training metrics are means over windows of a `points`-th of `steps` that end where a validation
    does; what was not finite is left out of them. A metric without a split is of training.
    """
    from seqzoo.train.folder.metrics import read_lines  # late: it brings the checkpoint library

    window = max(1, steps // points)
    curves: list[dict[str, dict[str, list]]] = [{} for _ in range(replicas)]
    waiting: list[dict[str, np.ndarray]] = []
    lines = read_lines(folder)
    for line in lines:
        splits: dict[str, dict[str, np.ndarray]] = {"train": {}}
        for name, value in line.values.items():
            split, _, metric = name.rpartition("/")
            if metric not in NOT_CURVES:
                values = np.atleast_1d(np.array(value, np.float64))
                if len(values) != replicas:
                    raise ValueError(
                        f"{folder}: metrics of step {line.step} have {len(values)} seeds, "
                        f"the configuration says {replicas}; one of the two is damaged"
                    )
                splits.setdefault(split or "train", {})[metric] = values
        waiting.append(splits.pop("train"))
        if line.step % window == 0 or splits or line is lines[-1]:
            splits["train"] = _means(waiting)
            waiting = []
        for split, values in splits.items():
            _append(curves, split, line.step, values)
    return curves


def until(curves: dict[str, Curve], step: int) -> dict[str, Curve]:
    """What was measured before a step."""
    cut = {}
    for split, curve in curves.items():
        kept = [i for i, at in enumerate(curve["step"]) if at < step]
        if kept:
            cut[split] = {name: [values[i] for i in kept] for name, values in curve.items()}
    return cut


def _means(window: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = {name: None for values in window for name in values}
    return {name: _mean([values[name] for values in window if name in values]) for name in names}


def _mean(values: list[np.ndarray]) -> np.ndarray:
    finite = np.isfinite(values)
    total = np.where(finite, values, 0).sum(0)
    return np.where(finite.any(0), total / np.maximum(finite.sum(0), 1), np.nan)


def _append(curves: list[Any], split: str, step: int, values: dict[str, np.ndarray]) -> None:
    for i, own in enumerate(curves):
        curve = own.setdefault(split, {"step": []})
        for name in {**curve, **values}:
            if name != "step":
                column = curve.setdefault(name, [None] * len(curve["step"]))
                value = values[name][i] if name in values else np.nan
                column.append(float(value) if np.isfinite(value) else None)
        curve["step"].append(step)
