"""The selective scan as one kernel forward and one backward, by Pallas for TPUs (Mosaic).

The grid walks over blocks of 128 steps of a row and some channels, whose states [N, T] stay in
vector memory. A chunk's steps are written out: B and C lie with the steps on the lanes, so that a
step's column is a slice, and a chunk's are turned to the front. As in `selective.py` the states at
chunk borders are kept, and the backward pass makes those of a chunk again; what all channels share,
dB and dC, is summed up over channels behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

BLOCK = 128  # steps: a vector's lanes
TILES = (512, 256, 128)  # channels of a program
ROWS = 16  # steps of a tile in bfloat16


def channels(width: int, states: int, chunk: int) -> int | None:
    """Channels of a program; None where it would not have whole vectors."""
    if states % 8 or chunk % ROWS or BLOCK % chunk:
        return None
    return next((size for size in TILES if width % size == 0), None)


def multiple(chunk: int) -> int:
    """Of which rows have to be."""
    return BLOCK


def _turned(ref: Any, g: Array, chunk: int) -> Array:
    """The columns [N, chunk] of chunk g of a block [N, BLOCK]."""
    from jax.experimental.pallas import tpu

    x = ref[...].astype(jnp.float32)
    return tpu.roll(x, (BLOCK - g * chunk) % BLOCK, 1)[:, :chunk]


def _load(refs: tuple, g: Array, chunk: int) -> list[tuple]:
    """u, dt [1, T], B, C [N, 1] and what is kept of the state [1, 1], for each step of a chunk."""
    here = pl.ds(pl.multiple_of(g * chunk, ROWS), chunk)
    rows = [ref[here, :].astype(jnp.float32) for ref in refs[:2]]
    columns = [_turned(ref, g, chunk) for ref in refs[2:]]
    return [
        (
            *(row[s : s + 1] for row in rows),
            *(column[:, s : s + 1] for column in columns),
            *([None] * (5 - len(refs))),
        )
        for s in range(chunk)
    ]


def _decay(A: Array, dt: Array, keep: Array | None) -> Array:
    a = jnp.exp(dt * A)
    return a if keep is None else a * keep


def _states(steps: list[tuple], A: Array, h: Array) -> list[Array]:
    """The states before, between and behind the steps."""
    found = [h]
    for u, dt, B, _, keep in steps:
        found.append(_decay(A, dt, keep) * found[-1] + B * (dt * u))
    return found


def _apart(x: tuple) -> tuple:
    """u and dt as they are, what is shared with the steps last."""
    u, dt, B, C, *keep = x
    return u, dt, jnp.swapaxes(B, 1, 2), jnp.swapaxes(C, 1, 2), *(k[:, None] for k in keep)


def _specs(x: tuple, size: int, at: Callable) -> list[pl.BlockSpec]:
    wide = pl.BlockSpec((None, BLOCK, size), lambda b, d, i: (b, at(i), d))
    shared = [pl.BlockSpec((None, a.shape[1], BLOCK), lambda b, d, i: (b, 0, at(i))) for a in x[2:]]
    return [wide, wide, *shared]


def _call(
    kernel: Callable, interpret: bool, grid: tuple, args: tuple, specs: list, outs: list, kept: list
) -> list[Array]:
    from jax.experimental.pallas import tpu

    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=[spec for _, _, spec in outs],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in outs],
        scratch_shapes=[tpu.VMEM(shape, jnp.float32) for shape in kept],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name="selective_scan",
    )(*args)


def forward(chunk: int, size: int, interpret: bool, x: tuple, A: Array, h0: Array) -> list[Array]:
    """y, the last state and those at borders; x is u, dt, B, C and, with segments, what is kept.

    All lengths are multiples of a block's.
    """
    (batch, length, width), states = x[0].shape, A.shape[0]
    blocks, count, n = length // BLOCK, BLOCK // chunk, len(x)

    def kernel(*refs: Any) -> None:
        A_ref, h_ref, y, last, borders, state = refs[n:]
        A, i = A_ref[...], pl.program_id(2)

        @pl.when(i == 0)
        def _() -> None:
            state[...] = h_ref[...]

        def walk(g: Array, h: Array) -> Array:
            borders[g] = h
            steps = _load(refs[:n], g, chunk)
            found = _states(steps, A, h)
            rows = [(h * s[3]).sum(0, keepdims=True) for s, h in zip(steps, found[1:], strict=True)]
            here = pl.ds(pl.multiple_of(g * chunk, ROWS), chunk)
            y[here, :] = jnp.concatenate(rows).astype(y.dtype)
            return found[-1]

        state[...] = last[...] = lax.fori_loop(0, count, walk, state[...])

    own = pl.BlockSpec((states, size), lambda b, d, i: (0, d))
    row = pl.BlockSpec((None, states, size), lambda b, d, i: (b, 0, d))
    specs = _specs(_apart(x), size, lambda i: i)
    kept = pl.BlockSpec((count, None, states, size), lambda b, d, i: (i, b, 0, d))
    outs = [
        (x[0].shape, x[0].dtype, specs[0]),
        ((batch, states, width), jnp.float32, row),
        ((blocks * count, batch, states, width), jnp.float32, kept),
    ]
    grid = batch, width // size, blocks
    args, specs = (*_apart(x), A, h0), [*specs, own, row]
    return _call(kernel, interpret, grid, args, specs, outs, [(states, size)])


def backward(
    chunk: int, size: int, interpret: bool, x: tuple, A: Array, borders: Array, dy: Array, dh: Array
) -> tuple[tuple[Array, ...], Array, Array]:
    """Cotangents of u, dt, B and C, of A for each row, and of the first state."""
    (batch, length, width), states = x[0].shape, A.shape[0]
    blocks, count, n = length // BLOCK, BLOCK // chunk, len(x)

    def kernel(*refs: Any) -> None:
        A_ref, borders, dy, dh_ref, du, ddt, dB, dC, dA_ref, first, d_state = refs[n:]
        A, i = A_ref[...], pl.program_id(2)

        @pl.when(i == 0)
        def _() -> None:
            d_state[...] = dh_ref[...]
            dA_ref[...] = jnp.zeros_like(dA_ref)

        dB[...] = dC[...] = jnp.zeros(dB.shape, dB.dtype)

        def walk(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            g = count - 1 - j
            here = pl.ds(pl.multiple_of(g * chunk, ROWS), chunk)
            steps, dys = _load(refs[:n], g, chunk), dy[here, :].astype(jnp.float32)
            found = _states(steps, A, borders[g])
            carry, columns = _back(steps, found, dys, A, carry)
            rows = [jnp.concatenate(parts[::-1]) for parts in columns[:2]]
            du[here, :], ddt[here, :] = rows[0].astype(du.dtype), rows[1].astype(ddt.dtype)
            for ref, parts in zip((dB, dC), columns[2:], strict=True):
                ref[...] += _placed(parts[::-1], g * chunk)
            return carry

        start = d_state[...], dA_ref[...]
        d_state[...], dA_ref[...] = lax.fori_loop(0, count, walk, start)
        first[...] = d_state[...]

    def at(i: Array) -> Array:
        return blocks - 1 - i

    specs = _specs(_apart(x), size, at)
    own = pl.BlockSpec((states, size), lambda b, d, i: (0, d))
    row = pl.BlockSpec((None, states, size), lambda b, d, i: (b, 0, d))
    kept = pl.BlockSpec((count, None, states, size), lambda b, d, i: (at(i), b, 0, d))
    part = pl.BlockSpec((None, None, states, BLOCK), lambda b, d, i: (d, b, 0, at(i)))
    parts = (width // size, batch, states, length), jnp.float32, part
    outs = [
        (x[0].shape, x[0].dtype, specs[0]),
        (x[1].shape, x[1].dtype, specs[0]),
        parts,
        parts,
        *[((batch, states, width), jnp.float32, row)] * 2,
    ]
    args, grid = (*_apart(x), A, borders, dy, dh), (batch, width // size, blocks)
    specs = [*specs, own, kept, specs[0], row]
    found = _call(kernel, interpret, grid, args, specs, outs, [(states, size)])
    du, ddt, dB, dC, dA, first = found
    shared = (jnp.swapaxes(d.sum(0), 1, 2) for d in (dB, dC))
    dB, dC = (d.astype(a.dtype) for d, a in zip(shared, x[2:4], strict=True))
    return (du, ddt, dB, dC), dA, first


def _back(steps: list[tuple], found: list[Array], dys: Array, A: Array, carry: tuple) -> tuple:
    """The carry before a chunk, and what each step gives of u, dt [1, T], B and C, last first."""
    (dh, dA), columns = carry, ([], [], [], [])
    for s in reversed(range(len(steps))):
        (u, dt, B, C, keep), g_y = steps[s], dys[s : s + 1]
        a = _decay(A, dt, keep)
        l = dh + C * g_y
        e = l * a * found[s]
        d_input = (l * B).sum(0, keepdims=True)
        for column, value in zip(
            columns,
            (
                d_input * dt,
                (e * A).sum(0, keepdims=True) + d_input * u,
                (l * (dt * u)).sum(1, keepdims=True),
                (found[s + 1] * g_y).sum(1, keepdims=True),
            ),
            strict=True,
        ):
            column.append(value)
        dh, dA = a * l, dA + e * dt
    return (dh, dA), columns


def _placed(columns: list[Array], start: Array) -> Array:
    """Columns [N, 1] from a place on in a block [N, BLOCK] of zeros."""
    from jax.experimental.pallas import tpu

    rest = jnp.zeros((columns[0].shape[0], BLOCK - len(columns)), columns[0].dtype)
    return tpu.roll(jnp.concatenate([*columns, rest], axis=1), start, 1)
