"""The report: results files in, one self-contained HTML page out.

The page loads nothing: style, script and numbers are inside, and its content security policy
forbids the rest. Every interval is computed here; the script only draws. Tables are plain HTML and
stay readable without the script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.tasks.data.identity import in_short
from seqzoo.train.compare import pairs, results, tables
from seqzoo.train.compare.curves import axes_in, axis_bands, ratios_in
from seqzoo.train.compare.formats import show
from seqzoo.train.compare.results import Comparison, ModelResult
from seqzoo.train.compare.run_page import comparison_of_run
from seqzoo.train.compare.statistics import band, bounds_of, interval
from seqzoo.train.compare.trials import trials_html, tuning_data
from seqzoo.train.config import DATA
from seqzoo.train.folder.files import run_path, write_atomically

FILE = "report.html"
POINTS = 300  # of a curve: no eye sees more, and a long run's page stays small
ALL_POINTS, FEWEST = 30_000, 40  # of all curves of a page, and of each at least

# Eight hues that stay apart for the usual colour-vision deficiencies (after Okabe and Ito 2008),
# darkened or lightened to a contrast of at least 3 against the card; dashes tell more models apart.
LIGHT = ("#0072b2", "#d55e00", "#007f5c", "#aa4499", "#8a6a00", "#2e8bc0", "#555c66", "#882255")
DARK = ("#56b4e9", "#ff9e5e", "#2fd3a5", "#e79cc8", "#f0c541", "#8fb8ff", "#b4bac4", "#ff7b9c")
DASHES = ("none", "7 4", "2 3", "9 3 2 3")


def write_report(folder: Path) -> Path:
    """Writes `folder`/report.html from its results, those one level below, or a training run.

    Raises:
        ValueError: where there is nothing to report, or a file is damaged.
    """
    folder = run_path(folder)
    path = folder / FILE
    write_atomically(path, render(comparisons_in(folder)))
    return path


def comparisons_in(folder: Path) -> list[Comparison]:
    """The comparisons of a folder: its own, else those of its subfolders, else its training run.

    Raises:
        ValueError: where there is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name the --out folder of a comparison or run")
    if (folder / results.FILE).is_file():
        return [results.load(folder / results.FILE)]
    below = sorted(folder.glob(f"*/{results.FILE}"))
    if below:
        return [results.load(path) for path in below]
    if (folder / "metrics.jsonl").is_file():
        return [comparison_of_run(folder)]
    raise ValueError(
        f"{folder} holds no results: neither {results.FILE}, here or one folder below, nor "
        "metrics.jsonl; `seqzoo compare --out` and `seqzoo train --out` write them"
    )


def render(comparisons: Sequence[Comparison]) -> str:
    """The page as a string."""
    style = _resource("page.css").replace("{{light}}", _colours(LIGHT))
    style = style.replace("{{dark}}", _colours(DARK))
    script = _resource("page.js")
    data = [chart_data(c, f"s{i}") for i, c in enumerate(comparisons)]
    title = "Sequence models on " + ", ".join(c.title for c in comparisons)
    models = len({m.name for c in comparisons for m in c.models})
    created = max((c.created for c in comparisons), default="")
    when = f"{created[:16].replace('T', ' ')} UTC" if created else ""
    lead = f"{_some(models, 'model')} on {_some(len(comparisons), 'task')}. {when}"
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src {_sha(style)}; "
        f"script-src {_sha(script)}",
        "title": escape(title),
        "lead": escape(lead.strip()),
        "contents": _contents(comparisons),
        "sections": "\n".join(_section(c, f"s{i}") for i, c in enumerate(comparisons)),
        "footer": "Made by <code>seqzoo report</code>. This page is one file and loads nothing.",
        "style": style,
        "script": script,
        "data": _inert_json(data),
    }
    # One pass, so that a name that looks like a placeholder is not filled in.
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], _resource("page.html"))


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


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _ordered(names: set[str], first: str) -> list[str]:
    return sorted(names, key=lambda n: (n != first, n))


def _resource(name: str) -> str:
    return resources.files("seqzoo.train.compare").joinpath(name).read_text(encoding="utf-8")


def _colours(colours: Sequence[str]) -> str:
    return " ".join(f"--c{i}: {c};" for i, c in enumerate(colours))


def _sha(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _inert_json(data: Any) -> str:
    """JSON that cannot end its script element, whatever the names in it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# Sections


def _contents(comparisons: Sequence[Comparison]) -> str:
    if len(comparisons) < 2:
        return ""
    links = (f'<a href="#s{i}">{escape(c.title)}</a>' for i, c in enumerate(comparisons))
    return f'<nav aria-label="Tasks">{"".join(links)}</nav>'


def _section(comparison: Comparison, section_id: str) -> str:
    metric = escape(comparison.main_metric)
    return f"""<section id="{section_id}">
<h2>{escape(comparison.title)}</h2>
<p class="lead">{escape(comparison.description)}</p>
{_facts(comparison)}
{_failures(comparison)}
<div class="scroll">{tables.results_html(comparison)}</div>
<p class="note">{escape(tables.caption(comparison))}</p>
<figure><h3>Learning curves</h3>
<div class="bar"></div><div class="bar"><div class="legend"></div></div>
<div class="plot" data-plot="curves"></div>
<figcaption>Mean over seeds; the band is the 95% interval. Click a name to hide or show a model;
point at the plot, or focus it and press the arrow keys, to read values. A long curve's points are
means over as many steps.</figcaption></figure>
<div class="pair">
<figure><h3>Final {metric}</h3><div class="plot" data-plot="finals"></div>
<figcaption>One dot a seed, a tick at the mean, a bar for the 95% interval. Dashed: trivial
baselines.</figcaption></figure>
<figure><h3>Cost and {metric}</h3><div class="bar" data-bar="costs"></div>
<div class="plot" data-plot="costs"></div>
<figcaption>The line joins models that none both costs less and does better than (Pareto). An open
square is a state that grows with the row, at full length. Dashed: trivial baselines.</figcaption>
</figure>
</div>
{_axes(comparison)}
{trials_html(comparison)}
{_differences(comparison)}
{_provenance(comparison)}
</section>"""


def _axes(comparison: Comparison) -> str:
    """A figure for each axis that models were tested along."""
    made = ""
    for ratio in ratios_in(comparison):
        name = escape(ratio["mixer"])
        made += (
            f"<figure><h3>Share of {name} layers</h3>"
            f'<div class="plot" data-plot="ratio {name}"></div><figcaption>Hybrids of two mixers, '
            "each trained anew; mean and 95% interval over seeds.</figcaption></figure>"
        )
    for axis in axes_in(comparison):
        name = escape(axis["name"])
        made += (
            f'<figure><h3>Against {name}</h3><div class="bar" data-bar="axis {name}"></div>'
            f'<div class="plot" data-plot="axis {name}"></div><figcaption>Models as trained, '
            f"tested along {name}; mean and 95% interval over seeds.</figcaption></figure>"
        )
    return made


def _facts(comparison: Comparison) -> str:
    data = comparison.data
    seeds = max((len(m.seeds) for m in comparison.models), default=0)
    facts = {"seeds": str(seeds), "metric": comparison.main_metric}
    for split in ("train", "validation", "test"):
        if isinstance(data.get(split), int):
            facts[f"{split} examples"] = f"{data[split]:,}"
    looks = [
        f"{split} {what}" for split in ("validation", "test") for what in ("length", "classes")
    ]
    facts |= {name: str(data[name]) for name in looks if name in data}
    protocol = comparison.config.get("task", {}).get("protocol")
    facts |= {"protocol": str(protocol)} if protocol else {}
    facts |= {"tested": tables.selected(comparison)} if comparison.selection != "last" else {}
    for name, value in comparison.baselines.items():
        facts[name] = show(value, comparison.main_metric)
    items = (f"<li><span>{escape(k)}</span> <b>{escape(v)}</b></li>" for k, v in facts.items())
    return f'<ul class="facts">{"".join(items)}</ul>'


def _failures(comparison: Comparison) -> str:
    titles = {
        "<b>Failed runs</b>; their models are not ranked:": tables.failures(comparison),
        "<b>Broken laws</b>; what these models reached may mean nothing:": tables.broken_claims(
            comparison
        ),
    }
    made = ""
    for title, lines in titles.items():
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        made += f'<div class="failed" role="alert">{title}<ul>{items}</ul></div>' if lines else ""
    return made


def _differences(comparison: Comparison) -> str:
    table, said = pairs.differences_html(comparison), pairs.told_apart(comparison)
    if not table:
        return ""
    return (
        f"<details><summary>Differences between models: {escape(said)}</summary>"
        f'<div class="scroll">{table}</div><p class="note">First minus second, paired by seed '
        "(models share the seeds' data order), with the 95% interval of Student's t for that pair "
        "alone. Different: p of the paired t test, corrected over all pairs by Holm's method, is "
        "below 0.05, and so is that of every group of three or more neighbours in the table which "
        "holds both models, by exchange of their values; three seeds at least. Differences that "
        "are the same in every seed have no p.</p></details>"
    )


def _provenance(comparison: Comparison) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in comparison.notes)
    own = {m.name: m.config for m in comparison.models if m.config}
    shared = {name: part for name, part in comparison.config.items() if name != DATA}
    held = in_short(comparison.config.get(DATA, {}))
    data = {**comparison.data, **{f"{split} files": words for split, words in held.items()}}
    parts = [
        "<details><summary>How these numbers were made</summary>",
        f"<pre><code>{escape(comparison.command)}</code></pre>" if comparison.command else "",
        notes,
        f"<p>Source of the task: {escape(comparison.cite)}</p>" if comparison.cite else "",
        _list("Versions", comparison.versions),
        _list("Data", data),
        *(_list(f"Laws tried on {m.name}", m.claims) for m in comparison.models),
        _json("Shared configuration", shared),
        _json("Each model's own", own),
        "</details>",
    ]
    return "".join(parts)


def _list(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items())
    return f"<h3>{title}</h3><dl>{rows}</dl>"


def _json(title: str, value: Mapping[str, Any]) -> str:
    if not value:
        return ""
    return f"<h3>{title}</h3><pre><code>{escape(json.dumps(value, indent=1))}</code></pre>"
