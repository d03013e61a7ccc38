"""What the page's script and the figures draw: curves with bands, final values, costs, axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqzoo.train.compare import results, tables
from seqzoo.train.compare.results import Comparison, ModelResult
from seqzoo.train.compare.statistics import band, bounds_of, interval
from seqzoo.train.compare.trials import tuning_data

POINTS = 300  # of a curve: no eye sees more, and a long run's page stays small
ALL_POINTS, FEWEST = 30_000, 40  # of all curves of a page, and of each at least

# Eight hues that stay apart for the usual colour-vision deficiencies (after Okabe and Ito 2008),
# darkened or lightened to a contrast of at least 3 against the card; dashes tell more models apart.
LIGHT = ("#0072b2", "#d55e00", "#007f5c", "#aa4499", "#8a6a00", "#2e8bc0", "#555c66", "#882255")
DARK = ("#56b4e9", "#ff9e5e", "#2fd3a5", "#e79cc8", "#f0c541", "#8fb8ff", "#b4bac4", "#ff7b9c")
DASHES = ("none", "7 4", "2 3", "9 3 2 3")


def chart_data(comparison: Comparison, section_id: str) -> dict[str, Any]:
    """What the script draws: curves with their bands, final values, states, baselines."""
    metric = comparison.main_metric
    splits = _ordered(
        {s for m in comparison.models for r in m.seeds for s in r.curves}, "validation"
    )
    metrics = {
        k
        for m in comparison.models
        for r in m.seeds
        for curve in r.curves.values()
        for k in curve
        if k != "step"
    }
    unit, points = _state_unit(comparison), _points(comparison)
    return {
        "id": section_id,
        "metric": metric,
        "higher": comparison.higher_is_better,
        "finalSplit": comparison.final_split,
        "stateUnit": unit,
        "axes": axes_in(comparison),
        "ratios": ratios_in(comparison),
        "splits": _ordered(splits, "validation"),
        "metrics": _ordered(metrics, metric),
        "baselines": [{"name": k, "value": v} for k, v in comparison.baselines.items()],
        "models": [
            {**_model_data(m, i, metric, unit), "curves": _bands(m, points)}
            for i, m in enumerate(comparison.models)
        ],
    }


def _state_unit(comparison: Comparison) -> str:
    """What states are drawn in: bytes, or elements where a folder of before knows no bytes."""
    known = (m.state_bytes for m in comparison.models if m.state_size)
    return "elements" if None in known else "bytes"


def _model_data(model: ModelResult, index: int, metric: str, unit: str) -> dict[str, Any]:
    final = tables.compared(model, metric)
    spread = interval(list(final.values()), bounds=bounds_of(metric))
    return {
        "name": model.name,
        "colour": index % len(LIGHT),
        "dash": DASHES[index // len(LIGHT) % len(DASHES)],
        "state": (model.state_bytes if unit == "bytes" else model.state_size) or 0,
        "grows": model.state_growth != "constant",
        "final": results.plain(
            {"mean": spread.mean, "ends": [spread.low, spread.high], "seeds": list(final.values())}
        ),
        "axes": axis_bands(model),
        "costs": _costs(model),
        "perStep": {"tokens": _tokens_a_step(model), "FLOPs": model.step_flops},
        "tuning": tuning_data(model),
    }


def _costs(model: ModelResult) -> dict[str, float]:
    """What quality is drawn against besides the state; what is not known is not there."""
    found = {
        "parameters": model.parameters,
        "FLOPs a step": model.step_flops,
        "seconds a step": model.step_seconds,
    }
    return {name: value for name, value in found.items() if value}


def _tokens_a_step(model: ModelResult) -> float | None:
    if model.tokens_per_second and model.step_seconds:
        return round(model.tokens_per_second * model.step_seconds)
    return None


def _points(comparison: Comparison) -> int:
    """Points of each curve, so that many models and metrics make no large page."""
    curves = sum(
        len({(s, k) for run in model.seeds for s, c in run.curves.items() for k in c})
        for model in comparison.models
    )
    return min(POINTS, max(FEWEST, ALL_POINTS // max(1, curves)))


def _thinned(curves: Sequence[results.Curve], points: int) -> list[dict[str, dict[float, float]]]:
    """metric -> step -> value of each curve, at no more than `points` steps that all share.

    Longer ones are cut into windows; the value at a window's last step is the mean of the window.
    """
    steps = np.unique(np.concatenate([c["step"] for c in curves]))
    ends = np.array([part[-1] for part in np.array_split(steps, points) if part.size])
    thinned = []
    for curve in curves:
        window = np.searchsorted(ends, curve["step"])
        made = {}
        for metric in curve.keys() - {"step"}:
            values = np.array(curve[metric], np.float64)  # None becomes NaN
            finite = np.isfinite(values)
            count = np.bincount(window[finite], minlength=len(ends))
            total = np.bincount(window[finite], values[finite], len(ends))
            kept = np.flatnonzero(count)
            means = total[kept] / count[kept]
            made[metric] = dict(zip(ends[kept].tolist(), means.tolist(), strict=True))
        thinned.append(made)
    return thinned


def _bands(model: ModelResult, points: int) -> dict[str, dict[str, dict[str, list[float]]]]:
    bands: dict[str, dict[str, dict[str, list[float]]]] = {}
    for split in sorted({s for r in model.seeds for s in r.curves}):
        curves = _thinned([r.curves[split] for r in model.seeds if split in r.curves], points)
        for metric in sorted({k for c in curves for k in c}):
            own = [c[metric] for c in curves if metric in c]
            b = band(own, bounds=bounds_of(metric))
            if b.steps:
                lists = {"x": b.steps, "mean": b.mean, "low": b.low, "high": b.high}
                short = {k: [_short(v) for v in list_] for k, list_ in lists.items()}
                bands.setdefault(split, {})[metric] = short
    return bands


def _short(value: float) -> float:
    """Six digits: no eye sees more and the page stays small."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def axes_in(comparison: Comparison) -> list[dict[str, Any]]:
    """Name and metrics of each axis that a model was tested along, the main metric first.

    One value alone makes no line.
    """
    found: dict[str, dict[str, None]] = {}
    for run in (run for model in comparison.models for run in model.seeds):
        for name, curve in run.axes.items():
            if len(curve["at"]) < 2:
                continue
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
    hybrids = [model for model in comparison.models if model.hybrid]
    for model in sorted(hybrids, key=lambda m: m.hybrid["share"]):
        own = model.hybrid
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
        spread = interval([*tables.compared(model, metric).values()], bounds=bounds_of(metric))
        if spread.count:
            ends = (spread.low, spread.high) if spread.count > 1 else (spread.mean, spread.mean)
            point = (model.hybrid["share"], spread.mean, *ends)
            for values, value in zip(curve.values(), point, strict=True):
                values.append(value)
    return curve


def _ordered(names: set[str], first: str) -> list[str]:
    return sorted(names, key=lambda n: (n != first, n))
