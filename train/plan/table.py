"""`seqzoo plan --all`: plans of every mixer at one size; can be stopped and continued.

    seqzoo plan --all --task listops --topology v5e:16x16 --out DIR --page docs/plans.md

Each row is compiled by a process of its own within a time limit and kept in DIR; the same command
again does what is missing. All other flags are those of `seqzoo plan` and hold for every row.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqzoo.models.registry import MIXERS
from seqzoo.train.cli.errors import UsageError, unknown
from seqzoo.train.devices.chips import GIB
from seqzoo.train.folder.files import write_atomically

Row = dict[str, Any]
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
REQUEST = "request.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What the table itself is asked."""

    out: Path  # folder of the rows
    models: tuple[str, ...] = tuple(MIXERS)
    limit_seconds: float = 900.0  # for a row
    page: Path | None = None  # Markdown file to write


def main(argv: Sequence[str]) -> int:
    """Makes the rows that are missing, and writes the page."""
    options, flags = _parse(argv)
    _claim(options.out, flags)
    for name in options.models:
        path = options.out / f"{name}.json"
        if not path.exists():
            row = make_row(name, flags, options.limit_seconds)
            write_atomically(path, json.dumps(row) + "\n")
            print(f"{name:24} {_verdict(row)}, {row['seconds']:.0f} s", flush=True)
    rows = rows_of(options.out)
    text = page(rows, flags, options.page)
    if options.page is not None:
        write_atomically(options.page, text)
    print(text)
    print(json.dumps({"rows": len(rows), "fit": sum(row.get("fits") is True for row in rows)}))
    return 0


def make_row(model: str, flags: dict[str, str], limit: float) -> Row:
    """One plan, or why there is none: too slow, or refused."""
    words = [word for pair in flags.items() for word in pair]
    return {"model": model, **planned_apart(["--model", model, *words], limit)}


def planned_apart(argv: Sequence[str], limit: float) -> Row:
    """The last line of `seqzoo plan` in a process of its own, its `seconds`, or its `error`."""
    command = [sys.executable, "-m", "seqzoo.train.cli", "plan", *argv]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not compiled within {limit:.0f} s", "seconds": limit}
    seconds = time.perf_counter() - started
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = ", this machine's memory was perhaps too small to compile it" * (name == "SIGKILL")
        return {"error": f"its process was ended by {name}{hint}", "seconds": seconds}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": last[:300], "seconds": seconds}
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "seconds": seconds}


def rows_of(folder: Path) -> list[Row]:
    """The rows that are there, in the registry's order."""
    files = {path.stem: path for path in folder.glob("*.json") if path.name != REQUEST}
    return [json.loads(files[name].read_text()) for name in MIXERS if name in files]


def page(rows: Sequence[Row], flags: dict[str, str], path: Path | None = None) -> str:
    """The table as Markdown, with the command that makes it at that path."""
    own = {"--out": "DIR", "--page": str(path or "docs/plans.md")}
    command = " ".join(["seqzoo plan --all", *(f"{k} {v}" for k, v in (flags | own).items())])
    lines = [
        "# Plans of every mixer",
        "",
        f"    {command}",
        "",
        "Compiled ahead of time, nothing was run. Memory is GiB a device; the bound is the largest",
        "of products, memory and links at the chip's peaks; the estimates are the compiler's own:",
        "its cost analysis (bodies of loops once), and the cycles of its operations (bodies as",
        "often as they run).",
        "",
        "| mixer | | peak | temporary | FLOPs/token | bound, ms | by | sent, MiB | estimate, ms "
        "| cycles, ms | compiled in |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    name, seconds = f"`{row['model']}`", f"{row['seconds']:.0f} s"
    if "error" in row:
        return f"| {name} | {row['error'].replace('|', '/')} " + "| " * 8 + f"| {seconds} |"
    bounds = row.get("bounds") or {}
    sent = sum(sent for _, sent in row.get("collectives", {}).values()) / 2**20
    cells = [
        name,
        _verdict(row),
        _number(row.get("peak_bytes"), 1 / GIB),
        _number(row.get("temporary_bytes"), 1 / GIB),
        f"{row['flops_per_token']:.3g}",
        _number(row.get("bound_seconds"), 1e3),
        max(bounds, key=bounds.get) if bounds else "",
        f"{sent:.0f}" if bounds else "",
        _number(row.get("compiler_seconds"), 1e3),
        _number(row.get("cycles_seconds"), 1e3),
        seconds,
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, scale: float) -> str:
    return "" if value is None else f"{value * scale:.3g}"


def _verdict(row: Row) -> str:
    if "error" in row:
        return row["error"]
    return {True: "fits", False: "does not fit", None: "memory not known"}[row["fits"]]


def _parse(argv: Sequence[str]) -> tuple[TableOptions, dict[str, str]]:
    """The table's own options, and the flags of every row."""
    flags, own = dict(SIZE), {}
    words = [word for arg in argv if arg != "--all" for word in arg.split("=", 1)]
    for name, value in zip(words[::2], words[1::2], strict=False):
        if name in ("--out", "--models", "--limit-seconds", "--page"):
            own[name] = value
        elif name.startswith("--") and name != "--model":
            flags[name] = value
        else:
            raise UsageError(f"--all takes flags with one value each; got {name!r}")
    if len(words) % 2 or "--out" not in own:
        raise UsageError("--all needs --out DIR, and every flag a value")
    models = tuple(own["--models"].split(",")) if "--models" in own else tuple(MIXERS)
    for model in models:
        if model not in MIXERS:
            raise unknown("mixer", model, MIXERS)
    out, shown = Path(own["--out"]), own.get("--page")
    limit = float(own.get("--limit-seconds", TableOptions.limit_seconds))
    page = Path(shown) if shown else None
    return TableOptions(out=out, models=models, limit_seconds=limit, page=page), flags


def _claim(folder: Path, flags: dict[str, str]) -> None:
    """Keeps the rows of a folder to one size."""
    request = folder / REQUEST
    if request.exists() and json.loads(request.read_text()) != flags:
        raise UsageError(f"{folder} holds rows of another request ({request}); give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(request, json.dumps(flags, indent=2) + "\n")
