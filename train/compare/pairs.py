"""What may be said of each pair of models, as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from seqzoo.train.compare.formats import Cell, Column, cell_html, heading_html
from seqzoo.train.compare.results import Comparison
from seqzoo.train.compare.statistics import Difference, pairwise
from seqzoo.train.compare.tables import compared, ranked


def differences(comparison: Comparison) -> Mapping[str, list[Cell]]:
    """Pairwise differences: "first − second" -> its cells, the better model first."""
    metric = comparison.main_metric
    table = {}
    for d in differences_of(comparison):
        if d.interval.count < 2:
            continue
        table[f"{d.first} − {d.second}"] = [
            Cell(_difference(d, metric), d.interval.mean),
            Cell(str(d.interval.count), d.interval.count),
            _p_cell(d.p),
            _p_cell(d.p_adjusted),
            _p_cell(d.p_alike or math.nan),
            Cell(d.verdict, d.verdict),
        ]
    return table


def differences_of(comparison: Comparison) -> list[Difference]:
    """Every pair of models, the better one first."""
    return pairwise({m.name: compared(m, comparison.main_metric) for m in ranked(comparison)})


def told_apart(comparison: Comparison) -> str:
    """One sentence: which models are called different; empty where no pair has two seeds."""
    rows = [pair for pair in differences_of(comparison) if pair.interval.count >= 2]
    found: dict[str, list[str]] = {}
    for pair in rows:
        if pair.verdict == "different":
            found.setdefault(pair.first, []).append(pair.second)
    if not rows:
        return ""
    several = f"{len(rows)} pair{'s' if len(rows) > 1 else ''}"
    if not found:
        return f"told apart: none of {several}"
    words = "; ".join(f"{first} from {', '.join(others)}" for first, others in found.items())
    return f"told apart: {words} ({sum(map(len, found.values()))} of {several})"


def _difference(pair: Difference, metric: str) -> str:
    """The mean difference and its interval, which for shares ends at one whole."""
    mean, half = pair.interval.mean, pair.interval.half_width
    if metric != "accuracy":
        return f"{mean:+.3g} ± {half:.2g}"
    low, high = max(mean - half, -1.0), min(mean + half, 1.0)
    if (low, high) == (mean - half, mean + half):
        return f"{100 * mean:+.3g} ± {100 * half:.2g} points"
    return f"{100 * mean:+.3g} ({100 * low:+.3g} to {100 * high:+.3g}) points"


def _p_cell(p: float) -> Cell:
    return Cell("–") if math.isnan(p) else Cell(f"{p:.2g}", p)


def differences_html(comparison: Comparison) -> str:
    """The pairwise differences as a sortable table; empty where no pair has two seeds."""
    table = differences(comparison)
    if not table:
        return ""
    titles = (
        Column("pair"),
        Column("difference", "± 95%"),
        Column("seeds"),
        Column("p", "paired t"),
        Column("p", "Holm"),
        Column("p", "neighbours"),
        Column("reading"),
    )
    words = (titles[0], titles[-1])
    head = "".join(heading_html(c, "text" if c in words else "number") for c in titles)
    body = "".join(
        f'<tr><th scope="row" data-value="{escape(name)}">{escape(name)}</th>'
        f"{''.join(cell_html(c) for c in cells)}</tr>"
        for name, cells in table.items()
    )
    return f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
