"""`seqzoo plan --forms`: every form of every primitive on a chip that need not exist here.

    seqzoo plan --forms --topology v5e:1x1 --out DIR --page docs/forms.md

Forward and backward pass are compiled for one chip by a process of its own within a time limit and
kept in DIR; the same command again does what is missing, also for another topology, and the page
shows all that is in DIR. `ops/layout/backends.py` and the ops' default chunks rest on it for TPUs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqzoo.models import ops
from seqzoo.models.ops.layout import backends as forms
from seqzoo.train.cli.errors import UsageError, unknown
from seqzoo.train.devices.chips import chip_of
from seqzoo.train.devices.flops import operations
from seqzoo.train.folder.files import write_atomically
from seqzoo.train.plan.hlo import Module
from seqzoo.train.plan.plan import Plan, _memory, _refused, devices_of
from seqzoo.train.plan.table import planned_apart

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
    out: Path | None = None  # folder of the rows
    page: Path | None = None  # Markdown file to write
    ops: str = ""  # separated by commas; all by default
    lengths: tuple[int, ...] = (2048, 8192, 32768)  # tokens of the one row
    limit_seconds: float = 180.0  # for a row
    total_seconds: float = 0.0  # after which no further row is begun; 0: no limit
    row: str = ""  # one alone, OP/FORM; its last line is JSON


def main(argv: Sequence[str]) -> int:
    """Makes the rows that are missing, and writes the page."""
    from seqzoo.train.cli.flags import parse

    options = parse(FormsOptions, [a for a in argv if a != "--forms"], "seqzoo plan --forms")
    wanted = _wanted(options)
    if options.row:
        print(json.dumps(measure(wanted[0], options.lengths[0], options.topology)))
        return 0
    if options.out is None:
        raise UsageError("--forms needs --out DIR, where rows are kept")
    missing = make_rows(wanted, options)
    rows = rows_of(options.out)
    text = page(rows, options)
    if options.page is not None:
        write_atomically(options.page, text)
    print(text)
    print(json.dumps({"rows": len(rows), "missing": missing}))
    return 0


def make_rows(wanted: Sequence[Form], options: FormsOptions) -> int:
    """Compiles what is missing while there is time; how many are left."""
    started, left = time.monotonic(), 0
    for length in options.lengths:
        for form in wanted:
            kind = options.topology.replace(":", " ")
            path = options.out / f"{kind} {form.op} {form.name} {length}.json"
            if path.exists():
                continue
            if 0 < options.total_seconds < time.monotonic() - started:
                left += 1
                continue
            call = ["--forms", "--row", f"{form.op}/{form.name}", "--lengths", str(length)]
            call += ["--topology", options.topology]
            row = planned_apart(call, options.limit_seconds)
            row |= {"op": form.op, "form": form.name, "length": length}
            row |= {"topology": options.topology}
            write_atomically(path, json.dumps(row) + "\n")
            print(f"{path.stem}: {row.get('error', 'done')}, {row['seconds']:.0f} s", flush=True)
    return left


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
            if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
                raise
            return row | _refused(str(error))
    chip, module = chip_of(device), Module(compiled.as_text())
    cycles, estimate = module.cycles(), (compiled.cost_analysis() or {}).get("optimal_seconds", -1)
    return {
        **row,
        **_memory(compiled, chip),
        "traffic_bytes": module.traffic(),
        "compiler_seconds": estimate if estimate > 0 else None,
        "cycles_seconds": cycles / chip.clock if chip and chip.clock and cycles else None,
    }


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


def rows_of(folder: Path) -> list[Row]:
    """The rows that are there."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _order(group: tuple[str, str]) -> tuple[str, int]:
    return group[0], [form.op for form in FORMS].index(group[1])


def _cell(row: Row) -> str:
    if "error" in row:
        return row["error"].replace("|", "/")
    if row["fits"] is False:
        return "does not fit"
    cycles, cost = (
        "?" if row[name] is None else f"{1e3 * row[name]:.3g}"
        for name in ("cycles_seconds", "compiler_seconds")
    )
    return f"{cycles} ({cost}) / {row['peak_bytes'] / 2**20:,.0f} / {row['flops'] / 1e9:.3g}"


def _both_passes(call: Callable[..., Any]) -> Callable[..., Any]:
    def run(arguments: list[jax.Array], cotangents: list[jax.Array]) -> tuple:
        out, pull = jax.vjp(lambda *a: jax.tree.leaves(call(*a)), *arguments)
        return out, pull(cotangents)

    return run


def _wanted(options: FormsOptions) -> list[Form]:
    if options.row:
        found = [form for form in FORMS if f"{form.op}/{form.name}" == options.row]
        if not found:
            raise unknown("row", options.row, [f"{form.op}/{form.name}" for form in FORMS])
        return found
    names = [name.strip() for name in options.ops.split(",") if name.strip()]
    for name in names:
        if name not in {form.op for form in FORMS}:
            raise unknown("op", name, dict.fromkeys(form.op for form in FORMS))
    return [form for form in FORMS if not names or form.op in names]


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
    yield from _in_chunks(
        "dplr_delta_rule", ops.dplr_delta_rule, lambda n: _heads(n, *[WIDTH] * 3), (16, 32, 64)
    )
    convolution = "convolution"
    yield Form(convolution, "FFT", ops.fft_conv, _kernel_arguments)
    for size in (64, 128, 256):
        yield Form(convolution, f"chunks of {size}", _diagonal(size), _system_arguments)

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return ops.attention(q, k, v, causal=True)

    for form in ("small blocks", "large blocks"):
        yield Form("attention", form, attention, _heads, "attention", form)
    yield Form("attention", "dense", _dense_attention, _heads)


FORMS = tuple(_all_forms())
