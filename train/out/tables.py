"""The results as CSV, a row a run, and as a LaTeX table, a row a model."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from seqzoo.train.compare import tables
from seqzoo.train.compare.results import Comparison

COSTS = ("parameters", "step_flops", "state_bytes", "step_seconds", "tokens_per_second", "steps")
SPECIAL = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "–": "--", "−": "$-$", "≥": r"$\geq$", "≤": r"$\leq$"},
}


def csv_text(comparisons: Sequence[Comparison]) -> str:
    """A line for each run: task, model, seed, costs, chosen values, what it reached."""
    metrics = dict.fromkeys(k for c in comparisons for row in c.rows() for k in row)
    metrics = [k for k in metrics if k not in ("model", "seed", "parameters")]
    swept = dict.fromkeys(n for c in comparisons for m in c.models for n in m.tuned_values)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "model", "seed", *COSTS, "tested", "failed_at", *swept, *metrics])
    for comparison in comparisons:
        for model in comparison.models:
            costs = [getattr(model, name) for name in COSTS]
            tuned = [model.tuned_values.get(name) for name in swept]
            for run in model.seeds:
                failed = (run.failure or {}).get("step")
                values = [*tuned, *(run.final.get(name) for name in metrics)]
                cells = [comparison.title, model.name, run.seed, *costs, run.tested, failed]
                writer.writerow(["" if cell is None else cell for cell in (*cells, *values)])
    return out.getvalue()


def latex_text(comparisons: Sequence[Comparison]) -> str:
    """A tabular for each task, which needs no package; the best model first."""
    return "\n".join(map(_tabular, comparisons))


def _tabular(comparison: Comparison) -> str:
    columns, rows = tables.rows(comparison)
    models = len(comparison.models)
    lines = [
        f"% {comparison.title}: {tables.caption(comparison)}".replace("\n", " "),
        f"\\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\hline",
        _line(column.title for column in columns),
        _line(column.unit for column in columns),
        r"\hline",
    ]
    for number, row in enumerate(rows):
        lines += [r"\hline"] if number == models else []
        lines.append(_line(cell.text for cell in row))
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _line(cells: object) -> str:
    return " & ".join(latex_escaped(text) for text in cells) + r" \\"


def latex_escaped(text: str) -> str:
    """`text` with no meaning to LaTeX."""
    return "".join(SPECIAL.get(c, c) for c in text)
