"""Products of pairs of positions in a chunk under decay, without an exponent above zero.

    P_ts = Σ_c x_tc y_sc exp(g_{s+1,c} + ... + g_tc),  s <= t,  g = log decay <= 0

A decay common to all channels is applied to x yᵀ. Decays per channel cannot be drawn out of the
product: blocks of a few positions are written out, and a reader x_t meets the writers y_s of
earlier blocks at the border where its own block begins, the sum over s+1..t being one up to that
border plus one from it. All sums are made by adding, never as differences of running sums, so that
every decay that is finite, however large, is accurate.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# Positions in a block: on CPU 4 takes 0.8 of the time of 8, and 4 to 8 compile alike.
WRITTEN_OUT = 4


class Reader(NamedTuple):
    """What reads at every position."""

    x: Float[Array, "... C K"]
    own: bool  # whether it reads what its own step writes
    before: bool = False  # whether it reads before the decay of its own step


class Pairs(NamedTuple):
    """What a chunk needs of its decays; factors are None where nothing decays."""

    products: list[list[Float[Array, "... C C"]]]  # by reader and writer
    read: list[Float[Array, "... C #K"] | None]  # by reader, from the start of the chunk
    write: Float[Array, "... C #K"] | None  # from a writer to the end of the chunk
    whole: Float[Array, "... #K 1"] | None  # over the whole chunk


def decayed_pairs(
    readers: list[Reader],
    writers: list[Float[Array, "... C K"]],
    log_decay: Float[Array, "... C #K"] | None,
) -> Pairs:
    """All products P and the factors of the borders; C at most 4 or a multiple of it."""
    if log_decay is None:
        masks = [_past(r) for r in readers]
        products = [
            [jnp.where(m, r.x @ _t(y), 0) for y in writers]
            for r, m in zip(readers, masks, strict=True)
        ]
        return Pairs(products, [None] * len(readers), None, None)
    if log_decay.shape[-1] == 1:
        spans = _spans(log_decay)[..., 0]
        weights = [_weights(jnp.exp(spans), r) for r in readers]
        products = [
            [w * (r.x @ _t(y)) for y in writers] for r, w in zip(readers, weights, strict=True)
        ]
        prefix = spans[..., :1] + log_decay[..., :1, :]
        suffix = spans[..., -1, :, None]
    else:
        products, prefix, suffix = _per_channel(readers, writers, log_decay)
    read = [jnp.exp(_moved(prefix, r)) for r in readers]
    return Pairs(products, read, jnp.exp(suffix), _t(jnp.exp(prefix[..., -1:, :])))


def _t(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _past(reader: Reader) -> np.ndarray:
    size = reader.x.shape[-2]
    return np.tri(size, k=0 if reader.own else -1, dtype=bool)


def _moved(sums: Array, reader: Reader, axis: int = -2) -> Array:
    """What a reader before its own decay sees: the row before, nothing in the first."""
    if not reader.before:
        return sums
    rows = sums.ndim + axis
    padding = [(int(i == rows), 0) for i in range(sums.ndim)]
    return jnp.pad(lax.slice_in_dim(sums, 0, -1, axis=rows), padding)


def _weights(decay: Array, reader: Reader) -> Array:
    """exp(spans) as a reader sees it, [..., C, C]."""
    size = decay.shape[-1]
    past = np.tri(size, k=0 if reader.own else -1, dtype=bool)
    return jnp.where(past, _moved(decay, reader), 0)


def _spans(g: Float[Array, "... C K"]) -> Float[Array, "... C C K"]:
    """Sums [..., t, s, :] of g over s+1..t; 0 on the diagonal and above."""
    size = g.shape[-2]
    later = np.tri(size, k=-1, dtype=bool)[..., None]
    steps = jnp.where(later, g[..., :, None, :], 0)
    flat = steps.reshape(*g.shape[:-1], size * g.shape[-1])
    return _sums(np.tri(size), flat).reshape(steps.shape)


def _sums(which: np.ndarray, g: Array) -> Array:
    """Sums over axis -2 of g; in full precision, as they become exponents."""
    return jnp.matmul(which.astype(g.dtype), g, precision=lax.Precision.HIGHEST)


def _per_channel(
    readers: list[Reader], writers: list[Array], g: Array
) -> tuple[list[list[Array]], Array, Array]:
    """Products, sums of g from the start of the chunk, and sums of g after a position."""
    parts = -(-g.shape[-2] // WRITTEN_OUT)
    readers = [r._replace(x=_cut(r.x, parts)) for r in readers]
    writers, g = [_cut(y, parts) for y in writers], _cut(g, parts)
    spans = _spans(g)
    prefix, suffix = spans[..., 0, :] + g[..., :1, :], spans[..., -1, :, :]
    products = _written_out(readers, writers, jnp.exp(spans))
    if parts > 1:
        total = prefix[..., -1, :]
        reads = [r.x * jnp.exp(_moved(prefix, r)) for r in readers]
        writes = [y * jnp.exp(suffix) for y in writers]
        across = _across(reads, writes, _between(total))
        products = [
            [_uncut(a) + _block_diagonal(b) for a, b in zip(row_a, row_b, strict=True)]
            for row_a, row_b in zip(across, products, strict=True)
        ]
        i, j = np.indices((parts, parts))
        prefix = prefix + _sums(j < i, total)[..., None, :]
        suffix = suffix + _sums(j > i, total)[..., None, :]
    else:
        products = [[_uncut(b) for b in row] for row in products]
    return products, _uncut(prefix), _uncut(suffix)


def _cut(x: Array, parts: int) -> Array:
    return x.reshape(*x.shape[:-2], parts, -1, x.shape[-1])


def _uncut(x: Array) -> Array:
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def _written_out(readers: list[Reader], writers: list[Array], decay: Array) -> list[list[Array]]:
    """Products [..., M, c, c] inside the blocks, channel by channel."""
    products = []
    for reader in readers:
        past = np.tri(decay.shape[-2], k=0 if reader.own else -1, dtype=bool)[..., None]
        seen = jnp.where(past, reader.x[..., None, :] * _moved(decay, reader, -3), 0)
        products.append([jnp.sum(seen * y[..., None, :, :], -1) for y in writers])
    return products


def _between(total: Float[Array, "... M K"]) -> Float[Array, "... M M K"]:
    """The decay [..., i, j, :] over the blocks strictly between j and i; 0 where j >= i."""
    parts = total.shape[-2]
    i, j, l = np.indices((parts, parts, parts))
    sums = _sums(((j < l) & (l < i)).reshape(-1, parts), total)
    earlier = np.tri(parts, k=-1, dtype=bool)[..., None]
    return jnp.where(earlier, jnp.exp(sums).reshape(*total.shape[:-1], parts, -1), 0)


def _across(reads: list[Array], writes: list[Array], decay: Array) -> list[list[Array]]:
    """Products [..., M, c, C] of readers with the writers of earlier blocks."""
    size = reads[0].shape[-2]
    x = jnp.concatenate(reads, axis=-2)
    products = []
    for y in writes:
        at_border = y[..., None, :, :, :] * decay[..., None, :]
        y = at_border.reshape(*at_border.shape[:-3], -1, y.shape[-1])
        products.append(jnp.split(x @ _t(y), x.shape[-2] // size, axis=-2))
    return [list(row) for row in zip(*products, strict=True)]


def _block_diagonal(x: Float[Array, "... M c c"]) -> Float[Array, "... C C"]:
    parts, side = x.shape[-3], x.shape[-1]
    x = jnp.where(np.eye(parts, dtype=bool)[:, None, :, None], x[..., None, :], 0)
    return x.reshape(*x.shape[:-4], parts * side, parts * side)
