"""Dense linear state-space systems with real input and output, in chunks of matrix products.

    h_t = A h_{t-1} + b u_t,   y_t = c . h_t        A [N, N] of each channel, b, c [N]

The chunks are those of `chunks.py`. Powers of A come by squaring, A^t b and c A^t by doubling:
log2(T) matrix products, no FFT and no eigenvalues, so that systems whose A has no well-conditioned
eigenvectors (HiPPO's) keep full precision. Cost of L tokens: O(L (T + N + N² / T)) per channel in
chunks of T, and O(N³ log T) for the powers; memory O(L (1 + N / T)).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.sharding import everywhere
from seqzoo.models.ops.ssm.chunks import Tables, chunked

# CPU, float32, B=4, H=128, N=64, L=2048, forward and backward, processor time: chunks of 32, 64 and
# 128 take 137, 129 and 171 ms; more of it is the powers' where rows are short.
CHUNK = 64


@op(rows="u")
def dense_ssm(
    u: Float[Array, "B L H"],
    A: Float[Array, "H N N"],
    b: Float[Array, "H N"],
    c: Float[Array, "H N"],
    h0: Float[Array, "B H N"] | None = None,
    *,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
    chunk_size: int = CHUNK,
) -> tuple[Float[Array, "B L H"], Float[Array, "B H N"]]:
    """Outputs and the state after the last real token.

    Args:
        u: inputs, one system per channel.
        A: transition of one step; its powers must not grow.
        b: input weights.
        c: output weights.
        h0: state before the first token; default zero.
        segment_ids: layout of the rows. Padding carries the state; a new segment forgets it.
        chunk_size: T, a power of two.

    What is returned and raised is as of `diagonal_ssm`.
    """
    if A.shape != (*b.shape, b.shape[-1]) or c.shape != b.shape:
        raise ValueError(
            f"dense_ssm: A must be [H, N, N], b and c [H, N]; got {A.shape}, {b.shape}, {c.shape}"
        )

    def tables(size: int, dtype: jnp.dtype) -> Tables:
        return _tables(*(x.astype(dtype) for x in (A, b, c)), size)

    how = {"chunk_size": chunk_size, "segment_ids": segment_ids}
    return chunked("dense_ssm", u, tables, h0, sizes=b.shape, **how)


def dense_kernel(
    A: Float[Array, "... N N"], b: Float[Array, "... N"], c: Float[Array, "... N"], length: int
) -> Float[Array, "... L"]:
    """The taps c A^l b, l = 0 .. length - 1; leading axes broadcast."""
    # A^(q T + t) = (A^T)^q A^t: two Krylov bases of about sqrt(length) vectors and their product
    size = 1 << (max(length - 1, 0).bit_length() + 1) // 2
    powers = squares(A, size)
    inner, whole = krylov(powers, b, size), jnp.swapaxes(powers[-1], -1, -2)
    count = 1 << (max(-(-length // size) - 1, 0)).bit_length()
    outer = krylov(squares(whole, count), c, count)
    taps = _product(jnp.swapaxes(outer, -1, -2), inner)
    return taps.reshape(*taps.shape[:-2], -1)[..., :length]


def squares(A: Float[Array, "... N N"], size: int) -> list[Array]:
    """A, A^2, A^4 .. A^size for a power of two."""
    out = [A]
    while 1 << len(out) <= size:
        out.append(_product(out[-1], out[-1]))
    return out


def krylov(powers: list[Array], b: Float[Array, "... N"], size: int) -> Float[Array, "... N T"]:
    """b, A b .. A^(size-1) b, each doubling one product; `powers` are A's `squares`."""
    basis = b[..., None]
    for power in powers[: size.bit_length() - 1]:
        shifted = _product(power, basis)
        basis = jnp.broadcast_to(basis, shifted.shape)
        basis = jnp.concatenate([basis, shifted], axis=-1)
    return basis


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def _tables(A: Array, b: Array, c: Array, size: int) -> Tables:
    powers = squares(A, size)
    ahead = krylov(powers, b, size)
    back = [jnp.swapaxes(power, -1, -2) for power in powers]
    emit = krylov(back, _product(back[0], c[..., None])[..., 0], size)

    whole = everywhere(powers[-1])

    def borders(added: Array, stays: Array | None, h0: Array) -> Array:
        batch, count = added.shape[:2]
        stays = jnp.ones((batch, count), bool) if stays is None else stays
        added, h0 = jnp.transpose(added, (1, 2, 0, 3)), jnp.swapaxes(h0, 0, 1)
        stays = stays.T[:, None, :, None].astype(added.dtype)
        states = jnp.concatenate([h0[None], _scan(False, whole, added, stays, h0)])
        return jnp.transpose(states, (2, 0, 1, 3))

    return Tables(
        kernel=jnp.einsum("HN,HNT->TH", c, ahead, precision=lax.Precision.HIGHEST),
        gather=jnp.moveaxis(ahead, -1, 0)[::-1],
        emit=jnp.moveaxis(emit, -1, 0),
        borders=borders,
        advance=functools.partial(_advance, powers),
    )


def _advance(powers: list[Array], most: int) -> Callable[[Array, Array], Array]:
    """(h, count) -> A^count h for counts up to `most`; `powers` are A's first squares."""
    powers = list(powers)
    while 1 << len(powers) <= most:
        powers.append(_product(powers[-1], powers[-1]))

    def advance(h: Array, count: Array) -> Array:
        for bit, power in enumerate(powers):
            h = jnp.where((count >> bit & 1 > 0)[:, None, None], _transit(power, h), h)
        return h

    return advance


def _transit(A: Float[Array, "H N N"], h: Float[Array, "B H N"]) -> Array:
    return jnp.swapaxes(_product(jnp.swapaxes(h, 0, 1), jnp.swapaxes(A, 1, 2)), 0, 1)


def _loop(
    reverse: bool,
    A: Float[Array, "H N N"],
    b: Float[Array, "G H B N"],
    stays: Float[Array, "G 1 B 1"],
    h0: Float[Array, "H B N"],
) -> Float[Array, "G H B N"]:
    """All states of h_g = stays_g A h_{g-1} + b_g; `stays` has no derivative.

    Its own backward pass, a scan with A^T against time, takes A's gradient as one product over all
    steps; that of `lax.scan` would add up a matrix per step.
    """
    back = jnp.swapaxes(A, 1, 2)

    def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        more, stay = inputs
        h = more + _product(stay * h, back)
        return h, h

    return lax.scan(step, h0, (b, stays), reverse=reverse)[1]


def _forward(reverse: bool, A: Array, b: Array, stays: Array, h0: Array):
    h = _scan(reverse, A, b, stays, h0)
    return h, (A, stays, h0, h)


def _backward(reverse: bool, kept: tuple, g: Array):
    A, stays, h0, h = kept
    first = -1 if reverse else 0
    after = jnp.roll(stays, 1 if reverse else -1, axis=0)
    back = jnp.swapaxes(A, 1, 2)
    adjoint = _scan(not reverse, back, g, after, jnp.zeros_like(h0))
    before = stays * _before(reverse, h, h0)
    dA = jnp.einsum("GHBM,GHBN->HMN", adjoint, before, precision=lax.Precision.HIGHEST)
    return dA, adjoint, None, stays[first] * _product(adjoint[first], A)


def _tangent(reverse: bool, kept: tuple, tangents: tuple) -> Array:
    (A, stays, h0, h), (dA, db, _, dh0) = kept, tangents
    more = _product(stays * _before(reverse, h, h0), jnp.swapaxes(dA, 1, 2))
    return _scan(reverse, A, db + more, stays, dh0)


def _before(reverse: bool, h: Array, h0: Array) -> Array:
    return jnp.concatenate([h[1:], h0[None]] if reverse else [h0[None], h[:-1]])


_scan = with_backward(_loop, _forward, _backward, _tangent)
