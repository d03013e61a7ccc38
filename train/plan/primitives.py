"""The forms of every primitive, with arguments of a size that `seqzoo plan --forms` compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqzoo.models import ops
from seqzoo.models.errors import unknown

HEADS, WIDTH, CHANNELS, STATES = 8, 128, 1024, 16


class Form(NamedTuple):
    """One way to compute a primitive."""

    op: str
    name: str
    call: Callable[..., Any]
    arguments: Callable[[int], list[jax.ShapeDtypeStruct]]  # of a length
    table: str = ""  # the op of models/ops/layout/backends.py whose form it is, with
    entry: str = ""  # its name there
    only: str = ""  # kinds of chips that have it, if not all


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


def _lstm_arguments(length: int) -> list[jax.ShapeDtypeStruct]:
    gates = _array(1, length, 4 * CHANNELS, dtype=jnp.float32)
    return [gates, _array(CHANNELS, 4 * CHANNELS, dtype=jnp.float32)]


def _lstm(x: jax.Array, kernel: jax.Array) -> Any:
    def cell(state: tuple, x: jax.Array, dot: Callable) -> tuple:
        i, f, g, o = jnp.split(x + dot(state[0]), 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    nothing = jnp.zeros((x.shape[0], CHANNELS), x.dtype)
    return ops.nonlinear_scan(cell, x, (nothing, nothing), kernels=(kernel,))


def _causal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return ops.attention(q, k, v, causal=True)


def _of_table(
    op: str, call: Callable[..., Any], arguments: Callable, table: str, **entries: str
) -> Iterator[Form]:
    """A form for each name there, of all chips or of some."""
    for entry, only in entries.items():
        name = entry.replace("_", " ")
        yield Form(op, name, call, arguments, table, name, only)


def _all_forms() -> Iterator[Form]:
    scan, selective = "linear_scan", "selective_scan"
    forms = {"sequential": "", "associative": ""}
    yield from _of_table(scan, ops.linear_scan, _scan_arguments, scan, **forms)
    for form, sizes in (("sequential", (16, 64)), ("associative", (16, 64))):
        for made in _in_chunks(selective, ops.selective_scan, _selective_arguments, sizes):
            yield made._replace(name=f"{form}, {made.name}", table=selective, entry=form)
    forms = {"triton": "GPUs", "mosaic": "TPUs"}
    yield from _of_table(selective, ops.selective_scan, _selective_arguments, selective, **forms)
    yield from _of_table(
        "nonlinear_scan, an LSTM",
        _lstm,
        _lstm_arguments,
        "nonlinear_scan",
        **{"loop": "", "triton": "GPUs", "mosaic": "TPUs"},
    )
    gla = ops.gated_linear_attention
    chunked = (
        ("gated_linear_attention, a decay a head", gla, lambda n: _heads(n, 1), 32, 64, 128, 256),
        (
            "gated_linear_attention, a decay a channel",
            *(gla, lambda n: _heads(n, WIDTH), 32, 64, 128, 256),
        ),
        ("gated_delta_rule", ops.gated_delta_rule, _delta_arguments, 16, 32, 64, 128),
        (
            "dplr_delta_rule",
            *(ops.dplr_delta_rule, lambda n: _heads(n, *[WIDTH] * 3), 16, 32, 64),
        ),
    )
    for op, call, arguments, *sizes in chunked:
        yield from _in_chunks(op, call, arguments, sizes)
        forms = {"walk": "", "together": "", "mosaic": "TPUs"}
        for form in _of_table(op, call, arguments, "chunks", **forms):
            yield form._replace(name=f"chunks, {form.name}")
    for form in ("together", "apart"):  # of the values and a last column of ones
        yield Form(f"{gla.__name__}, a normaliser", form, gla, _column_more, "normaliser", form)
    convolution = "convolution"
    yield Form(convolution, "FFT", ops.fft_conv, _kernel_arguments)
    strict = functools.partial(ops.fft_conv, strict=True)
    forms = {"transforms": "", "products": ""}
    yield from _of_table("strict convolution", strict, _kernel_arguments, "fft_conv", **forms)
    for size in (64, 128, 256):
        yield Form(convolution, f"chunks of {size}", _diagonal(size), _system_arguments)
    forms = {"small_blocks": "", "large_blocks": "", "splash": "TPUs", "cudnn": "GPUs"}
    yield from _of_table("attention", _causal_attention, _heads, "attention", **forms)
    yield Form("attention", "dense", _dense_attention, _heads)


FORMS = tuple(_all_forms())


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
