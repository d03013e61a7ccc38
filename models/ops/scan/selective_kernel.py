"""The selective scan as one kernel forward and one backward, by Pallas for GPUs (Triton).

A program has a row and some channels, its states [N, T] in registers, and walks over chunks of
steps. As in `selective.py` the states at chunk borders are kept, and the backward pass makes those
of a chunk again; what all channels share, dB and dC, is summed up over programs behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

TILES = (32, 16)  # channels of a program, whose states of a chunk are to stay in registers
LONGEST = 32  # steps of a chunk, which are written out


def channels(width: int, states: int, chunk: int) -> int | None:
    """Channels of a program; None where it has no sizes that Triton can have."""
    if states & (states - 1) or chunk > LONGEST:
        return None
    return next((size for size in TILES if width % size == 0), None)


def multiple(chunk: int) -> int:
    """Of which rows have to be."""
    return chunk


def _decay(A: Array, dt: Array, keep: Array | None) -> Array:
    a = jnp.exp(dt * A)
    return a if keep is None else a * keep


def _load(refs: tuple, first: Array, chunk: int) -> list[tuple]:
    """u, dt [1, T], B, C [N, 1] and what is kept of the state, for each step of a chunk."""
    u, dt, B, C, keep = refs

    def row(ref: Any, t: Array) -> Array:
        return ref[t, :].astype(jnp.float32)

    return [
        (
            row(u, first + s)[None],
            row(dt, first + s)[None],
            row(B, first + s)[:, None],
            row(C, first + s)[:, None],
            None if keep is None else keep[first + s],
        )
        for s in range(chunk)
    ]


def _states(steps: list[tuple], A: Array, h: Array) -> list[Array]:
    """The states before, between and behind the steps."""
    found = [h]
    for u, dt, B, _, keep in steps:
        found.append(_decay(A, dt, keep) * found[-1] + B * (dt * u))
    return found


def _specs(x: tuple, size: int) -> tuple:
    """Of a row's arrays, u and dt by channels."""
    length, states = x[0].shape[1], x[2].shape[2]
    wide = pl.BlockSpec((None, length, size), lambda b, d: (b, 0, d))
    shared = pl.BlockSpec((None, length, states), lambda b, d: (b, 0, 0))
    keep = pl.BlockSpec((None, length), lambda b, d: (b, 0))
    return (wide, wide, shared, shared, *([keep] if len(x) > 4 else []))


def _call(kernel: Callable, interpret: bool, args: tuple, specs: tuple, outs: list) -> list[Array]:
    from jax.experimental.pallas import triton as gpu

    batch, _, width = args[0].shape
    size = specs[0].block_shape[-1]
    return pl.pallas_call(
        kernel,
        grid=(batch, width // size),
        in_specs=list(specs),
        out_specs=[spec for _, _, spec in outs],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in outs],
        compiler_params=gpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="selective_scan",
    )(*args)


def forward(chunk: int, size: int, interpret: bool, x: tuple, A: Array, h0: Array) -> list[Array]:
    """y, the last state and those at borders; x is u, dt, B, C and, with segments, what is kept.

    All lengths are multiples of the chunk.
    """
    (batch, length, width), states = x[0].shape, A.shape[0]
    count, n = length // chunk, len(x)

    def kernel(*refs: Any) -> None:
        A_ref, h_ref, y, last, borders = refs[n:]
        A = A_ref[...]

        def walk(g: Array, h: Array) -> Array:
            borders[g] = h
            steps = _load((*refs[:n], None)[:5], g * chunk, chunk)
            found = _states(steps, A, h)
            for s, h in enumerate(found[1:]):
                y[g * chunk + s, :] = (h * steps[s][3]).sum(0).astype(y.dtype)
            return found[-1]

        last[...] = lax.fori_loop(0, count, walk, h_ref[...])

    own = pl.BlockSpec((states, size), lambda b, d: (0, d))
    state = pl.BlockSpec((None, states, size), lambda b, d: (b, 0, d))
    outs = [
        (x[0].shape, x[0].dtype, _specs(x, size)[0]),
        ((batch, states, width), jnp.float32, state),
        (
            (count, batch, states, width),
            jnp.float32,
            pl.BlockSpec((count, None, states, size), lambda b, d: (0, b, 0, d)),
        ),
    ]
    return _call(kernel, interpret, (*x, A, h0), (*_specs(x, size), own, state), outs)


def backward(
    chunk: int, size: int, interpret: bool, x: tuple, A: Array, borders: Array, dy: Array, dh: Array
) -> tuple[tuple[Array, ...], Array, Array]:
    """Cotangents of u, dt, B and C, of A for each row, and of the first state."""
    (batch, length, width), states = x[0].shape, A.shape[0]
    count, n, tiles = length // chunk, len(x), width // size

    def kernel(*refs: Any) -> None:
        A_ref, borders, dy, dh_ref, du, ddt, dB, dC, dA_ref, first = refs[n:]
        A = A_ref[...]

        def walk(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            dh, dA = carry
            g = count - 1 - j
            steps = _load((*refs[:n], None)[:5], g * chunk, chunk)
            found = _states(steps, A, borders[g])
            for s in reversed(range(chunk)):
                (u, dt, B, C, keep), t = steps[s], g * chunk + s
                g_y = dy[t, :].astype(jnp.float32)[None]
                a = _decay(A, dt, keep)
                l = dh + C * g_y
                e = l * a * found[s]
                d_input = (l * B).sum(0)[None]
                du[t, :] = (d_input * dt)[0].astype(du.dtype)
                ddt[t, :] = ((e * A).sum(0)[None] + d_input * u)[0].astype(ddt.dtype)
                dB[t, :] = (l * (dt * u)).sum(1)
                dC[t, :] = (found[s + 1] * g_y).sum(1)
                dh, dA = a * l, dA + e * dt
            return dh, dA

        start = dh_ref[...], jnp.zeros((states, size), jnp.float32)
        first[...], dA_ref[...] = lax.fori_loop(0, count, walk, start)

    wide = _specs(x, size)[0]
    own = pl.BlockSpec((states, size), lambda b, d: (0, d))
    state = pl.BlockSpec((None, states, size), lambda b, d: (b, 0, d))
    kept = pl.BlockSpec((count, None, states, size), lambda b, d: (0, b, 0, d))
    part = pl.BlockSpec((None, None, length, states), lambda b, d: (d, b, 0, 0))
    parts = (tiles, batch, length, states), jnp.float32, part
    outs = [
        (x[0].shape, x[0].dtype, wide),
        (x[1].shape, x[1].dtype, wide),
        parts,
        parts,
        *[((batch, states, width), jnp.float32, state)] * 2,
    ]
    args, specs = (*x, A, borders, dy, dh), (*_specs(x, size), own, kept, wide, state)
    du, ddt, dB, dC, dA, first = _call(kernel, interpret, args, specs, outs)
    dB, dC = (d.sum(0).astype(a.dtype) for d, a in zip((dB, dC), x[2:4], strict=True))
    return (du, ddt, dB, dC), dA, first
