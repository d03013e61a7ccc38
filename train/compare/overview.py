"""Several tasks at a glance: one sentence that says who wins what, and one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from seqzoo.train.compare.charts import LIGHT
from seqzoo.train.compare.formats import show
from seqzoo.train.compare.pairs import differences_of
from seqzoo.train.compare.results import Comparison
from seqzoo.train.compare.statistics import Interval, bounds_of, interval
from seqzoo.train.compare.tables import compared, ranked

NAMES, PANEL, ROW, GAP, TOP, BOTTOM = 150, 230, 26, 26, 30, 24  # of the picture, in pixels
LEVEL, BEHIND, OTHER = "level", "behind", "other"  # classes of the models in it


class Standing(NamedTuple):
    """The models of one task that have a value in every seed, best first."""

    comparison: Comparison
    names: tuple[str, ...]
    spreads: dict[str, Interval]
    seeds: dict[str, tuple[float, ...]]
    level: frozenset[str]  # the best one and those that are not told apart from it
    behind: frozenset[str]  # those behind it in every seed, which are too few to tell


def standings(comparisons: Sequence[Comparison]) -> list[Standing]:
    """One for each task in which a model has a value."""
    found = []
    for comparison in comparisons:
        metric = comparison.main_metric
        seeds = {m.name: tuple(compared(m, metric).values()) for m in ranked(comparison)}
        seeds = {name: values for name, values in seeds.items() if values}
        if seeds:
            spreads = {k: interval(x, bounds=bounds_of(metric)) for k, x in seeds.items()}
            apart = _apart(comparison, next(iter(seeds)))
            behind = frozenset(name for name, kind in apart.items() if kind == BEHIND)
            level = frozenset(seeds.keys() - apart.keys())
            found.append(Standing(comparison, tuple(seeds), spreads, seeds, level, behind))
    return found


def _apart(comparison: Comparison, best: str) -> dict[str, str]:
    """Models that are told apart from the best one, or behind it in every seed, and which."""
    pairs = [pair for pair in differences_of(comparison) if pair.first == best]
    other = {pair.second: OTHER for pair in pairs if pair.verdict == "different"}
    return {pair.second: BEHIND for pair in pairs if pair.separate} | other


def sentence(comparisons: Sequence[Comparison]) -> str:
    """Which models win which task, in numbers; empty where there is one task alone."""
    found = standings(comparisons)
    if len(found) < 2:
        return ""
    return "; ".join(_words(standing) for standing in found) + "."


def _words(standing: Standing) -> str:
    metric, title = standing.comparison.main_metric, standing.comparison.title
    shown = {k: f"{k} ({show(spread.mean, metric)})" for k, spread in standing.spreads.items()}
    best, *others = standing.names
    apart = standing.level | standing.behind
    level = [shown[name] for name in others if name in standing.level]
    behind = [shown[name] for name in others if name in standing.behind]
    below = [shown[name] for name in others if name not in apart]
    if not below and not behind:
        return f"on {title} no model is told apart from {shown[best]}"
    words = [f"not told apart from {_and(level)}"] if level else []
    words += [f"ahead of {_and(behind)} in {_each(standing.seeds[best])}"] if behind else []
    beside = f", {', '.join(words)}" if words else ""
    before = f"{',' if words else ''} before {below[0]}" if below else ""
    return f"on {title} {shown[best]}{beside}{before}"


def _each(seeds: Sequence[float]) -> str:
    if len(seeds) == 1:
        return "its one seed (too few to tell)"
    return f"each of {len(seeds)} seeds (too few to tell)"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def picture(comparisons: Sequence[Comparison]) -> str:
    """The drawing as a figure of a page; empty for one task."""
    svg = drawing(comparisons)
    return svg and (
        f'<figure class="overview">{svg}'
        "<figcaption>Means, 95% intervals and every seed; filled: the best model and those that "
        "are not told apart from it; dashed: behind it in every seed, but these are too few to "
        "tell; dotted: the best trivial baseline.</figcaption></figure>"
    )


def drawing(comparisons: Sequence[Comparison]) -> str:
    """An SVG: models by tasks, the mean with its interval and every seed; empty for one task."""
    found = standings(comparisons)
    if len(found) < 2:
        return ""
    names = list(dict.fromkeys(name for standing in found for name in standing.names))
    width = NAMES + len(found) * (PANEL + GAP)
    height = TOP + ROW * len(names) + BOTTOM
    parts = [
        f'<text x="{NAMES - 10}" y="{_y(i) + 4:.0f}" class="name">{escape(name)}</text>'
        for i, name in enumerate(names)
    ]
    for place, standing in enumerate(found):
        parts += _panel(standing, names, NAMES + place * (PANEL + GAP))
    label = escape(sentence(comparisons))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _panel(standing: Standing, names: Sequence[str], left: float) -> list[str]:
    """One task: an axis, the baseline, and a row for each model."""
    comparison, metric = standing.comparison, standing.comparison.main_metric
    low, high = _range(standing)

    def x(value: float) -> float:
        return left + PANEL * (min(max(value, low), high) - low) / (high - low)

    bottom = TOP + ROW * len(names)
    parts = [
        f'<text x="{left}" y="16" class="task">{escape(comparison.title)}</text>',
        f'<line x1="{left}" x2="{left + PANEL}" y1="{bottom}" y2="{bottom}" class="axis"/>',
        f'<text x="{left}" y="{bottom + 16}" class="tick">{escape(show(low, metric))}</text>',
        f'<text x="{left + PANEL}" y="{bottom + 16}" class="tick end">'
        f"{escape(show(high, metric))}</text>",
    ]
    if (trivial := _trivial(comparison)) is not None:
        at = x(trivial)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}" class="base"/>')
    for name in standing.names:
        parts += _row(standing, name, names.index(name), x)
    return parts


def _row(standing: Standing, name: str, number: int, x) -> list[str]:
    spread, y = standing.spreads[name], _y(number)
    colour = f'class="c{number % len(LIGHT)}"'
    ends = (spread.mean,) * 2 if math.isnan(spread.half_width) else (spread.low, spread.high)
    first, last = map(x, ends)
    kind = LEVEL if name in standing.level else BEHIND if name in standing.behind else OTHER
    words = f"{name}: {show(spread.mean, standing.comparison.main_metric)}"
    return [
        f'<g {colour}><line x1="{first:.1f}" x2="{last:.1f}" y1="{y}" y2="{y}" class="span"/>',
        *(f'<circle cx="{x(v):.1f}" cy="{y}" r="2" class="seed"/>' for v in standing.seeds[name]),
        f'<circle cx="{x(spread.mean):.1f}" cy="{y}" r="5.5" class="{kind}">'
        f"<title>{escape(words)}</title></circle></g>",
    ]


def _y(number: int) -> float:
    return TOP + ROW * (number + 0.5)


def _trivial(comparison: Comparison) -> float | None:
    values = [v for v in comparison.baselines.values() if v is not None]
    best = max if comparison.higher_is_better else min
    return best(values) if values else None


def _range(standing: Standing) -> tuple[float, float]:
    """The axis: 0 to 1 of an accuracy, else what the values, intervals and baseline span."""
    if bounds_of(standing.comparison.main_metric) == (0.0, 1.0):
        return 0.0, 1.0
    values = [v for seeds in standing.seeds.values() for v in seeds]
    trivial = _trivial(standing.comparison)
    values += [] if trivial is None else [trivial]
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - room, high + room
