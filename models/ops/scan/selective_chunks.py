"""The selective scan chunk by chunk: a loop over the steps of one, a prefix inside wider ones.

Both forms go over the chunks alike; `borders` holds the states before every chunk. See
`selective.py` for the equations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


class Inputs(NamedTuple):
    """What varies in time, each [B, L, ...]."""

    u: Array
    dt: Array
    B: Array
    C: Array
    forget: Array | None  # [B, L, 1], 1 where a segment starts; None for rows of one segment


def forward(states: Callable, chunk: int, wide: int, x: Inputs, A: Array | None, h0: Array):
    """y, the last state and borders [L / T, B, N, D]; `states` are those of `wide` chunks."""
    length = x.u.shape[1]
    count = -(-length // chunk)  # of borders
    wide = min(wide, count)
    x, steps = padded(x, chunk * wide), chunk * wide

    def body(g: Array, carry):
        h, y, borders = carry
        part = _cut(x, g, steps, h0.dtype)
        y_part, h, before = states(part, A, h, wide)
        borders = lax.dynamic_update_slice_in_dim(borders, before, g * wide, 0)
        return h, _put(y, y_part, g, steps), borders

    groups = x.u.shape[1] // steps
    empty = jnp.zeros((groups * wide, *h0.shape), h0.dtype)
    h, y, borders = lax.fori_loop(0, groups, body, (h0, jnp.zeros_like(x.u), empty))
    return y[:, :length], h, borders[:count]


def backward(adjoint: Callable, chunk: int, wide: int, x: Inputs, A, borders, dy, dh):
    """Cotangents of u, dt, B and C, of A, and of the first state; `adjoint`: of `wide` chunks."""
    length = x.u.shape[1]
    wide = min(wide, len(borders))
    steps = chunk * wide
    dtypes = [a.dtype for a in x[:4]]
    x, dy = padded((x, dy), steps)
    groups = x.u.shape[1] // steps

    def body(j: Array, carry):
        g = groups - 1 - j
        dh, dA, grads = carry
        part, dy_part = _cut((x, dy), g, steps, borders.dtype)
        parts, dA_part, dh = adjoint(part, A, borders[g * wide], dy_part, dh)
        grads = tuple(_put(a, p, g, steps) for a, p in zip(grads, parts, strict=True))
        return dh, None if A is None else dA + dA_part, grads

    zeros = tuple(jnp.zeros(a.shape, t) for a, t in zip(x[:4], dtypes, strict=True))
    dA = None if A is None else jnp.zeros_like(dh)
    dh, dA, grads = lax.fori_loop(0, groups, body, (dh, dA, zeros))
    return tuple(a[:, :length] for a in grads), None if A is None else dA.sum(0), dh


def padded(tree, multiple: int):
    """Every [B, L, ...] filled up with steps of dt = 0, which change nothing."""

    def pad(a: Array) -> Array:
        return jnp.pad(a, ((0, 0), (0, -a.shape[1] % multiple), (0, 0)))

    return jax.tree.map(pad, tree)


def _cut(tree, g: Array, steps: int, dtype):
    """Group g of the steps of every array, in `dtype`."""

    def cut(a: Array) -> Array:
        return lax.dynamic_slice_in_dim(a, g * steps, steps, 1).astype(dtype)

    return jax.tree.map(cut, tree)


def _put(whole: Array, part: Array, g: Array, steps: int) -> Array:
    return lax.dynamic_update_slice_in_dim(whole, part.astype(whole.dtype), g * steps, 1)


def _decay(dt: Array, B: Array, A: Array | None) -> Array:
    """a of steps dt [..., D] and B [..., N] without segments, [..., N, D]."""
    if A is None:
        return 1 - dt[..., None, :] * B[..., None] ** 2
    return jnp.exp(dt[..., None, :] * A)


def decays(x: Inputs, A: Array | None) -> Array:
    """a of all steps, [B, T, N, D]."""
    a = _decay(x.dt, x.B, A)
    return a if x.forget is None else a * (1 - x.forget[:, :, None])


def _gradients(
    x: Inputs, A: Array | None, h: Array, l: Array, e: Array, dy: Array
) -> tuple[Array, ...]:
    """Cotangents of u, dt, B and C from arrays of every step, [B, T, N, D].

    They are h, l, and l w A, or that of the decays where there is no A.
    """
    d_input = jnp.einsum("BTND,BTN->BTD", l, x.B)
    dB = jnp.einsum("BTND,BTD->BTN", l, x.dt * x.u)
    dC = jnp.einsum("BTND,BTD->BTN", h, dy)
    if A is None:
        ddt = -jnp.einsum("BTND,BTN->BTD", e, x.B**2)
        dB = dB - 2 * x.B * jnp.einsum("BTND,BTD->BTN", e, x.dt)
    else:
        ddt = e.sum(2)
    return d_input * x.dt, ddt + d_input * x.u, dB, dC


# The loop. Every buffer is either read or written in it, so that XLA updates it in place.


def _at(a: Array, i: Array) -> Array:
    return lax.dynamic_index_in_dim(a, i, 1, keepdims=False)


def _set(a: Array, value: Array, i: Array) -> Array:
    return lax.dynamic_update_index_in_dim(a, value, i, 1)


def _outer(states: Array, channels: Array, i: Array) -> Array:
    """[B, N, D] of step i of [B, T, N] and [B, T, D]."""
    return _at(states, i)[:, :, None] * _at(channels, i)[:, None]


def loop_states(x: Inputs, A: Array | None, h: Array, wide: int) -> tuple[Array, Array, Array]:
    """y, the state behind the chunk and the one before it."""
    before = h[None]
    source = x.dt * x.u

    def step(i: Array, carry):
        h, y = carry
        a = _decay(_at(x.dt, i), _at(x.B, i), A)
        if x.forget is not None:
            a = a * (1 - _at(x.forget, i)[:, None])
        h = a * h + _outer(x.B, source, i)
        return h, _set(y, jnp.einsum("BND,BN->BD", h, _at(x.C, i)), i)

    h, y = lax.fori_loop(0, x.u.shape[1], step, (h, jnp.zeros_like(x.u)))
    return y, h, before


def loop_adjoint(x: Inputs, A: Array | None, h: Array, dy: Array, dh: Array):
    """Cotangents of u, dt, B, C, of A per row, and of the state before the chunk."""
    length = x.u.shape[1]
    kept = None if x.forget is None else 1 - x.forget
    a, source = decays(x, A), x.dt * x.u
    empty = jnp.zeros_like(a)

    def forward(i: Array, carry):
        h, all_h, all_w = carry
        w = _at(a, i) * h
        of_decay = w if A is not None else h if kept is None else h * _at(kept, i)[:, None]
        h = w + _outer(x.B, source, i)
        return h, _set(all_h, h, i), _set(all_w, of_decay, i)

    _, all_h, all_w = lax.fori_loop(0, length, forward, (h, empty, empty))

    def backward(j: Array, carry):
        i = length - 1 - j
        dh, dA, all_l, all_e = carry
        l = dh + _outer(x.C, dy, i)
        e = l * _at(all_w, i)
        if A is not None:
            dA, e = dA + e * _at(x.dt, i)[:, None], e * A
        return _at(a, i) * l, dA, _set(all_l, l, i), _set(all_e, e, i)

    start = (dh, None if A is None else jnp.zeros_like(dh), empty, empty)
    dh, dA, all_l, all_e = lax.fori_loop(0, length, backward, start)
    return _gradients(x, A, all_h, all_l, all_e, dy), dA, dh


# The parallel prefix.


def _prefix(a: Array, b: Array, reverse: bool = False) -> Array:
    """h_t = a_t h_{t-1} + b_t over axis 1, from zero."""

    def compose(earlier, later):
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    return lax.associative_scan(compose, (a, b), reverse=reverse, axis=1)[1]


def _prefix_all(x: Inputs, A: Array | None, h: Array) -> tuple[Array, Array]:
    """Decays and states of every step."""
    a = decays(x, A)
    b = x.B[..., None] * (x.dt * x.u)[:, :, None]
    return a, _prefix(a, b.at[:, 0].add(a[:, 0] * h))


def prefix_states(x: Inputs, A: Array | None, h: Array, wide: int) -> tuple[Array, Array, Array]:
    """y, the state behind the chunks and those before each of them."""
    _, all_h = _prefix_all(x, A, h)
    chunk = x.u.shape[1] // wide
    before = jnp.concatenate([h[:, None], all_h[:, chunk - 1 : -1 : chunk]], axis=1)
    y = jnp.einsum("BTND,BTN->BTD", all_h, x.C)
    return y, all_h[:, -1], jnp.moveaxis(before, 1, 0)


def prefix_adjoint(x: Inputs, A: Array | None, h: Array, dy: Array, dh: Array):
    """See `loop_adjoint`."""
    a, all_h = _prefix_all(x, A, h)
    before = jnp.concatenate([h[:, None], all_h[:, :-1]], axis=1)
    g = x.C[..., None] * dy[:, :, None]
    l = _prefix(jnp.roll(a, -1, axis=1), g.at[:, -1].add(dh), reverse=True)
    dh = a[:, 0] * l[:, 0]
    if A is None:
        e = l * before
        e = e if x.forget is None else e * (1 - x.forget[:, :, None])
        return _gradients(x, A, all_h, l, e, dy), None, dh
    e = l * a * before
    dA = (e * x.dt[:, :, None]).sum(1)
    return _gradients(x, A, all_h, l, e * A, dy), dA, dh
