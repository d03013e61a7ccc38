"""`seqzoo bench`: speed, memory and compile time.

    seqzoo bench                  forward and backward of mixers, tokens per second
    seqzoo bench --what scaling   time and memory per token over lengths, at as many tokens a batch
    seqzoo bench --what latency   one streaming step, early and late in a stream
    seqzoo bench --what depth     compile time of a deep stack over that of a shallow one
    seqzoo bench --what host      what the host does for a step outside the compiled program
    seqzoo bench --what data      examples a second that tasks make and a small model trains on
    seqzoo bench --atlas          passes, steps and streams at every size: JSON and a page in --out
    seqzoo bench --atlas --device-report DIR  a GPU or TPU beside its plan: kernels, time, memory
    seqzoo bench --what checkpoint  how long a save holds up the loop, and how long it is written

Timings on a shared machine drift, so mixers take turns within a round, one baseline is measured in
every round, and ratios to it are medians over rounds. Each measurement is a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from seqzoo.train import code
from seqzoo.train.bench.atlas import atlas
from seqzoo.train.bench.checkpoint import checkpoint
from seqzoo.train.bench.data import data
from seqzoo.train.bench.mixers import latency, scaling, speed
from seqzoo.train.bench.options import Bench, kinds_of
from seqzoo.train.bench.training import depth, host
from seqzoo.train.cli.flags import parse, read
from seqzoo.train.folder.files import check_ours, run_path
from seqzoo.train.measured.report import PAGE, SIZE, measured

Row = dict[str, Any]
MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "speed": speed,
    "scaling": scaling,
    "latency": latency,
    "depth": depth,
    "host": host,
    "data": data,
    "checkpoint": checkpoint,
    "atlas": atlas,
}


def main(argv: Sequence[str]) -> int:
    """`seqzoo bench`."""
    line = read(argv)
    report = line.text("--device-report") not in (None, "None")  # a path, or the word for no path
    line = line.after(SIZE) if report else line
    for flag in ("--models", "--baseline"):
        mixers = ",".join(kinds_of(line.text(flag) or "").values())
        code.name(*code.foreign(mixers, "").values())
    bench = parse(Bench, line, "seqzoo bench")
    if report:
        return _report(bench)
    lines = bench.out if bench.what != "atlas" else None
    check_ours(lines, "{", "lines of JSON")
    console = Console()
    rows = []
    for row in MEASURES[bench.what](bench):
        rows.append({"what": bench.what, "device": jax.devices()[0].device_kind, **row})
        text = json.dumps(rows[-1])
        if lines is not None:
            lines.parent.mkdir(parents=True, exist_ok=True)
            with lines.open("a") as file:
                file.write(text + "\n")
        print(text, flush=True)
    if bench.what != "atlas":  # its page has the table
        console.print(table(rows))
    return 0


def _report(bench: Bench) -> int:
    """What a device does beside its plan. No device is asked for here: a row's process has it."""
    for row in measured(bench):
        said = row.get("error") or ("wrong" if row.get("ok") is False else "done")
        print(f"{row['name']}: {said}, {row['seconds']:.0f} s", flush=True)
    print(run_path(bench.device_report, checkpoints=False) / PAGE)
    return 0


def table(rows: Sequence[Row]) -> Table:
    """Measurements for the terminal."""
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    names = [n for n in rows[0] if n not in ("what", "device")] if rows else []
    for i, name in enumerate(names):
        layout = {"justify": "right"} if i else {"no_wrap": True}
        out.add_column(name.replace("_", " "), overflow="fold", **layout)
    for row in rows:
        out.add_row(*(_word(row[name]) for name in names))
    return out


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
