"""Products of pairs under decay for one head of a chunk, as a kernel for TPUs computes them.

The same as in `decayed_pairs.py`, with nothing but whole matrices [C, K] and [C, C] for C a power
of two. Positions t and s < t meet at the middle of the smallest block, of a power of two, that has
both: log2 of its half is the level of the pair. At every level a position has one sum, up to that
border or from it, made by adding; one product of matrix units gives all pairs, of which those of
the level are taken.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

SUBLANES = 8  # rows of a vector

# Products by reader and writer, readers, writers, decay of a whole chunk: the fields of `Pairs`.
Fields = tuple[list[list[Array]], list[Array], list[Array], Array | None]


class Reader(NamedTuple):
    """What reads at every position."""

    x: Float[Array, "... C K"]
    own: bool  # whether it reads what its own step writes
    before: bool = False  # whether it reads before the decay of its own step


class Decay(NamedTuple):
    """Log decays of a head's chunk, a column for each channel or one for all of them."""

    g: Float[Array, "C #K"] | None


class Sums(NamedTuple):
    """Log decays over spans, each made by adding."""

    levels: list[Float[Array, "C K"]]  # between a position and the border of each level
    start: Float[Array, "C K"]  # up to each position
    end: Float[Array, "C K"]  # behind it
    whole: Float[Array, "C K"]  # of all, in every row


def pairs(readers: list[Reader], writers: list[Float[Array, "C K"]], decay: Decay) -> Fields:
    """What `decayed_pairs` gives."""
    g = decay.g
    if g is None:
        return _without(readers, writers)
    return (_per_head if g.shape[1] == 1 else _per_channel)(readers, writers, g)


def column(row: Float[Array, "1 N"]) -> Float[Array, "N 1"]:
    """A row turned."""
    n = row.shape[1]
    return jnp.sum(jnp.where(_index(n, n, 0) == _index(n, n, 1), row, 0), 1, keepdims=True)


def _index(rows: int, columns: int, axis: int) -> Int[Array, "rows columns"]:
    return lax.broadcasted_iota(jnp.int32, (rows, columns), axis)


def _roll(x: Array, by: int) -> Array:
    from jax.experimental.pallas import tpu

    return tpu.roll(x, by % len(x), 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _swapped(x: Float[Array, "C K"], size: int) -> Float[Array, "C K"]:
    """Neighbouring blocks of `size` rows each in the other's place."""
    if size % SUBLANES:
        second = _index(*x.shape, 0) & size != 0
        return jnp.where(second, _roll(x, size), _roll(x, -size))
    blocks = [x[i : i + size] for i in range(0, len(x), size)]
    return jnp.concatenate([blocks[i ^ 1] for i in range(len(blocks))])


_swapped.defvjp(lambda x, size: (_swapped(x, size), None), lambda size, _, d: (_swapped(d, size),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _shifted(x: Float[Array, "C K"], by: int) -> Float[Array, "C K"]:
    """Rows one further down for by = 1, up for -1; what no row moves to is 0."""
    free = 0 if by > 0 else len(x) - 1
    return jnp.where(_index(*x.shape, 0) == free, 0, _roll(x, by))


_shifted.defvjp(lambda x, by: (_shifted(x, by), None), lambda by, _, d: (_shifted(d, -by),))


def _before(decays: Float[Array, "C K"]) -> Float[Array, "C K"]:
    """As readers before the decay of their step see them: the row before, 1 in the first."""
    return jnp.where(_index(*decays.shape, 0) == 0, 1, _shifted(decays, 1))


def _sums(g: Float[Array, "C K"]) -> Sums:
    start = whole = g
    end, levels, size = jnp.zeros_like(g), [], 1
    while size < len(g):
        second = _index(*g.shape, 0) & size != 0
        levels.append(jnp.where(second, start, end))
        other = _swapped(whole, size)
        start, end = start + jnp.where(second, other, 0), end + jnp.where(second, 0, other)
        whole, size = whole + other, 2 * size
    return Sums(levels, start, end, whole)


def _per_channel(readers: list[Reader], writers: list[Array], g: Array) -> Fields:
    sums, size = _sums(g), len(g)
    from_start, to_end = jnp.exp(sums.start), jnp.exp(sums.end)
    # What reads before its decay reads as the step before it does, its own included.
    xs = [_shifted(r.x, -1) if r.before else r.x for r in readers]
    all_products, bits = _all_pairs(xs, writers, sums.levels)
    products, reads = [], []
    for i, (r, x) in enumerate(zip(readers, xs, strict=True)):
        own = [all_products[i * size :][:size, j * size :][:, :size] for j in range(len(writers))]
        if r.own or r.before:
            dots = [jnp.sum(x * y, 1, keepdims=True) for y in writers]
            own = [jnp.where(bits == 0, d, p) for d, p in zip(dots, own, strict=True)]
        products.append([_shifted(p, 1) for p in own] if r.before else own)
        reads.append(r.x * (_before(from_start) if r.before else from_start))
    return products, reads, [y * to_end for y in writers], column(jnp.exp(sums.whole[:1]))


def _all_pairs(xs: list[Array], ys: list[Array], levels: list[Array]) -> tuple[Array, Array]:
    """Products of all readers with all writers, level by level; and the bits of each pair.

    The highest bit of t xor s is its level; -1 stands above the diagonal.
    """
    size = len(levels[0])
    x, y = jnp.concatenate(xs), jnp.concatenate(ys)
    t, s = (_index(len(x), len(y), axis) & (size - 1) for axis in (0, 1))
    bits = jnp.where(t >= s, t ^ s, -1)
    product = jnp.zeros(bits.shape, x.dtype)
    for level, span in enumerate(levels):
        decay = jnp.exp(span)
        of_x, of_y = (z * jnp.concatenate([decay] * (len(z) // size)) for z in (x, y))
        product = jnp.where(bits >> level == 1, _dots(of_x, of_y), product)
    return product, bits[:size, :size]


def _per_head(readers: list[Reader], writers: list[Array], g: Array) -> Fields:
    size = len(g)
    t, s = _index(size, size, 0), _index(size, size, 1)
    spans = _added(t >= s, jnp.where(t > s, g, 0))  # over s+1..t
    start, end = spans[:, :1] + g[:1], column(spans[-1:])
    decays, from_start, to_end = jnp.exp(spans), jnp.exp(start), jnp.exp(end)
    products, _, _, _ = _without(readers, writers)
    products = [
        [(_before(decays) if r.before else decays) * p for p in ps]
        for r, ps in zip(readers, products, strict=True)
    ]
    reads = [r.x * (_before(from_start) if r.before else from_start) for r in readers]
    return products, reads, [y * to_end for y in writers], from_start[-1:]


def _without(readers: list[Reader], writers: list[Array]) -> Fields:
    size = len(writers[0])
    t, s = _index(size, size, 0), _index(size, size, 1)
    products = [
        [jnp.where(t >= s if r.own else t > s, _dots(r.x, y), 0) for y in writers] for r in readers
    ]
    return products, [r.x for r in readers], writers, None


def _dots(x: Float[Array, "C K"], y: Float[Array, "C K"]) -> Float[Array, "C C"]:
    """x yᵀ, by matrix units that turn y themselves."""
    return lax.dot_general(x, y, (((1,), (1,)), ((), ())))


def _added(which: Array, x: Array) -> Array:
    """Sums of rows, as exact as adding them."""
    return jnp.matmul(which.astype(x.dtype), x, precision=lax.Precision.HIGHEST)
