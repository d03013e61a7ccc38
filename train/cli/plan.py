"""`seqzoo plan`: whether a configuration fits, and how fast it can be, before one rents anything.

    seqzoo plan --task listops --model mamba --topology v5e:16x16
    seqzoo plan --task listops --model mamba --backbone.depth 24 --mesh.data 4 --mesh.fsdp -1 ...
    seqzoo plan --task listops --model mamba --topology v5p:4x4x4 --search
    seqzoo plan --task listops --model mamba --topology h100:8 --mesh.data 1 --mesh.fsdp -1
    seqzoo plan --task listops --all --topology v5e:16x16 --out DIR      a row for every mixer
    seqzoo plan --forms --topology v5e:1x1 --out DIR                     for every op's forms

Compiles the train step that `seqzoo train` would run, for a TPU topology that need not exist here
(libtpu compiles without a TPU), for GPUs that need not (`pip install 'seqzoo[plan-gpu]'`; h100:8,
or hosts by GPUs, h100:2x8), or for the devices of this machine. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqzoo.models.errors import unknown
from seqzoo.models.registry import MIXERS
from seqzoo.train.cli.experiment import DEPENDS, chosen, experiment_fields, experiment_of
from seqzoo.train.cli.flags import CommandLine, bare_field, parse, read
from seqzoo.train.config import Experiment
from seqzoo.train.devices.chips import GIB
from seqzoo.train.folder.files import check_ours, write_atomically
from seqzoo.train.plan import forms, plan, primitives, search, table
from seqzoo.train.plan.topology import Plan, devices_of

# The size of the table unless other flags say otherwise; batch and mesh follow from the topology.
SIZE = {
    "--task": "listops",
    "--topology": "v5e:16x16",
    "--backbone.depth": "24",
    "--backbone.d-model": "2048",
    "--backbone.dtype": "bfloat16",
    "--backbone.remat": "full",
    "--length": "32768",
    "--batch-size": "256",
    "--mesh.data": "1",
    "--mesh.fsdp": "-1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneOptions:
    """What to plan; with --all or --forms other options follow, see their --help."""

    task: str = ""  # see seqzoo list
    model: str = ""  # see seqzoo list
    search: bool = False  # try meshes and rematerialisation policies, best first
    all: bool = False  # a row for every mixer, in place of one model
    forms: bool = False  # a row for every form of every op, in place of a model


PLANS = "pages of this command"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableOptions:
    """A row for every mixer; all other flags hold for every row."""

    all: bool = False  # this table
    task: str = ""  # see seqzoo list
    out: Path  # folder of the rows; what is there is not made again
    models: str = ""  # mixers separated by commas; all by default
    limit_seconds: float = 900.0  # for a row
    page: Path | None = None  # Markdown file to write


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormsTable:
    """A row for every form of every op."""

    forms: bool = False  # this table
    out: Path | None = None  # folder of the rows; what is there is not made again
    page: Path | None = None  # Markdown file to write
    ops: str = ""  # separated by commas; all by default
    row: str = ""  # one alone, OP/FORM; its last line is JSON


def main(argv: Sequence[str]) -> int:
    """`seqzoo plan`."""
    line = read(argv)
    if line.has("--all"):
        return _table(line)
    if line.has("--forms"):
        return _forms(line)
    task, model = chosen(line)
    own, request, experiment = _request(line, task, model, OneOptions)
    devices = devices_of(request)
    candidates = [experiment]
    if own.search:
        candidates = list(search.candidates(experiment, request, len(devices)))
    if not candidates:
        raise ValueError(
            f"no mesh of {len(devices)} devices divides {experiment.train.batch_size} rows; give "
            "another --batch-size or --length"
        )
    rows = []
    for candidate in candidates:
        rows.append(plan.plan_of(candidate, request, devices))
        print("\n".join(plan.describe(rows[-1])), flush=True)
    rows.sort(key=lambda row: (row["fits"] is False, row.get("bound_seconds") or math.inf))
    if own.search:
        print(*(_summary(row) for row in rows), sep="\n")
    print(json.dumps({**rows[0], "search": rows[1:]} if own.search else rows[0]))
    return 0


def _request(line: CommandLine, task: str, model: str, own: type) -> tuple[Any, Plan, Experiment]:
    """The verb's own options, what to compile for, and what to compile."""
    fields = [
        bare_field("own", own),
        *experiment_fields(task, model),
        bare_field("plan", Plan()),
    ]
    kind = dataclasses.make_dataclass("Plan", fields, kw_only=True)
    parsed = parse(kind, line, "seqzoo plan", f"Plans {model} on {task}. {DEPENDS}")
    return parsed.own, parsed.plan, experiment_of(parsed, model)


def _table(line: CommandLine) -> int:
    """`seqzoo plan --all`: makes the rows that are missing, and writes the page."""
    if line.has("--model"):
        raise ValueError("--all plans every mixer; choose some with --models A,B")
    sized = line.after(SIZE)
    task, named = sized.text("--task"), line.text("--models")
    models = [name.strip() for name in named.split(",")] if named else list(MIXERS)
    for model in models:
        if model not in MIXERS:
            raise unknown("mixer", model, MIXERS)
    requests = {model: _request(sized, task, model, TableOptions) for model in models}
    own, request, _ = requests[models[0]]
    check_ours(own.page, table.TITLE, PLANS)
    flags = {given.name: " ".join(given.words) for given in sized.given}
    flags = {name: text for name, text in flags.items() if name not in _OF_THE_TABLE}
    table.claim(own.out, flags)
    experiments = {model: experiment for model, (_, _, experiment) in requests.items()}
    for row in table.make_rows(experiments, request, own.out, own.limit_seconds):
        print(f"{row['model']:24} {table.verdict(row)}, {row['seconds']:.0f} s", flush=True)
    rows = table.rows_of(own.out)
    _show(table.page(rows, flags, own.page), own.page)
    print(json.dumps({"rows": len(rows), "fit": sum(row.get("fits") is True for row in rows)}))
    return 0


_OF_THE_TABLE = ("--all", "--out", "--models", "--limit-seconds", "--page")


def _forms(line: CommandLine) -> int:
    """`seqzoo plan --forms`: makes the rows that are missing, and writes the page."""
    fields = [bare_field("own", FormsTable()), bare_field("options", forms.FormsOptions())]
    kind = dataclasses.make_dataclass("Forms", fields, kw_only=True)
    parsed = parse(kind, line, "seqzoo plan --forms")
    own, options = parsed.own, parsed.options
    if own.row:
        form = primitives.form_of(own.row)
        print(json.dumps(forms.measure(form, options.lengths[0], options.topology)))
        return 0
    wanted = primitives.forms_of(own.ops)
    if own.out is None:
        raise ValueError("--forms needs --out DIR, where rows are kept")
    check_ours(own.page, forms.TITLE, PLANS)
    for row in forms.make_rows(wanted, options, own.out):
        name = f"{row['topology']} {row['op']} {row['form']} {row['length']}"
        print(f"{name}: {row.get('error', 'done')}, {row['seconds']:.0f} s", flush=True)
    rows = forms.rows_of(own.out)
    _show(forms.page(rows, options, own.page), own.page)
    print(json.dumps({"rows": len(rows), "missing": forms.missing(wanted, options, own.out)}))
    return 0


def _show(text: str, page: Path | None) -> None:
    """Prints a page, and writes it where it is wanted."""
    if page is not None:
        write_atomically(page, text)
    print(text)


def _summary(row: dict[str, Any]) -> str:
    mesh = ",".join(f"{name}={n}" for name, n in row["mesh"].items()) or "1"
    peak = f"{row['peak_bytes'] / GIB:.2f} GiB" if row.get("peak_bytes") else "?"
    bound = f"{1e3 * row['bound_seconds']:.3g} ms" if row.get("bound_seconds") else "-"
    fits = {True: "fits", False: "does not fit", None: "?"}[row["fits"]]
    return f"{mesh:32} remat {row['remat']:5} {peak:>12} {bound:>10}  {fits}"
