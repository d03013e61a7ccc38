"""How numbers and cells of tables are shown, in the terminal and on the page."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

from seqzoo.train.compare.statistics import Interval


class Cell(NamedTuple):
    """A cell as shown and as sorted; `key` None sorts last."""

    text: str
    key: float | str | None = None
    small: str = ""  # a second line, where there is room
    brief: str = ""  # shown instead where there is little


class Column(NamedTuple):
    """A heading with its unit."""

    title: str
    unit: str = ""


def show(value: float | None, metric: str) -> str:
    """A value of `metric`: an accuracy in percent, the rest to four digits."""
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.1f}%" if metric == "accuracy" else f"{value:.4g}"


def show_interval(spread: Interval, metric: str) -> str:
    """Mean ± half width, or both ends where one is further; the mean alone of one seed."""
    if not spread.count:
        return "–"
    if math.isnan(spread.half_width):
        return show(spread.mean, metric)
    if metric == "accuracy":
        mean, half, low, high = (
            f"{100 * x:.1f}" for x in (spread.mean, spread.half_width, spread.low, spread.high)
        )
        return f"{mean} ({low} to {high})%" if spread.lopsided else f"{mean} ± {half}%"
    if spread.lopsided:
        return f"{spread.mean:.4g} ({spread.low:.3g} to {spread.high:.3g})"
    return f"{spread.mean:.4g} ± {spread.half_width:.2g}"


def brief_interval(spread: Interval, metric: str) -> str:
    """`show_interval` where there is little room, if that is shorter."""
    if spread.count < 2 or not spread.lopsided:
        return ""
    if metric == "accuracy":
        return f"{100 * spread.mean:.1f}({100 * spread.low:.0f}–{100 * spread.high:.0f})%"
    return f"{spread.mean:.3g}({spread.low:.2g}–{spread.high:.2g})"


def show_count(value: float | None) -> str:
    """An integer with thousands separated."""
    return "–" if value is None else f"{value:,.0f}"


def show_compact(value: float | None) -> str:
    """A count to three digits with a unit prefix, as in 17.2k."""
    if value is None:
        return "–"
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        size = 10.0**power
        least = max(size, 1e4)
        if abs(value) >= least:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}"


def show_seconds(value: float | None) -> str:
    """Seconds below two minutes, else minutes."""
    if value is None:
        return "–"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def show_step(value: float | None) -> str:
    """Seconds of one step as milliseconds, to three digits."""
    return "–" if value is None else f"{1e3 * value:.3g}"


def heading_html(column: Column, kind: str) -> str:
    """A heading that sorts by its column, of `kind` text or number."""
    unit = f"<small>{escape(column.unit)}</small>" if column.unit else ""
    title = f"<span>{escape(column.title)}</span>{unit}"
    return f'<th scope="col" data-kind="{kind}"><button type="button">{title}</button></th>'


def cell_html(cell: Cell) -> str:
    """A cell with what it is sorted by."""
    key = "" if cell.key is None else repr(cell.key) if isinstance(cell.key, float) else cell.key
    return f'<td data-value="{escape(str(key))}">{escape(cell.text)}{small_html(cell)}</td>'


def small_html(cell: Cell) -> str:
    """The second line of a cell, smaller."""
    return f'<br><span class="seeds">{escape(cell.small)}</span>' if cell.small else ""
