"""Diagonal linear state-space systems with real input and output, in chunks of matrix products.

    h_t = a h_{t-1} + b u_t,   y_t = 2 Re(sum_m c_m h_t,m)        a, b, c complex, M pairs a channel
                               y_t = sum_n c_n h_t,n              a, b, c real, N a channel

A complex number stands for itself and its conjugate: a real system of size N = 2 M (Gu et al.
2022, arXiv:2206.11893). The chunks are those of `chunks.py`, with tables of powers of `a`; the
states at chunk borders are a `linear_scan`. Cost of L tokens: O(L (T + N)) per channel in chunks of
T; memory O(L (1 + N / T)).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.scan.linear import undivided_scan
from seqzoo.models.ops.ssm.chunks import Tables, chunked, keep

# CPU, float32, B=4, H=128, N=64, L=2048, forward and backward, processor time: chunks of 16, 32 and
# 64 take 164, 104 and 98 ms; packed rows 270, 245 and 238 ms; convolution by FFT, the kernel
# included, 275 ms; a loop over single tokens 351 ms. Longer chunks lose where N is small.
CHUNK = 32


@op(rows="u")
def diagonal_ssm(
    u: Float[Array, "B L H"],
    a: Inexact[Array, "H M"],
    b: Inexact[Array, "H M"],
    c: Inexact[Array, "H M"],
    h0: Float[Array, "B H N"] | None = None,
    *,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
    chunk_size: int = CHUNK,
) -> tuple[Float[Array, "B L H"], Float[Array, "B H N"]]:
    """Outputs and the state after the last real token.

    Args:
        u: inputs, one system per channel.
        a: decays of one step, |a| <= 1, complex or real.
        b: input weights; b and c are of the kind of a and broadcast to it.
        c: output weights; the conjugate half doubles the real part.
        h0: state before the first token, of complex a real parts then imaginary parts
            (N = 2 M); default zero.
        segment_ids: layout of the rows. Padding carries the state; a new segment forgets it.
        chunk_size: T, a power of two.

    Returns:
        y like u, and the state, at least float32.

    Raises:
        ValueError: for a chunk size that is no power of two and shapes that do not fit.
    """
    states = a.shape[1] * (2 if jnp.iscomplexobj(a) else 1)
    tables = functools.partial(_tables, a, *(jnp.broadcast_to(z, a.shape) for z in (b, c)))
    how = {"chunk_size": chunk_size, "segment_ids": segment_ids}
    return chunked("diagonal_ssm", u, tables, h0, sizes=(a.shape[0], states), **how)


def powers(a: Inexact[Array, "..."], count: int) -> Inexact[Array, "K ..."]:
    """a^0 .. a^(count-1) by multiplication: no phase is lost in a large argument of cos and sin."""
    if count == 1:
        return jnp.ones((1, *a.shape), a.dtype)
    table = {"scan": _by_scan, "doubling": _by_doubling}
    table = {name: functools.partial(form, count) for name, form in table.items()}
    return forms.run("powers", table, a)


def _by_scan(count: int, a: Array) -> Array:
    one = jnp.ones((1, *a.shape), a.dtype)
    more = undivided_scan(a, jnp.zeros((1, count - 1, *a.shape), a.dtype), one)
    return jnp.concatenate([one, more[0]])


def _by_doubling(count: int, a: Array) -> Array:
    found, next_one = jnp.ones((1, *a.shape), a.dtype), a
    while (rest := count - len(found)) > 0:
        found = jnp.concatenate([found, found[:rest] * next_one])
        next_one = next_one * next_one
    return found


def _tables(a: Array, b: Array, c: Array, size: int, dtype: jnp.dtype) -> Tables:
    kind = jnp.promote_types(dtype, jnp.complex64) if jnp.iscomplexobj(a) else dtype
    a, b, c = (z.astype(kind) for z in (a, b, c))
    if jnp.iscomplexobj(a):
        c = 2 * c
    decay = powers(a, size + 1)  # a^0 .. a^T
    gather, emit = decay[:-1] * b, decay[1:] * c

    def borders(added: Array, stays: Array | None, h0: Array) -> Array:
        whole, h0 = decay[-1], _like(a, h0)
        if stays is not None:
            whole = keep(whole[None, None], stays)
        states = undivided_scan(whole, _like(a, added), h0)
        return _planes(jnp.concatenate([h0[:, None], states], axis=1))

    return Tables(
        kernel=(gather * c).real.sum(-1),
        gather=_planes(gather)[::-1],
        emit=_planes(emit.conj()),  # 2 Re(c a^t h), as a real form in the planes of h
        borders=borders,
        advance=functools.partial(_advance, decay),
    )


def _advance(decay: Array, most: int) -> Callable[[Array, Array], Array]:
    """(h, count) -> a^count h for counts up to `most`, `decay` holding the first powers."""
    size = len(decay) - 1
    squares = [decay[-1]]
    while 2 * size << len(squares) - 1 <= most:
        squares.append(squares[-1] ** 2)

    def advance(h: Array, count: Array) -> Array:
        h = decay[count % size] * _like(decay, h)
        for bit, square in enumerate(squares):
            h = jnp.where((count // size >> bit & 1 > 0)[:, None, None], square * h, h)
        return _planes(h)

    return advance


def _like(a: Array, h: Float[Array, "... N"]) -> Inexact[Array, "... M"]:
    return jax.lax.complex(*jnp.split(h, 2, axis=-1)) if jnp.iscomplexobj(a) else h


def _planes(h: Inexact[Array, "... M"]) -> Float[Array, "... N"]:
    return jnp.concatenate([h.real, h.imag], axis=-1) if jnp.iscomplexobj(h) else h
