"""The figures of the page as SVG: curves, axes, shares of hybrids; one file each, for papers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from seqzoo.train.compare.charts import LIGHT, chart_data
from seqzoo.train.compare.results import Comparison

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 340, 58, 150, 18, 44
MANY = 8  # values of an axis that are spread by their logarithm above this ratio


class Line(NamedTuple):
    """A curve with its band."""

    name: str
    colour: str
    dash: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def figures(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Name and SVG of each figure that there is something for."""
    data = chart_data(comparison, "figure")
    metric, split = data["metric"], data["splits"][0] if data["splits"] else ""
    curves = lines_of(data, lambda model: model["curves"].get(split, {}).get(metric))
    if curves:
        title = f"{metric}, {split} split"
        yield f"{comparison.title}-curves", drawn(curves, "training step", title, metric)
    for axis in data["axes"]:
        name = axis["name"]
        own = axis["metrics"][0]
        found = lines_of(data, lambda model, n=name, m=own: model["axes"].get(n, {}).get(m))
        if found:
            yield f"{comparison.title}-{name}", drawn(found, name, own, own, spread=True)
    for ratio in data["ratios"]:
        found = lines_of({"models": ratio["lines"]}, lambda line: line["curve"])
        if found:
            what = f"share of {ratio['mixer']} layers"
            title = f"{metric}, {comparison.final_split} split"
            yield f"{comparison.title}-{what}", drawn(found, what, title, metric)


def lines_of(data: Mapping[str, Any], curve: Any) -> list[Line]:
    """The models' curves, of those that have one."""
    found = ((model, curve(model)) for model in data["models"])
    return [
        Line(
            m["name"],
            LIGHT[m["colour"] % len(LIGHT)],
            m["dash"],
            c["x"],
            c["mean"],
            c["low"],
            c["high"],
        )
        for m, c in found
        if c and c["x"]
    ]


def drawn(
    lines: Sequence[Line], x_title: str, title: str, metric: str, *, spread: bool = False
) -> str:
    """One plot with its legend at the right."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in (*line.low, *line.high, *line.mean)]
    logarithmic = spread and min(xs) > 0 and max(xs) > MANY * min(xs)
    share = metric.endswith("accuracy")
    x = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, logarithmic)
    y = _Scale(min(ys), max(ys), HEIGHT - BOTTOM, TOP, False)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tick in y.ticks():
        at, text = y(tick), f"{100 * tick:g}%" if share else f"{tick:g}"
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#e8ebef"/>')
        parts.append(_text(LEFT - 6, at + 4, text, "end"))
    for tick in x.ticks():
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 16, f"{tick:g}", "middle"))
    base = HEIGHT - BOTTOM
    parts.append(f'<path d="M{LEFT} {base}H{WIDTH - RIGHT}" stroke="#5a6270"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "middle"))
    parts.append(_text(LEFT, TOP - 5, title, "start"))
    for place, line in enumerate(lines):
        parts += _curve(line, x, y)
        at, dash = TOP + 12 + 18 * place, "" if line.dash == "none" else line.dash
        key = f'<path d="M{WIDTH - RIGHT + 10} {at}h24" stroke="{line.colour}" stroke-width="2"'
        parts.append(f'{key} stroke-dasharray="{dash}"/>')
        parts.append(_text(WIDTH - RIGHT + 40, at + 4, line.name, "start"))
    return "\n".join([*parts, "</svg>", ""])


class _Scale:
    def __init__(self, low: float, high: float, start: float, end: float, log: bool):
        if high <= low:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round numbers, of a logarithmic scale powers of two."""
        if self.log:
            first, last = math.ceil(math.log2(self.low)), math.floor(math.log2(self.high))
            step = max(1, (last - first) // 6 + 1)
            return [2.0**e for e in range(first, last + 1, step)]
        raw = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [round((first + i) * step, 12) for i in range(count)]


def _curve(line: Line, x: _Scale, y: _Scale) -> list[str]:
    up = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.high, strict=True)]
    down = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.low, strict=True)]
    mean = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.mean, strict=True))
    dash = "" if line.dash == "none" else f' stroke-dasharray="{line.dash}"'
    band = " ".join([*up, *down[::-1]])
    made = [f'<polygon points="{band}" fill="{line.colour}" fill-opacity="0.13"/>']
    made.append(
        f'<polyline points="{mean}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>'
    )
    if len(line.x) < 20:
        made += [
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{line.colour}"/>'
            for a, b in zip(line.x, line.mean, strict=True)
        ]
    return made


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#1a1d21">{escape(text)}</text>'
    )
