"""Learning curves of a run, read from its metrics and thinned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.train.compare.results import Comparison, Curve, ModelResult
from seqzoo.train.compare.statistics import band, bounds_of, interval
from seqzoo.train.compare.tables import compared

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


def axes_in(comparison: Comparison) -> list[dict[str, Any]]:
    """Name and metrics of each axis that a model was tested along, the main metric first."""
    found: dict[str, dict[str, None]] = {}
    for run in (run for model in comparison.models for run in model.seeds):
        for name, curve in run.axes.items():
            found.setdefault(name, {}).update(dict.fromkeys(k for k in curve if k != "at"))
    main = comparison.main_metric
    return [
        {"name": name, "metrics": sorted(metrics, key=lambda m: (m != main, m))}
        for name, metrics in found.items()
    ]


def axis_bands(model: ModelResult) -> dict[str, dict[str, dict[str, list[float]]]]:
    """axis -> metric -> mean and interval over the seeds at each value."""
    bands: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in dict.fromkeys(name for run in model.seeds for name in run.axes):
        own = [run.axes[name] for run in model.seeds if name in run.axes and not run.failure]
        for metric in sorted({k for curve in own for k in curve} - {"at"}):
            curves = [
                {at: v for at, v in zip(c["at"], c[metric], strict=True) if v is not None}
                for c in own
                if metric in c
            ]
            b = band(curves, bounds=bounds_of(metric))
            if b.steps:
                lists = {"x": b.steps, "mean": b.mean, "low": b.low, "high": b.high}
                bands.setdefault(name, {})[metric] = lists
    return bands


def ratios_in(comparison: Comparison) -> list[dict[str, Any]]:
    """For each mixer whose share varies: a line for each family, over the share of its layers."""
    families: dict[str, dict[str, list[ModelResult]]] = {}
    for model in sorted(comparison.models, key=lambda m: m.hybrid.get("share", 0)):
        if own := model.hybrid:
            families.setdefault(own["mixer"], {}).setdefault(own["family"], []).append(model)
    return [
        {
            "mixer": mixer,
            "lines": [
                {"name": name, "colour": i, "dash": "none", "curve": _by_share(models, comparison)}
                for i, (name, models) in enumerate(own.items())
            ],
        }
        for mixer, own in families.items()
    ]


def _by_share(models: Sequence[ModelResult], comparison: Comparison) -> dict[str, list[float]]:
    metric = comparison.main_metric
    curve: dict[str, list[float]] = {"x": [], "mean": [], "low": [], "high": []}
    for model in models:
        spread = interval([*compared(model, metric).values()], bounds=bounds_of(metric))
        if spread.count:
            ends = (spread.low, spread.high) if spread.count > 1 else (spread.mean, spread.mean)
            point = (model.hybrid["share"], spread.mean, *ends)
            for values, value in zip(curve.values(), point, strict=True):
                values.append(value)
    return curve
