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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqzoo.models import ops
from seqzoo.models.errors import unknown
from seqzoo.models.ops.layout import backends as forms
from seqzoo.train.devices.chips import chip_of
from seqzoo.train.devices.flops import operations
from seqzoo.train.folder.files import write_atomically
from seqzoo.train.plan.apart import answered, planned_apart
from seqzoo.train.plan.compiled import estimates, memory_of, no_memory, read_row, refused
from seqzoo.train.plan.hlo import Module
from seqzoo.train.plan.topology import Plan, devices_of

Row = dict[str, Any]
HEADS, WIDTH, CHANNELS, STATES = 8, 128, 1024, 16

NOTE = (
    "Forward and backward pass of one row in bfloat16, compiled ahead of time for one chip; "
    f"nothing was run. Widths: {CHANNELS} channels with {STATES} states each, or {HEADS} heads "
    f"of {WIDTH}. Each entry: milliseconds by the cycles that the compiler expects of its "
    "operations, bodies of loops as often as they run (in brackets its cost analysis, bodies once) "
    "/ MiB of memory at the peak, arguments and results included / GFLOP as `devices/flops.py` "
    "counts them. An estimate may rank forms; it is no measurement. Convolution by FFT has its "
    "kernel given, in chunks it makes it from the system."
)


class Form(NamedTuple):
    """One way to compute a primitive."""

    op: str
    name: str
    call: Callable[..., Any]
    arguments: Callable[[int], list[jax.ShapeDtypeStruct]]  # of a length
    table: str = ""  # the op of models/ops/layout/backends.py whose form it is, with
    entry: str = ""  # its name there


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormsOptions:
    """What the table is asked."""

    topology: str = "v5e:1x1"
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
        if not _path(folder, form, length, options).exists():
            yield form, length


def _path(folder: Path, form: Form, length: int, options: FormsOptions) -> Path:
    kind = options.topology.replace(":", " ")
    return folder / f"{kind} {form.op} {form.name} {length}.json"


def measure(form: Form, length: int, topology: str) -> Row:
    """What the compiler says of one row's forward and backward pass."""
    device = devices_of(Plan(topology=topology))[0]
    here = jax.sharding.SingleDeviceSharding(device)
    shapes = form.arguments(length)
    forced = forms.forced(form.table, form.entry) if form.table else contextlib.nullcontext()
    with forced:
        out = jax.eval_shape(form.call, *shapes)
        operands = (shapes, jax.tree.leaves(out))
        counted = operations(_both_passes(form.call), *operands)
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), operands
        )
        row: Row = {"flops": counted.total, "products": counted.products}
        try:
            compiled = jax.jit(_both_passes(form.call)).lower(*placed).compile()
        except jax.errors.JaxRuntimeError as error:
            if not no_memory(error):
                raise
            return row | refused(str(error))
    chip, module = chip_of(device), Module(compiled.as_text())
    return {**row, **memory_of(compiled, chip), **estimates(module, compiled, chip)}


def page(rows: Sequence[Row], options: FormsOptions) -> str:
    """The tables as Markdown, one for each primitive and topology."""
    lines = [
        "# Forms of the primitives on TPUs",
        "",
        *(
            f"    seqzoo plan --forms --topology {topology} --out DIR --page docs/forms.md"
            for topology in sorted({options.topology, *(row["topology"] for row in rows)})
        ),
        "",
        *textwrap.wrap(NOTE, 100),
    ]
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


def forms_of(names: str) -> list[Form]:
    """The forms of ops whose names a comma separates; all for "". Raises ValueError."""
    ops_ = [name.strip() for name in names.split(",") if name.strip()]
    for name in ops_:
        if name not in {form.op for form in FORMS}:
            raise unknown("op", name, dict.fromkeys(form.op for form in FORMS))
    return [form for form in FORMS if not ops_ or form.op in ops_]


def form_of(row: str) -> Form:
    """The form OP/FORM. Raises ValueError where there is none."""
    rows = {f"{form.op}/{form.name}": form for form in FORMS}
    if row not in rows:
        raise unknown("row", row, rows)
    return rows[row]


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
    cycles, cost = (
        "?" if row.get(name) is None else f"{1e3 * row[name]:.3g}"
        for name in ("cycles_seconds", "compiler_seconds")
    )
    peak = "?" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 2**20:,.0f}"
    return f"{cycles} ({cost}) / {peak} / {row['flops'] / 1e9:.3g}"


def _both_passes(call: Callable[..., Any]) -> Callable[..., Any]:
    def run(arguments: list[jax.Array], cotangents: list[jax.Array]) -> tuple:
        out, pull = jax.vjp(lambda *a: jax.tree.leaves(call(*a)), *arguments)
        return out, pull(cotangents)

    return run


def _array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _heads(length: int, *more: int) -> list[jax.ShapeDtypeStruct]:
    """Queries, keys and values, and further arrays of these last sizes."""
    return [_array(1, length, HEADS, n) for n in (WIDTH, WIDTH, WIDTH, *more)]


def _scan_arguments(length: int) -> list[jax.ShapeDtypeStruct]:
    return [_array(1, length, CHANNELS, dtype=jnp.float32)] * 2


def _selective_arguments(length: int) -> list[jax.ShapeDtypeStruct]:
    channels, states = _array(1, length, CHANNELS), _array(1, length, STATES)
    return [channels, channels, _array(CHANNELS, STATES, dtype=jnp.float32), states, states]


def _system_arguments(length: int) -> list[jax.ShapeDtypeStruct]:
    return [_array(1, length, CHANNELS), *[_array(CHANNELS, STATES, dtype=jnp.float32)] * 3]


def _kernel_arguments(length: int) -> list[jax.ShapeDtypeStruct]:
    return [_array(1, length, CHANNELS), _array(length, CHANNELS, dtype=jnp.float32)]


def _delta_arguments(length: int) -> list[jax.ShapeDtypeStruct]:
    return [*_heads(length), _array(1, length, HEADS), _array(1, length, HEADS, 1)]


def _column_more(length: int) -> list[jax.ShapeDtypeStruct]:
    q, k, v = _heads(length)
    return [q, k, _array(*v.shape[:-1], v.shape[-1] + 1)]


def _diagonal(size: int) -> Callable[..., Any]:
    def call(u: jax.Array, log_a: jax.Array, angle: jax.Array, c: jax.Array) -> Any:
        a = jnp.exp(jax.lax.complex(log_a, angle))
        one = jnp.ones_like(a)
        return ops.diagonal_ssm(u, a, one, c.astype(a.dtype), chunk_size=size)

    return call


def _dense_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla")


def _in_chunks(
    op: str, call: Callable[..., Any], arguments: Callable, sizes: Sequence[int]
) -> Iterator[Form]:
    for size in sizes:

        def run(*args: jax.Array, size: int = size) -> Any:
            return call(*args, chunk_size=size)

        yield Form(op, f"chunks of {size}", run, arguments)


def _all_forms() -> Iterator[Form]:
    for form in ("sequential", "associative"):
        scan = "linear_scan"
        yield Form(scan, form, ops.linear_scan, _scan_arguments, scan, form)
    for form, sizes in (("sequential", (16, 64)), ("associative", (16, 64))):
        for made in _in_chunks("selective_scan", ops.selective_scan, _selective_arguments, sizes):
            yield made._replace(name=f"{form}, {made.name}", table="selective_scan", entry=form)
    gla = ops.gated_linear_attention
    for op, width, sizes in (
        ("gated_linear_attention, a decay a head", 1, (32, 64, 128, 256)),
        ("gated_linear_attention, a decay a channel", WIDTH, (32, 64, 128, 256)),
    ):
        yield from _in_chunks(op, gla, lambda n, width=width: _heads(n, width), sizes)
    for form in ("together", "apart"):  # of the values and a last column of ones
        yield Form(f"{gla.__name__}, a normaliser", form, gla, _column_more, "normaliser", form)
    yield from _in_chunks(
        "gated_delta_rule", ops.gated_delta_rule, _delta_arguments, (16, 32, 64, 128)
    )
    for form in ("walk", "together"):
        name = f"chunks, {form}"
        yield Form("gated_delta_rule", name, ops.gated_delta_rule, _delta_arguments, "chunks", form)
    yield from _in_chunks(
        "dplr_delta_rule", ops.dplr_delta_rule, lambda n: _heads(n, *[WIDTH] * 3), (16, 32, 64)
    )
    convolution = "convolution"
    yield Form(convolution, "FFT", ops.fft_conv, _kernel_arguments)
    for size in (64, 128, 256):
        yield Form(convolution, f"chunks of {size}", _diagonal(size), _system_arguments)

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return ops.attention(q, k, v, causal=True)

    for form in ("small blocks", "large blocks", "splash"):
        yield Form("attention", form, attention, _heads, "attention", form)
    yield Form("attention", "dense", _dense_attention, _heads)


FORMS = tuple(_all_forms())


def answer(request: Row) -> Row:
    """`measure` for a request in plain data."""
    return measure(form_of(request["form"]), request["length"], request["topology"])


if __name__ == "__main__":
    answered(answer)
