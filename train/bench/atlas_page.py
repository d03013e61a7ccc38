"""The atlas as one HTML page without scripts: a chart and a table for each pass and batch."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

WIDTH, HEIGHT, MARGIN, LABELS = 720, 380, 46, 150  # of a chart; its right margin has the names
COLOURS = ("#d1495b", "#2a7f9e", "#8a6fbf", "#c98a1b", "#3f8f5b", "#b35b9e", "#6b7a8f", "#a0522d")
TITLES = {
    "forward_backward": "Forward and backward",
    "train": "Train step",
    "decode": "Decode step",
    "forward": "Forward",
}
ABOUT = {
    "forward_backward": "One mixer, gradients of its input and of all its parameters.",
    "train": "Two blocks around the mixer, embedding, head and AdamW included.",
    "decode": "One token of each row; what keeps all tokens has room for so many.",
    "forward": "One mixer, nothing kept for a backward pass.",
}
KNOWN = {"at_most": "≤ ", "extrapolated": "≈ ", "measured": ""}
Row = Mapping[str, Any]


def page(found: Mapping[str, Any]) -> str:
    """The page of what an atlas holds so far."""
    rows, settings = found["rows"], found["settings"]
    order = list(TITLES)
    groups = sorted({(order.index(row["what"]), row["batch"]) for row in rows})
    title = f"Cost atlas: {settings['device']}"
    about = ", ".join(f"{name} {value}" for name, value in settings.items() if value)
    parts = [_section(order[place], batch, rows, found["fits"]) for place, batch in groups]
    style = files(__package__).joinpath("atlas.css").read_text()
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(about)}.</p>"
        "<p>Time of a call: medians behind a first call. The exponent e is fitted to "
        "time ~ length<sup>e</sup>, by the fastest calls, which other programs disturbed least; so "
        "are crossover and utilisation. Crossover: the length from which it takes less time than "
        "softmax attention (≤ at all lengths measured, ≈ beyond them, by the last two). Memory: of "
        "arguments, results and temporary arrays. Utilisation: operations of what was traced over "
        "what the chip's table, or a large product measured here, could do. Layers of other "
        "packages have their names in front.</p>"
        f"{''.join(parts)}</body></html>\n"
    )


def _section(what: str, batch: int, rows: Sequence[Row], fits: Sequence[Row]) -> str:
    own = [row for row in rows if (row["what"], row["batch"]) == (what, batch)]
    fitted = {f["model"]: f for f in fits if (f["what"], f["batch"]) == (what, batch)}
    curves: dict[str, dict[int, Row]] = {}
    for row in own:
        curves.setdefault(row["model"], {})[row["length"]] = row
    lengths = sorted({row["length"] for row in own})
    rows_of = f"{batch} row{'s' if batch > 1 else ''}"
    return (
        f"<section><h2>{TITLES[what]}, {rows_of}</h2><p>{ABOUT[what]}</p>"
        f"{_chart(curves, lengths)}{_table(curves, lengths, fitted)}</section>"
    )


def _chart(curves: Mapping[str, Mapping[int, Row]], lengths: Sequence[int]) -> str:
    """Milliseconds against length, both by logarithm."""
    times = [r["seconds"] for curve in curves.values() for r in curve.values() if r.get("seconds")]
    if len(lengths) < 2 or not times:
        return ""
    low, high = math.log(min(times)), math.log(max(times) * 1.001)
    first, last = math.log(lengths[0]), math.log(lengths[-1])
    right = WIDTH - LABELS

    def x(length: int) -> float:
        return MARGIN + (math.log(length) - first) / (last - first) * (right - MARGIN)

    def y(seconds: float) -> float:
        return HEIGHT - MARGIN - (math.log(seconds) - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<text x="{x(n):.0f}" y="{HEIGHT - 22}" text-anchor="middle">{n:,}</text>'
        f'<path class="axis" d="M{x(n):.0f},{MARGIN} V{HEIGHT - MARGIN}"/>'
        for n in lengths
    ]
    for power in range(math.ceil(low / math.log(10)), math.floor(high / math.log(10)) + 1):
        at = y(10.0**power)
        parts.append(f'<text x="4" y="{at:.0f}">{10.0 ** (power + 3):g} ms</text>')
        parts.append(f'<path class="axis" d="M{MARGIN},{at:.0f} H{right}"/>')
    ends = []
    for i, (name, curve) in enumerate(curves.items()):
        points = [(x(n), y(r["seconds"])) for n, r in sorted(curve.items()) if r.get("seconds")]
        if not points:
            continue
        line = "M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in points)
        base = name == "attention"
        look = 'class="base"' if base else f'stroke="{COLOURS[i % len(COLOURS)]}"'
        label = html.escape(name)
        parts.append(f'<path {look} d="{line}"><title>{label}</title></path>')
        ends.append((points[-1][1], points[-1][0], label))
    free = 0.0
    for at, where, label in sorted(ends):
        free = max(at, free + 11)  # names stand below one another
        parts.append(f'<text x="{where + 5:.0f}" y="{free + 4:.0f}">{label}</text>')
    height = max(HEIGHT, free + 12)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'


def _table(
    curves: Mapping[str, Mapping[int, Row]], lengths: Sequence[int], fits: Mapping[str, Row]
) -> str:
    heads = ("ms", "tokens/s", "MiB", "compile s", "GFLOP", "used")
    top = "".join(f'<th colspan="{len(heads)}">{n:,} tokens</th>' for n in lengths)
    names = "".join(f"<th>{head}</th>" for _ in lengths for head in heads)
    lines = []
    for name, curve in curves.items():
        fit = fits.get(name, {})
        cells = [html.escape(name), _number(fit.get("exponent")), _crossing(fit)]
        for n in lengths:
            cells += _cells(curve.get(n, {}), len(heads))
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return (
        f"<table><thead><tr><th></th><th></th><th></th>{top}</tr><tr><th>mixer</th><th>e</th>"
        f"<th>crossover</th>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _cells(row: Row, count: int) -> list[str]:
    if "error" in row:
        return [f'<abbr title="{html.escape(row["error"], quote=True)}">failed</abbr>'] + [""] * (
            count - 1
        )
    ms = row["seconds"] * 1e3 if row else None
    gflop = row["flops"] / 1e9 if row.get("flops") else None
    used = f"{row['utilisation']:.1%}" if "utilisation" in row else ""
    numbers = ms, row.get("tokens_per_second"), row.get("mib"), row.get("compile_seconds"), gflop
    return [*map(_number, numbers), used]


def _crossing(fit: Row) -> str:
    if "crossover" not in fit:
        return ""
    return f"{KNOWN[fit['known']]}{fit['crossover']:,.0f}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
