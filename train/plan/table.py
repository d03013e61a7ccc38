"""Plans of every mixer at one size; can be stopped and continued.

Each row is compiled by a process of its own within a time limit and kept in a folder; the same
request again does what is missing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.models.registry import MIXERS
from seqzoo.train.checked import read_json
from seqzoo.train.config import Experiment
from seqzoo.train.devices.chips import GIB
from seqzoo.train.folder.files import write_atomically
from seqzoo.train.plan.apart import planned_apart
from seqzoo.train.plan.compiled import read_row
from seqzoo.train.plan.topology import Plan

Row = dict[str, Any]
TITLE = "# Plans of every mixer"
REQUEST = "request.json"
COLUMNS = (
    *("mixer", "", "peak", "temporary", "FLOPs/token", "bound, ms", "by", "sent, MiB"),
    *("estimate, ms", "cycles, ms", "compiled in"),
)
GPU_COLUMNS = ("launches", "without Triton")  # a GPU's compiler has no estimates of time
LAUNCHES = (
    "Launches: kernels that a step starts on a device, loops as often as they run, with XLA's",
    "Triton products and with a library's; half a microsecond each is a bound too. Not known",
    "without a GPU: what is chosen by measuring there (tiles, cuDNN, cuBLAS or Triton), NCCL's",
    "buffers, the CUDA context and fragmentation.",
)


def make_rows(
    experiments: Mapping[str, Experiment], plan: Plan, folder: Path, limit: float
) -> Iterator[Row]:
    """Makes the rows that `folder` lacks, one at a time; a failure is a row too."""
    for name, experiment in experiments.items():
        path = folder / f"{name}.json"
        if not path.exists():
            row = make_row(name, experiment, plan, limit)
            write_atomically(path, json.dumps(row) + "\n")
            yield row


def make_row(name: str, experiment: Experiment, plan: Plan, limit: float) -> Row:
    """One plan, or why there is none: too slow, or refused."""
    request = {"experiment": experiment.to_dict(), "plan": dataclasses.asdict(plan)}
    return {"model": name, **planned_apart("seqzoo.train.plan.plan", request, limit)}


def rows_of(folder: Path) -> list[Row]:
    """The rows that are there, in the registry's order."""
    files = {path.stem: path for path in folder.glob("*.json") if path.name != REQUEST}
    named, found = ("model", "seconds"), ("fits", "flops_per_token")
    return [read_row(files[name], named, found) for name in MIXERS if name in files]


def page(rows: Sequence[Row], flags: Mapping[str, str], path: Path | None = None) -> str:
    """The table as Markdown, with the command that makes it at that path."""
    own = {"--out": "DIR", "--page": str(path or "docs/plans.md")}
    words = (f"{name} {text}".strip() for name, text in (dict(flags) | own).items())
    command = " ".join(["seqzoo plan --all", *words])
    gpu = any("launches" in row for row in rows)
    columns = [*COLUMNS[:8], *(GPU_COLUMNS if gpu else COLUMNS[8:10]), COLUMNS[10]]
    lines = [
        TITLE,
        "",
        f"    {command}",
        "",
        "Compiled ahead of time, nothing was run. Memory is GiB a device; the bound is the largest",
        "of products, memory and links at the chip's peaks; the estimates are the compiler's own:",
        "its cost analysis (bodies of loops once), and the cycles of its operations (bodies as",
        "often as they run).",
        *(LAUNCHES if gpu else ()),
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(_line(row, columns) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, columns: Sequence[str]) -> str:
    name, seconds = f"`{row['model']}`", f"{row['seconds']:.0f} s"
    if "error" in row:
        empty = "| " * (len(columns) - 3)
        return f"| {name} | {row['error'].replace('|', '/')} {empty}| {seconds} |"
    bounds = row.get("bounds") or {}
    sent = sum(sent for _, sent in row.get("collectives", {}).values()) / 2**20
    without = row.get("without_triton") or {}
    cells = {
        "mixer": name,
        "": verdict(row),
        "peak": _number(row.get("peak_bytes"), 1 / GIB),
        "temporary": _number(row.get("temporary_bytes"), 1 / GIB),
        "FLOPs/token": f"{row['flops_per_token']:.3g}",
        "bound, ms": _number(row.get("bound_seconds"), 1e3),
        "by": max(bounds, key=bounds.get) if bounds else "",
        "sent, MiB": f"{sent:.0f}" if bounds else "",
        "estimate, ms": _number(row.get("compiler_seconds"), 1e3),
        "cycles, ms": _number(row.get("cycles_seconds"), 1e3),
        "launches": _count(row.get("launches")),
        "without Triton": _count(without.get("launches")),
        "compiled in": seconds,
    }
    return f"| {' | '.join(cells[column] for column in columns)} |"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _number(value: float | None, scale: float) -> str:
    return "" if value is None else f"{value * scale:.3g}"


def verdict(row: Row) -> str:
    """Whether a row's configuration fits, or why that is not known."""
    if "error" in row:
        return row["error"]
    return {True: "fits", False: "does not fit", None: "memory not known"}[row["fits"]]


def claim(folder: Path, flags: Mapping[str, str]) -> None:
    """Keeps the rows of a folder to one request. Raises ValueError where it has another's."""
    request = folder / REQUEST
    if request.exists() and read_json(request) != dict(flags):
        raise ValueError(f"{folder} holds rows of another request ({request}); give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(request, json.dumps(dict(flags), indent=2) + "\n")
