"""Products of pairs of positions in a chunk under decay, without an exponent above zero.

    P_ts = Σ_c x_tc y_sc exp(g_{s+1,c} + ... + g_tc),  s <= t,  g = log decay <= 0

Sums are made by adding, never as differences of running sums, and decays over adjoining spans are
multiplied, so that every decay that is finite, however large, is accurate. A decay common to all
channels is applied to x yᵀ. Decays per channel cannot be drawn out of the product: blocks of a few
positions are written out, then neighbours are joined until one is left. Readers of the second of
two blocks meet writers of the first at the border between them, which no exponent crosses.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.ops.layout.cpu import column_and_row
from seqzoo.models.ops.matrix import on_chip
from seqzoo.models.ops.matrix.on_chip import Decay, Reader

# Positions in a block: on CPU 4 takes 0.8 of the time of 8, and 4 to 8 compile alike.
WRITTEN_OUT = 4

# Positions whose sums one product makes: more make it dearer, fewer are joined in more steps.
JOINED = 32


class Pairs(NamedTuple):
    """What a chunk needs: products, and what meets the state before and behind it."""

    products: list[list[Float[Array, "... C C"]]]  # by reader and writer
    reads: list[Float[Array, "... C K"]]  # readers, decayed from the start of the chunk
    writes: list[Float[Array, "... C K"]]  # writers, decayed to its end
    whole: Float[Array, "... #K 1"] | None  # decay over the whole chunk; None for none


class Masks(NamedTuple):
    """Which positions of a chunk belong together, per row."""

    same: Bool[Array, "... C C"]  # two positions of one segment
    enters: Bool[Array, "... C 1"]  # the carried state belongs to this position's segment
    leaves: Bool[Array, "... C 1"]  # the position belongs to the segment that goes on
    stays: Bool[Array, "... 1 1"]  # the carried state goes on


class PerHead(NamedTuple):
    """Decays that all channels have in common, and what their sums in a chunk become.

    Each sum is one of multiples of a power of two, which is exact, and one of what is left, which
    is small.
    """

    g: Float[Array, "... C 1"]
    columns: tuple[Float[Array, "... C 1"], Float[Array, "... C 1"]]  # sums up to each position
    rows: tuple[Float[Array, "... 1 C"], Float[Array, "... 1 C"]]  # the same
    from_start: Float[Array, "... C 1"]  # decay up to each position
    to_end: Float[Array, "... C 1"]  # and behind it


# None for none; of one head in a kernel `Decay`.
Decays = PerHead | Float[Array, "... C K"] | Decay | None


def masks_of(run: Int[Array, "... C 1"], carried: Int[Array, "... 1 1"]) -> Masks:
    """From the numbers of the segments of a chunk and of the carried state."""
    last = run[..., -1:, :]
    return Masks(run == _t(run), run == carried, run == last, last == carried)


def at_borders(pairs: Pairs, masks: Masks | None) -> Pairs:
    """Nothing passes between segments."""
    if masks is None:
        return pairs
    products = [[jnp.where(masks.same, p, 0) for p in row] for row in pairs.products]
    reads = [jnp.where(masks.enters, x, 0) for x in pairs.reads]
    writes = [jnp.where(masks.leaves, y, 0) for y in pairs.writes]
    whole = jnp.where(masks.stays, 1.0 if pairs.whole is None else pairs.whole, 0)
    return Pairs(products, reads, writes, whole.astype(reads[0].dtype))


def for_heads(x: Float[Array, "*B G C D"], heads: int) -> Float[Array, "*B H C D"]:
    """What the heads of a group share, for each of them; one head's stays as it is."""
    if x.ndim == 2 or x.shape[-3] == heads:
        return x
    return jnp.repeat(x, heads // x.shape[-3], axis=-3)


def whole_blocks(size: int) -> int:
    """The least number of positions, at least `size`, that `decayed_pairs` takes."""
    return -(-size // _parts(size)) * _parts(size)


def _parts(size: int) -> int:
    """How many blocks, a power of two, of at least `WRITTEN_OUT` positions."""
    return 1 << max(size // WRITTEN_OUT, 1).bit_length() - 1


def prepared(log_decay: Float[Array, "... C #K"] | None) -> PerHead | Array | None:
    """What `decayed_pairs` takes: few numbers, made for all chunks at once, or log decays."""
    return per_head(log_decay) if log_decay is not None and log_decay.shape[-1] == 1 else log_decay


def per_head(g: Float[Array, "... C 1"]) -> PerHead:
    """The sums of log decays that are at least that of the smallest number."""
    kind, size = jnp.finfo(g.dtype), g.shape[-2]
    most = size * -float(np.log(kind.tiny))
    grid = 2.0 ** (math.ceil(math.log2(most)) - kind.nmant)
    coarse = lax.stop_gradient(jnp.round(g / grid) * grid)
    # As one product of few: a running sum is many small steps on CPU.
    up_to, behind = np.tri(size).T, np.tri(size, k=-1)
    which = np.concatenate([up_to, behind], 1)
    (coarse, coarse_behind), (fine, fine_behind) = (
        jnp.split(_product(x[..., 0], which), 2, -1) for x in (coarse, g - coarse)
    )
    columns, rows = zip(*(column_and_row(x[..., None]) for x in (coarse, fine)), strict=True)
    return PerHead(g, columns, rows, _exp(*columns), _exp(coarse_behind, fine_behind)[..., None])


@jax.custom_jvp
def _exponents(decay: PerHead) -> Float[Array, "... C C"]:
    """Sums of g over s+1..t."""
    coarse, fine = (column - row for column, row in zip(decay.columns, decay.rows, strict=True))
    return coarse + fine


@_exponents.defjvp
def _exponents_jvp(primals, tangents):
    # By adding: the transpose adds too, where that of differences would lose small gradients.
    return _exponents(*primals), _by_adding(tangents[0].g)


def decayed_pairs(
    readers: list[Reader],
    writers: list[Float[Array, "... C K"]],
    decay: Decays,
) -> Pairs:
    """All products P and what meets the states; C as `whole_blocks`, decays as `prepared` gives.

    Decays may be of several times as many heads as readers and writers; so is what comes then.
    """
    if isinstance(decay, Decay):
        return Pairs(*on_chip.pairs(readers, writers, decay))
    if decay is None:
        products = [[jnp.where(_past(r), r.x @ _t(y), 0) for y in writers] for r in readers]
        return Pairs(products, [r.x for r in readers], writers, None)
    if not isinstance(decay, PerHead):
        heads = decay.shape[1]
        readers = [r._replace(x=for_heads(r.x, heads)) for r in readers]
        return _per_channel(readers, [for_heads(y, heads) for y in writers], decay)
    heads = decay.g.shape[1]
    weights = [_weights(decay, r) for r in readers]
    products = [
        [w * for_heads(r.x @ _t(y), heads) for y in writers]
        for r, w in zip(readers, weights, strict=True)
    ]
    reads = [for_heads(r.x, heads) * _moved(decay.from_start, r, 1) for r in readers]
    writes = [for_heads(y, heads) * decay.to_end for y in writers]
    return Pairs(products, reads, writes, decay.from_start[..., -1:, :])


def _exp(coarse: Float[Array, "..."], fine: Float[Array, "..."]) -> Float[Array, "..."]:
    """exp of a sum in two parts."""
    coarse = jnp.exp(coarse)
    return coarse + coarse * jnp.expm1(fine)  # of a product of powers XLA makes one, of the sum


def _t(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _past(reader: Reader) -> np.ndarray:
    return np.tri(reader.x.shape[-2], k=0 if reader.own else -1, dtype=bool)


def _moved(rows: Array, reader: Reader, first: float, axis: int = -2) -> Array:
    """What a reader before its own decay sees: the row before, and in the first `first`."""
    if not reader.before:
        return rows
    axis += rows.ndim
    padding = [(int(i == axis), 0) for i in range(rows.ndim)]
    return jnp.pad(lax.slice_in_dim(rows, 0, -1, axis=axis), padding, constant_values=first)


def _by_adding(g: Float[Array, "... C 1"]) -> Float[Array, "... C C"]:
    """Sums of g over s+1..t, and nothing for t <= s; neighbouring blocks are joined."""
    parts = max(1, _parts(g.shape[-2]) * WRITTEN_OUT // JOINED)
    g = _cut(g, parts)
    sums = _spans(g)[..., 0]
    prefix, suffix = sums[..., :1] + g[..., :1, :], sums[..., -1:, :]
    while parts > 1:
        sums = joined(sums, _second(prefix) + _first(suffix))
        total = prefix[..., -1:, :]
        prefix = _pair(_first(prefix), _second(prefix) + _first(total))
        suffix = jnp.concatenate([_first(suffix) + _second(total), _second(suffix)], -1)
        parts //= 2
    return sums[..., 0, :, :]


def _weights(decay: PerHead, reader: Reader) -> Float[Array, "... C C"]:
    """Decays as a reader sees them."""
    exponents = _moved(_exponents(decay), reader, 0)
    return jnp.exp(jnp.where(_past(reader), exponents, -jnp.inf))


def _spans(g: Float[Array, "... C K"]) -> Float[Array, "... C C K"]:
    """Sums [..., t, s, :] of g over s+1..t; 0 on the diagonal and above."""
    size = g.shape[-2]
    later = np.tri(size, k=-1, dtype=bool)[..., None]
    steps = jnp.where(later, g[..., :, None, :], 0)
    flat = steps.reshape(*g.shape[:-1], size * g.shape[-1])
    return _product(np.tri(size), flat).reshape(steps.shape)


def _product(x: Array | np.ndarray, y: Array | np.ndarray) -> Array:
    """Sums of log decays; in full precision, as they become exponents."""
    dtype = jnp.result_type(*(a for a in (x, y) if isinstance(a, jax.Array)))
    return jnp.matmul(jnp.asarray(x, dtype), jnp.asarray(y, dtype), precision=lax.Precision.HIGHEST)


def _per_channel(readers: list[Reader], writers: list[Array], g: Array) -> Pairs:
    parts = _parts(g.shape[-2])
    readers = [r._replace(x=_cut(r.x, parts)) for r in readers]
    writers, g = [_cut(y, parts) for y in writers], _cut(g, parts)
    spans = _spans(g)
    prefix, total = spans[..., 0, :] + g[..., :1, :], g.sum(-2, keepdims=True)
    decay = jnp.exp(spans)
    products = [[_written_out(r, y, decay) for y in writers] for r in readers]
    from_start = jnp.exp(prefix)
    reads = [r.x * _moved(from_start, r, 1) for r in readers]
    writes = [y * decay[..., -1, :, :] for y in writers]
    while parts > 1:
        corners = [[_second(x) @ _t(_first(y)) for y in writes] for x in reads]
        products = [
            [joined(p, corner) for p, corner in zip(*rows, strict=True)]
            for rows in zip(products, corners, strict=True)
        ]
        over = jnp.exp(total)
        reads = [_pair(_first(x), _second(x) * _first(over)) for x in reads]
        writes = [_pair(_first(y) * _second(over), _second(y)) for y in writes]
        total = _first(total) + _second(total)
        parts //= 2
    products = [[p[..., 0, :, :] for p in row] for row in products]
    reads, writes = ([x[..., 0, :, :] for x in xs] for xs in (reads, writes))
    return Pairs(products, reads, writes, _t(jnp.exp(total[..., 0, :, :])))


def _written_out(reader: Reader, y: Array, decay: Array) -> Float[Array, "... M c c"]:
    """Products inside the blocks, channel by channel."""
    seen = reader.x[..., None, :] * _moved(decay, reader, 0, -3)
    return jnp.sum(jnp.where(_past(reader)[..., None], seen, 0) * y[..., None, :, :], -1)


def _first(x: Float[Array, "... 2M c K"]) -> Float[Array, "... M c K"]:
    return x.reshape(*x.shape[:-3], -1, 2, *x.shape[-2:])[..., 0, :, :]


def _second(x: Float[Array, "... 2M c K"]) -> Float[Array, "... M c K"]:
    return x.reshape(*x.shape[:-3], -1, 2, *x.shape[-2:])[..., 1, :, :]


def _pair(first: Array, second: Array) -> Float[Array, "... M 2c K"]:
    return jnp.concatenate([first, second], -2)


def joined(p: Float[Array, "... 2M c c"], corner: Float[Array, "... M c c"]) -> Array:
    """[[p_1, 0], [corner, p_2]] of each two blocks."""
    top = jnp.concatenate([_first(p), jnp.zeros_like(corner)], -1)
    return _pair(top, jnp.concatenate([corner, _second(p)], -1))


def _cut(x: Array, parts: int) -> Array:
    return x.reshape(*x.shape[:-2], parts, -1, x.shape[-1])
