"""What a device does, beside what its compiler promises: one command, one page.

    seqzoo bench --atlas --device-report DIR

Kernels are first compared with the plain forms of their ops, then mixers are timed: those that most
people weigh against each other first, with layers of other packages where they are installed. Every
row is made by a process of its own within a time limit, since a kernel may hang or take the device
with it; what fails its check is not used afterwards. Rows are kept in DIR/device.json, and the same
command goes on after the last one. This process touches no device: it would hold its memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.train.bench.atlas import cells
from seqzoo.train.bench.kept import rows_of
from seqzoo.train.bench.options import Bench
from seqzoo.train.folder.files import run_path, write_atomically
from seqzoo.train.measured.checks import checks, failed
from seqzoo.train.measured.page import page
from seqzoo.train.plan.apart import planned_apart

Row = dict[str, Any]
FILE, PAGE, FORMAT = "device.json", "device.md", 1
MODULE = "seqzoo.train.measured.row"
PASSES = ("forward_backward", "train")
# What is asked unless flags say otherwise.
SIZE = {"--d-model": "1024", "--dtype": "bfloat16", "--batch-size": "8", "--lengths": "2048"}
FINDING = 120.0  # seconds for what the device is


def measured(bench: Bench) -> Iterator[Row]:
    """Makes what the folder `bench.device_report` lacks, a row at a time.

    Raises ValueError where there is no device, or the folder holds rows of another one.
    """
    assert bench.device_report is not None
    out = run_path(bench.device_report, checkpoints=False)
    device = planned_apart(MODULE, {"what": "device"}, FINDING, "found")
    if "error" in device:
        raise ValueError(f"no device to measure: {device['error']}")
    settings = {name: device[name] for name in ("device", "platform", "jax")} | bench.sizes
    rows = rows_of(out / FILE, settings)
    about = {**settings, "absent": device["absent"]}
    done = {row["name"] for row in rows}
    for name, request in _requests(bench, device["platform"]):
        if name in done:
            continue
        checked = {row["name"]: row.get("ok", False) for row in rows if row["what"] == "check"}
        request["forms"] = failed(checked)
        row = planned_apart(MODULE, request, bench.limit_seconds, "done")
        rows.append({**request, "name": name, **row})
        _save(out, about, rows)
        yield rows[-1]
    _save(out, about, rows)


def _requests(bench: Bench, platform: str) -> Iterator[tuple[str, Row]]:
    """The name of every row, the most important first, and what its process is asked."""
    for check in checks(platform, tuple(map(bench.kind, bench.names))):
        yield check.name, {"what": "check", "check": dict(check._asdict())}
    asked = {name: getattr(bench, name) for name in ("d_model", "dtype", "options", "rounds")}
    for cell in cells(bench):
        if cell.what in PASSES:
            own = {**asked, "models": bench.asked(cell.model) if cell.model in bench.names else ""}
            name = f"{cell.model} {cell.what} {cell.length} {cell.batch}"
            yield name, {"what": "time", "cell": cell._asdict(), "bench": own}


def _save(out: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    found = {"format": FORMAT, "settings": dict(about), "rows": list(rows)}
    write_atomically(out / FILE, json.dumps(found, indent=1, allow_nan=False) + "\n")
    write_atomically(out / PAGE, page(found))
