"""Locality controls: how much of an accuracy needs long range (`compare --controls`).

Two models join the table: attention with a window of 16 steps, and one free long filter a channel
(an unconstrained convolution). Every model is tested once more on rows whose blocks of 16 steps
have changed places. Long Range Arena is doubted for what such rows leave (arXiv 2501.14850).

What is left is a share of what was reached above the best trivial rule, seed by seed: of a model
once blocks are out of order, and of the best model once only the window or the filter is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from seqzoo.train.compare.formats import Cell, Column, cell_html, heading_html, show_interval
from seqzoo.train.compare.results import Comparison, Left, ModelResult
from seqzoo.train.compare.statistics import Interval, bounds_of, interval
from seqzoo.train.compare.tables import compared, ranked
from seqzoo.train.evaluation.axes import SHUFFLE, Axis

WINDOW = 16
MODELS: dict[str, tuple[str, dict[str, Any]]] = {  # label -> model and mixer options
    "window16": ("attention", {"window": WINDOW}),
    "free_conv": ("long_conv", {}),
}
SHUFFLED, OF_BEST = "shuffled", "of_best"
LEAST = 0.1  # of the way from the trivial rule to a perfect accuracy: below is nothing to share
CAPTION = (
    "What is left, in percent of what was reached above the best trivial rule, with the 95% "
    f"interval over seeds. Shuffled: blocks of {WINDOW} steps of each test row in another order, "
    "so that nothing further away is where it was; what window16 itself loses is the price of "
    "borders and of rows that no model was trained on. Of the best: of what the best model reached "
    f"that is no control; window16 sees {WINDOW} steps a layer, free_conv has one free filter a "
    "channel. No share where a seed came less than a tenth of the way to a perfect accuracy."
)


def with_controls(models: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """`models` and those that `made` adds. Raises ValueError for a label that is taken."""
    for label in made:
        if label in models:
            raise ValueError(f"controls add a model {label}; give yours another label")
    return {**models, **made}


def with_shuffle(axes: Iterable[Axis]) -> list[Axis]:
    """`axes`, and that of shuffled blocks where it is not among them."""
    found = list(axes)
    if all(axis.name != SHUFFLE for axis in found):
        found.append(Axis(SHUFFLE, str(WINDOW)))
    return found


def controls_of(comparison: Comparison) -> dict[str, dict[str, Left]]:
    """For results.json: what is left, of each model shuffled and of the best for each control."""
    found: dict[str, dict[str, Left]] = {}
    for kind, shares in shares_of(comparison).items():
        for name, spread in shares.items():
            one = spread.count < 2
            found.setdefault(kind, {})[name] = Left(
                mean=spread.mean if spread.count else None,
                low=None if one else spread.low,
                high=None if one else spread.high,
                seeds=spread.count,
            )
    return found


def shares_of(comparison: Comparison) -> dict[str, dict[str, Interval]]:
    """Kind -> model -> share that is left; empty where nothing was controlled."""
    if not comparison.main_metric.endswith("accuracy"):
        return {}
    floor = max((v for v in comparison.baselines.values() if v is not None), default=0.0)
    whole = {m.name: compared(m, comparison.main_metric) for m in comparison.models}
    found: dict[str, dict[str, Interval]] = {}
    for model in comparison.models:
        values = shuffled_values(model, comparison.main_metric)
        if values:
            own = _share(values, whole[model.name], floor)
            found.setdefault(SHUFFLED, {})[model.name] = own
    best = next((m.name for m in ranked(comparison) if m.name not in MODELS), None)
    for label in MODELS if best else ():
        if label in whole:
            found.setdefault(OF_BEST, {})[label] = _share(whole[label], whole[best], floor)
    return found


def shuffled_values(model: ModelResult, metric: str) -> dict[int, float]:
    """seed -> the metric with the smallest blocks that were tested."""
    found = {}
    for run in model.seeds:
        curve = run.axes.get(SHUFFLE, {})
        if metric in curve and run.failure is None and curve[metric][0] is not None:
            found[run.seed] = curve[metric][0]
    return found


def _share(values: Mapping[int, float], whole: Mapping[int, float], floor: float) -> Interval:
    seeds = [seed for seed in values if seed in whole]
    if any(whole[seed] - floor < LEAST * (1 - floor) for seed in seeds):
        return interval([])
    return interval([(values[s] - floor) / (whole[s] - floor) for s in seeds])


def rows(comparison: Comparison) -> tuple[list[Column], list[list[Cell]]]:
    """The table: best model first; no rows where nothing was controlled."""
    shares, metric = shares_of(comparison), comparison.main_metric
    columns = [
        Column("model"),
        Column(metric, "shuffled"),
        Column("left", "shuffled"),
        Column("left", "of the best"),
    ]
    table = []
    for model in ranked(comparison) if SHUFFLED in shares else ():
        spread = interval([*shuffled_values(model, metric).values()], bounds=bounds_of(metric))
        own = [shares[kind].get(model.name) for kind in (SHUFFLED, OF_BEST) if kind in shares]
        own += [None] * (2 - len(own))
        table.append(
            [
                Cell(model.name, model.name),
                Cell(show_interval(spread, metric), spread.mean if spread.count else None),
                *(_cell(share) for share in own),
            ]
        )
    return columns, table


def _cell(share: Interval | None) -> Cell:
    if share is None or not share.count:
        return Cell("–")
    return Cell(show_interval(share, "accuracy"), share.mean)


def controls_html(comparison: Comparison) -> str:
    """The table for the page; empty where nothing was controlled."""
    columns, table = rows(comparison)
    if not table:
        return ""
    head = "".join(heading_html(c, "text" if i == 0 else "number") for i, c in enumerate(columns))
    body = "".join(
        f'<tr><th scope="row" data-value="{escape(row[0].text)}">{escape(row[0].text)}</th>'
        f"{''.join(map(cell_html, row[1:]))}</tr>"
        for row in table
    )
    return (
        '<figure><h3>How much needs long range</h3><div class="scroll"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<figcaption>{escape(CAPTION)}</figcaption></figure>"
    )


def lines(comparison: Comparison) -> list[str]:
    """For the terminal: a line a model."""
    found = []
    for name, accuracy, left, best in rows(comparison)[1]:
        more = f"; {best.text} of the best" if best.key is not None else ""
        found.append(f"{name.text}: {accuracy.text} shuffled, {left.text} left{more}")
    return found
