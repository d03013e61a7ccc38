"""Every form of every primitive on a chip that need not exist here.

Forward and backward pass are compiled for one chip by a process of its own within a time limit and
kept in a folder; the same request again does what is missing, also for another topology, and the
page shows all that is there. `ops/layout/backends.py` and the ops' default chunks rest on it for
TPUs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.stages import Lowered

from seqzoo.models.ops.layout import backends as forms
from seqzoo.train.devices.chips import GPUS, chip_of
from seqzoo.train.devices.flops import Operations, operations
from seqzoo.train.folder.files import write_atomically
from seqzoo.train.plan.apart import answered, planned_apart
from seqzoo.train.plan.compiled import (
    estimates,
    launches_of,
    memory_of,
    no_memory,
    read_row,
    refused,
)
from seqzoo.train.plan.hlo import Module
from seqzoo.train.plan.primitives import (
    CHANNELS,
    FORMS,
    HEADS,
    STATES,
    WIDTH,
    Form,
    form_of,
)
from seqzoo.train.plan.topology import Plan, devices_of

Row = dict[str, Any]
TITLE = "# Forms of the primitives"
NOTE = (
    "Forward and backward pass of one row in bfloat16, compiled ahead of time for one chip; "
    f"nothing was run. Widths: {CHANNELS} channels with {STATES} states each, or {HEADS} heads "
    f"of {WIDTH}; the LSTM's are {CHANNELS}. {{entry}} / milliseconds at least, by products, "
    "memory {bound}at the chip's peaks / MiB of memory at the peak, arguments and results included "
    "/ GFLOP as `devices/flops.py` counts them. {rank} Convolution by FFT has its kernel given, "
    "in chunks it makes it from the system."
)
WORDS = {
    "TPUs": {
        "entry": "Each entry: milliseconds by the cycles that the compiler expects of its "
        "operations, bodies of loops as often as they run (in brackets its cost analysis, bodies "
        "once)",
        "bound": "",
        "rank": "An estimate may rank forms; it is no measurement.",
    },
    "GPUs": {
        "entry": "Each entry: kernels that are started, loops as often as they run",
        "bound": "or half a microsecond a kernel ",
        "rank": "What such a kernel takes, its compiler does not say.",
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormsOptions:
    """What the table is asked."""

    topology: str = "v5e:1x1"  # of a TPU, a GPU (h100:1), or local
    lengths: tuple[int, ...] = (2048, 8192, 32768)  # tokens of the one row
    limit_seconds: float = 180.0  # for a row
    total_seconds: float = 0.0  # after which no further row is begun; 0: no limit


def make_rows(wanted: Sequence[Form], options: FormsOptions, folder: Path) -> Iterator[Row]:
    """Compiles what `folder` lacks while there is time, one row after another."""
    started = time.monotonic()
    for form, length in _missing(wanted, options, folder):
        if 0 < options.total_seconds < time.monotonic() - started:
            return
        request = {"form": f"{form.op}/{form.name}", "length": length}
        request |= {"topology": options.topology}
        row = planned_apart("seqzoo.train.plan.forms", request, options.limit_seconds)
        row |= {"op": form.op, "form": form.name, "length": length}
        row |= {"topology": options.topology}
        write_atomically(_path(folder, form, length, options), json.dumps(row) + "\n")
        yield row


def missing(wanted: Sequence[Form], options: FormsOptions, folder: Path) -> int:
    """How many rows `folder` lacks."""
    return len(list(_missing(wanted, options, folder)))


def _missing(
    wanted: Sequence[Form], options: FormsOptions, folder: Path
) -> Iterator[tuple[Form, int]]:
    for length, form in itertools.product(options.lengths, wanted):
        there = not form.only or _kind(options.topology) in form.only
        if there and not _path(folder, form, length, options).exists():
            yield form, length


def _kind(topology: str) -> str:
    return "GPUs" if topology.partition(":")[0] in GPUS else "TPUs"


def _path(folder: Path, form: Form, length: int, options: FormsOptions) -> Path:
    kind = options.topology.replace(":", " ")
    return folder / f"{kind} {form.op} {form.name} {length}.json"


def lowered_form(form: Form, length: int, device: jax.Device) -> tuple[Lowered, Operations]:
    """One row's forward and backward pass for a device, and what it asks for."""
    here = jax.sharding.SingleDeviceSharding(device)
    shapes = form.arguments(length)
    forced = forms.forced(form.table, form.entry) if form.table else contextlib.nullcontext()
    with forced:
        operands = shapes, jax.tree.leaves(jax.eval_shape(form.call, *shapes))
        counted = operations(_both_passes(form.call), *operands)
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), operands
        )
        return jax.jit(_both_passes(form.call)).lower(*placed), counted


def measure(form: Form, length: int, topology: str) -> Row:
    """What the compiler says of one row's forward and backward pass."""
    device = devices_of(Plan(topology=topology))[0]
    lowered, counted = lowered_form(form, length, device)
    row: Row = {"flops": counted.total, "products": counted.products}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not no_memory(error):
            raise
        return row | refused(str(error))
    chip, module = chip_of(device), Module(compiled.as_text())
    row |= memory_of(compiled, chip) | estimates(module, compiled, chip)
    if chip is None:
        return row
    times = [counted.products / chip.flops, row["traffic_bytes"] / chip.bandwidth]
    if chip.launch:
        row |= launches_of(module)
        times.append(row["launches"] * chip.launch)
    return row | {"bound_seconds": max(times)}


def page(rows: Sequence[Row], options: FormsOptions, path: Path | None = None) -> str:
    """The tables as Markdown, one for each primitive and topology."""
    topologies = sorted({options.topology, *(row["topology"] for row in rows)})
    lines = [
        f"{TITLE} on {' and '.join(sorted({*map(_kind, topologies)}))}",
        "",
        *(
            f"    seqzoo plan --forms --topology {topology} --out DIR --page {path or 'PAGE'}"
            for topology in topologies
        ),
    ]
    for kind in sorted({*map(_kind, topologies)}):
        lines += ["", *textwrap.wrap(NOTE.format(**WORDS[kind]), 100)]
    lengths = sorted({row["length"] for row in rows})
    for topology, op in sorted({(row["topology"], row["op"]) for row in rows}, key=_order):
        own = [row for row in rows if (row["topology"], row["op"]) == (topology, op)]
        cells = {(row["form"], row["length"]): _cell(row) for row in own}
        lines += ["", f"## {op}, {topology}", ""]
        lines += [f"| form | {' | '.join(f'L = {n:,}' for n in lengths)} |"]
        lines += ["|---" * (len(lengths) + 1) + "|"]
        for name in dict.fromkeys(f.name for f in FORMS if f.op == op):
            found = [cells.get((name, n), "") for n in lengths]
            if any(found):
                lines.append(f"| {name} | {' | '.join(found)} |")
    return "\n".join(lines) + "\n"


def rows_of(folder: Path) -> list[Row]:
    """The rows that are there. Raises ValueError for a file that is none."""
    named = ("op", "form", "topology", "length")
    rows = [read_row(path, named, ("fits", "flops")) for path in sorted(folder.glob("*.json"))]
    for row in rows:
        form_of(f"{row['op']}/{row['form']}")
    return rows


def _order(group: tuple[str, str]) -> tuple[str, int]:
    return group[0], [form.op for form in FORMS].index(group[1])


def _cell(row: Row) -> str:
    if "error" in row:
        return row["error"].replace("|", "/")
    if row["fits"] is False:
        return "does not fit"
    cycles, cost, bound = (
        "?" if row.get(name) is None else f"{1e3 * row[name]:.3g}"
        for name in ("cycles_seconds", "compiler_seconds", "bound_seconds")
    )
    peak = "?" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 2**20:,.0f}"
    first = f"{row['launches']:,.0f}" if "launches" in row else f"{cycles} ({cost})"
    return f"{first} / {bound} / {peak} / {row['flops'] / 1e9:.3g}"


def _both_passes(call: Callable[..., Any]) -> Callable[..., Any]:
    def run(arguments: list[jax.Array], cotangents: list[jax.Array]) -> tuple:
        out, pull = jax.vjp(lambda *a: jax.tree.leaves(call(*a)), *arguments)
        return out, pull(cotangents)

    return run


def answer(request: Row) -> Row:
    """`measure` for a request in plain data."""
    return measure(form_of(request["form"]), request["length"], request["topology"])


if __name__ == "__main__":
    answered(answer)
