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

from seqzoo.tasks.data.identity import in_short
from seqzoo.train.compare import overview, pairs, results, tables
from seqzoo.train.compare.charts import DARK, LIGHT, axes_in, chart_data, ratios_in
from seqzoo.train.compare.controls import controls_html
from seqzoo.train.compare.formats import show
from seqzoo.train.compare.results import Comparison
from seqzoo.train.compare.run_page import comparison_of_run
from seqzoo.train.compare.trials import trials_html
from seqzoo.train.differences import DATA
from seqzoo.train.folder.files import run_path, write_atomically

FILE = "report.html"


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
    won = overview.sentence(comparisons)
    lead = f"{_some(models, 'model')} on {_some(len(comparisons), 'task')}. {when}"
    lead = f"{won[:1].upper()}{won[1:]} {lead}".strip()
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src {_sha(style)}; "
        f"script-src {_sha(script)}",
        "title": escape(title),
        "lead": escape(lead.strip()),
        "contents": _contents(comparisons),
        "overview": overview.picture(comparisons),
        "sections": "\n".join(_section(c, f"s{i}") for i, c in enumerate(comparisons)),
        "footer": "Made by <code>seqzoo report</code>. This page is one file and loads nothing.",
        "style": style,
        "script": script,
        "data": _inert_json(data),
    }
    # One pass, so that a name that looks like a placeholder is not filled in.
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], _resource("page.html"))


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def alone(svg: str) -> str:
    """The drawing of several tasks as a file of its own, in the page's light colours."""
    css = _resource("page.css").replace("{{light}}", _colours(LIGHT))
    values = dict(re.findall(r"--(\w+): (#\w+)", css.partition("@media")[0]))
    own = re.findall(r"^\.overview \..*$", css, re.MULTILINE)
    style = "\n".join(["svg { font: 13px system-ui, sans-serif; fill: var(--ink); }", *own])
    style = re.sub(r"var\(--(\w+)\)", lambda found: values[found[1]], style)
    style = style.replace(".overview ", "")
    width, height = re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups()
    shape = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    ground = f'<rect width="{width}" height="{height}" fill="{values["page"]}"/>'
    head, _, body = svg.removeprefix("<svg ").partition(">")
    return f"<svg {shape}{head}><style>{style}</style>{ground}{body}\n"


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
{controls_html(comparison)}
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
        _lines("Where the models' recipes differ", tables.recipes(comparison)),
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


def _lines(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h3>{title}</h3><ul>{items}</ul>" if lines else ""


def _json(title: str, value: Mapping[str, Any]) -> str:
    if not value:
        return ""
    return f"<h3>{title}</h3><pre><code>{escape(json.dumps(value, indent=1))}</code></pre>"
