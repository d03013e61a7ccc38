"""Log-linear attention: a state for each power of two of the past (Guo et al. 2025, 2506.04761).

    o_t = Σ_s λ_t[l(t, s)] (q_t · Π_{r=s+1..t} T_r k_s) v_s,   l(t, s) = bits of t xor s

with T the transition of linear attention or of a delta rule, t and s counted from the start of a
segment. l is the level of s in the Fenwick tree of t: 0 for t itself, l for a bucket of 2^(l-1)
tokens (section 3.1). The last level also holds all that is older, where the paper has as many as
the longest row needs.

After n tokens there is one bucket for each bit that is set in n, each with a state. A chunk of C
steps reads all of them; a token t sees bucket b at level max(b + 1, bits of t xor n). Behind the
chunk, at n', what is below the highest bit of n xor n' is one bucket, and its tokens fall into
those that n' has. That holds wherever chunks begin, so rows may be packed and continued anywhere.
Where they begin at multiples of C, the buckets below are empty and left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence, delayed, parts, running
from seqzoo.models.ops.matrix import chunked_delta, gated_linear
from seqzoo.models.ops.matrix.chunks import ChunkMap, check_decays, decays, kept, over_chunks
from seqzoo.models.ops.matrix.decayed_pairs import Masks, PerHead, joined

WRITTEN_OUT = 8  # tokens of a block whose levels are told apart one by one

States = Float[Array, "B H M K V"]
Counts = tuple[Int[Array, "B L 1 1"], Int[Array, "B L 1 1"]]


@op(rows="q")
def log_linear_attention(
    q: Float[Array, "B L G K"],
    k: Float[Array, "B L G K"],
    v: Float[Array, "B L H V"],
    levels: Float[Array, "B L H M+1"],
    log_decay: Float[Array, "..."] | None = None,
    s0: States | None = None,
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L H V"], States | None]:
    """`gated_linear_attention` whose outputs weigh what each of M + 1 levels holds.

    Args:
        q: queries, of H heads or of fewer, G, that divide H.
        k: keys, of q's shape.
        v: values.
        levels: λ, the weight of each level, that of the token itself first.
        log_decay: at most 0, broadcasts to [B, L, H, K]; a last axis of size 1 is one decay a head.
        s0: the buckets before the first step, where there were some. None: rows begin.
        scale: factor on the outputs.
        chunk_size: steps per chunk, rounded up to a power of two; results do not depend on it.
        segment_ids: layout of the rows.

    Returns:
        o in the common dtype of q, k and v, and the buckets after the last real token in at least
        float32, in which everything inside is computed; None without s0.

    Raises:
        ValueError: for shapes that do not fit or a chunk size below 1.
    """
    _check("log_linear_attention", q, k, v, levels, log_decay, s0, chunk_size)
    size = chunk_size or gated_linear.default_chunk(q.shape[-1], v.shape[-1])
    return _run(_linear, size, (q, k, v), levels, log_decay, s0, segment_ids, scale)


@op(rows="q")
def log_linear_delta_rule(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H V"],
    beta: Float[Array, "B L H"],
    levels: Float[Array, "B L H M+1"],
    log_decay: Float[Array, "..."] | None = None,
    s0: States | None = None,
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L H V"], States | None]:
    """`gated_delta_rule` whose outputs weigh what each of M + 1 levels holds.

    The correction of a step acts on every bucket.

    Args:
        q: queries.
        k: keys, of norm at most about 1, as of `gated_delta_rule`.
        v: values.
        beta: share of the correction that is made.
        levels: λ, the weight of each level, that of the token itself first.
        log_decay: at most 0, broadcasts to [B, L, H, K]; a last axis of size 1 is one decay a head.
        s0: the buckets before the first step, where there were some. None: rows begin.
        scale: factor on the outputs.
        chunk_size: steps per chunk, rounded up to a power of two; results do not depend on it.
        segment_ids: layout of the rows.

    Returns:
        What `log_linear_attention` does.

    Raises:
        ValueError: for shapes that do not fit or a chunk size below 1.
    """
    name = "log_linear_delta_rule"
    _check(name, q, k, v, levels, log_decay, s0, chunk_size)
    if q.shape[2] != v.shape[2] or beta.shape != q.shape[:3]:
        raise ValueError(
            f"{name}: beta must be [B, L, H] = {v.shape[:3]}, as q without its last axis; got "
            f"{beta.shape} and q {q.shape}"
        )
    k = k.astype(jnp.promote_types(k.dtype, jnp.float32))
    size = chunk_size or chunked_delta.default_chunk(q.shape[-1])
    rows = (q, -k, beta[..., None] * k, v)
    return _run(_delta, size, rows, levels, log_decay, s0, segment_ids, scale)


def _check(name: str, q, k, v, levels, log_decay, s0, chunk_size) -> None:
    if q.ndim != 4 or k.shape != q.shape:
        raise ValueError(
            f"{name}: q and k must have one shape [B, L, H, K]; got {q.shape}, {k.shape}"
        )
    if v.ndim != 4 or v.shape[:2] != q.shape[:2] or v.shape[2] % q.shape[2]:
        raise ValueError(
            f"{name}: v must be [B, L, H, V] with q's {q.shape[:2]} and H a multiple of its heads; "
            f"got {v.shape} for q {q.shape}"
        )
    if levels.ndim != 4 or levels.shape[:3] != v.shape[:3] or levels.shape[3] < 2:
        raise ValueError(
            f"{name}: levels must be [B, L, H, M + 1] with v's {v.shape[:3]} and M at least 1; got "
            f"{levels.shape}"
        )
    check_decays(name, log_decay, (*v.shape[:3], q.shape[3]))
    state = (q.shape[0], v.shape[2], levels.shape[3] - 1, q.shape[3], v.shape[3])
    if s0 is not None and s0.shape != state:
        raise ValueError(f"{name}: s0 must be [B, H, M, K, V] = {state}; got {s0.shape}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{name}: chunk_size must be at least 1; got {chunk_size}")


def _run(
    chunk: Callable[..., tuple[ChunkMap, Array]],
    size: int,
    rows: tuple[Array, ...],
    levels: Array,
    log_decay: Array | None,
    s0: States | None,
    segment_ids: Int[Array, "B L"] | Segments | None,
    scale: float,
) -> tuple[Array, States | None]:
    out_dtype = jnp.result_type(*rows)
    dtype = jnp.promote_types(out_dtype, jnp.float32)
    (batch, length, _, keys), (heads, values) = rows[0].shape, rows[-1].shape[2:]
    layout = as_segments(segment_ids, length)
    g = None if log_decay is None else decays(log_decay, length, heads, dtype)
    if layout.masked:
        valid = layout.valid[:, :, None, None]
        rows = tuple(jnp.where(valid, x, 0) for x in rows)
        g = None if g is None else jnp.where(valid, g, 0)
    if not length:
        return rows[-1].astype(out_dtype), s0
    size = chunked_delta.power_of_two(min(size, length))
    first, used, fresh = 0, levels.shape[-1] - 1, s0 is None
    aligned = fresh and not layout.masked and parts(length) == 1  # chunks begin at multiples of C
    if fresh:
        used = min(used, length.bit_length())
        first = min(size.bit_length() - 1, used - 1) if aligned else 0
        s0 = jnp.zeros((batch, heads, used - first, keys, values), dtype)
    shared = (chunk, size, first, aligned)
    inputs = (rows, levels.astype(dtype), _counts(layout, fresh), g, layout)
    o, s_last = _ROWS(shared, inputs, s0.astype(jnp.promote_types(s0.dtype, dtype)))
    return (scale * o).astype(out_dtype), None if fresh else s_last


def _counts(layout: Segments, fresh: bool) -> Counts:
    """Of each token: its place in its segment; and how many the state before it has seen."""
    position = layout.position
    if fresh and not layout.masked:
        position = jnp.arange(position.shape[1])[None]
    before = position
    if layout.masked:
        seen = running(lax.cummax, jnp.maximum, layout.valid.astype(jnp.int32), 0)
        after = position + seen
        before = delayed(after, position[:, 0])
    return position[..., None, None], before[..., None, None]


def _rows(shared: tuple, inputs: tuple, s0: States) -> tuple[Array, States]:
    (chunk, size, *where), (rows, levels, counts, g, layout) = shared, inputs
    counts = jax.tree.map(lambda x: jnp.broadcast_to(x, (s0.shape[0], *x.shape[1:])), counts)
    valid = layout.valid if layout.masked else jnp.ones(counts[0].shape[:2], bool)
    rows = (rows, levels, (*counts, valid[..., None, None].astype(jnp.int32)))
    step = functools.partial(_step, chunk, *where, s0.dtype)
    s_last, o = over_chunks(None, s0, rows, g, layout, size, step=step)
    return o, s_last


def _summarize(shared: tuple, inputs: tuple, nothing: States) -> tuple[tuple, States]:
    """What becomes of the buckets: a matrix, kept beside the last one's values, and the counts."""
    rows, (position, before), layout = inputs[0], inputs[2], inputs[-1]
    keys = nothing.shape[-2]
    wider = jnp.pad(rows[-1], ((0, 0),) * 3 + ((keys, 0),))
    one = jnp.zeros((*nothing.shape[:-1], keys), nothing.dtype)
    one = one.at[:, :, -1].set(jnp.eye(keys, dtype=nothing.dtype))
    first = jnp.concatenate([one, nothing], -1)
    s = _rows(shared, ((*rows[:-1], wider), *inputs[1:]), first)[1]
    last = position[:, -1] + 1
    if layout.masked:
        last = jnp.where(layout.valid[:, -1, None, None], last, before[:, -1])
    counts = (jnp.broadcast_to(x, (nothing.shape[0], 1, 1)) for x in (before[:, 0], last))
    return (s[:, :, -1, :, :keys], *counts), s[..., keys:]


def _compose(shared: tuple, passed: tuple, own: States, s: States) -> States:
    keep, before, last = passed
    return kept(keep[:, :, None], _merged(s, before[..., None], last[..., None], shared[2])) + own


_ROWS = Recurrence(_rows, _summarize, _compose)


def _linear(
    rows: tuple, g: PerHead | Array | None, masks: Masks | None, dtype: DTypeLike
) -> tuple[ChunkMap, Array]:
    q, k, v = (x.astype(dtype) for x in rows)
    return gated_linear.chunk_map(q, k, g, masks, v.shape[1]), v


def _delta(
    rows: tuple, g: PerHead | Array | None, masks: Masks | None, dtype: DTypeLike
) -> tuple[ChunkMap, Array]:
    q, a, b, v = (x.astype(dtype) for x in rows)
    return chunked_delta.chunk_map(q, a, b, g, masks), v


def _step(
    chunk: Callable[..., tuple[ChunkMap, Array]],
    first: int,
    aligned: bool,
    dtype: DTypeLike,
    s: States,
    rows: tuple,
    g: PerHead | Array | None,
    masks: Masks | None,
) -> tuple[States, Array]:
    """One chunk: the buckets after it and its outputs [B, H, C, V]; `first`: the lowest bucket."""
    rows, levels, (position, before, valid) = rows
    own, v = chunk(rows, g, masks, dtype)
    top, size = levels.shape[-1] - 1, position.shape[-2]
    bucket = first + jnp.arange(s.shape[2])
    start = before[..., :1, :]
    last = jnp.where(valid[..., -1:, :] > 0, position[..., -1:, :] + 1, before[..., -1:, :])
    whole = aligned and size & (size - 1) == 0  # one chunk may be as short as the row
    weights = _inside(levels) if whole else _weights(levels, position)
    since = _bits(position ^ start, top)  # how far a token has gone from the chunk's start
    own_level = jnp.sum(jnp.where(since == jnp.arange(top + 1), levels, 0), -1, keepdims=True)
    above = levels[..., 1 + first : 1 + first + s.shape[2]]
    reads = jnp.where(bucket + 1 >= since, above, own_level)[..., None] * own.read[..., None, :]
    flat = s.reshape(*s.shape[:2], -1, s.shape[-1])
    o = (own.within * weights) @ v + reads.reshape(*reads.shape[:3], -1) @ flat
    falls = _bits(position ^ last, top) - 1 == bucket  # [B, 1, C, M]
    s = kept(None if own.keep is None else own.keep[:, :, None], _merged(s, start, last, first))
    if aligned:  # all of a chunk falls into one
        return s + jnp.where(falls[..., 0, :, None, None], (own.write @ v)[:, :, None], 0), o
    writes = jnp.where(falls[..., None], jnp.swapaxes(own.write, -1, -2)[..., None, :], 0)
    writes = jnp.swapaxes(writes.reshape(*writes.shape[:3], -1), -1, -2)
    return s + (writes @ v).reshape(s.shape), o


def _weights(
    levels: Float[Array, "B H C M+1"], position: Int[Array, "B 1 C 1"]
) -> Float[Array, "B H C C"]:
    """λ_t[l(t, s)] of each two tokens, where s is not behind t."""
    top = levels.shape[-1] - 1
    pairs = _bits(position ^ jnp.swapaxes(position, -1, -2), top)
    return sum(jnp.where(pairs == i, levels[..., i : i + 1], 0) for i in range(top + 1))


def _inside(levels: Float[Array, "B H C M+1"]) -> Float[Array, "B H C C"]:
    """The same in a chunk that begins at a multiple of its size: neighbouring blocks are joined."""
    size, top = levels.shape[-2], levels.shape[-1] - 1
    block = min(WRITTEN_OUT, size)
    rows = levels.reshape(*levels.shape[:2], -1, block, top + 1)
    place = jnp.arange(block)[:, None]
    weights = _weights(rows[..., : min(block.bit_length(), top + 1)], place)
    level = block.bit_length()
    while block < size:
        rows = rows.reshape(*rows.shape[:2], -1, 2 * block, top + 1)
        corner = rows[..., block:, min(level, top), None]
        weights = joined(weights, jnp.broadcast_to(corner, (*corner.shape[:-1], block)))
        block, level = 2 * block, level + 1
    return weights[..., 0, :, :]


def _merged(
    s: States, start: Int[Array, "B 1 1 1"], last: Int[Array, "B 1 1 1"], first: int
) -> States:
    """The buckets of `start` tokens as those of `last`."""
    bucket = first + jnp.arange(s.shape[2])[:, None, None]
    high = _bits(start ^ last, bucket.shape[0] + first)[..., None] - 1
    lower: Bool[Array, "B 1 M 1 1"] = bucket <= high
    together = jnp.sum(jnp.where(lower, s, 0), 2, keepdims=True)
    return jnp.where(bucket == high, together, jnp.where(lower, 0, s))


def _bits(x: Int[Array, "..."], most: int) -> Int[Array, "..."]:
    """How many bits x has, at most `most`."""
    return jnp.minimum(32 - lax.clz(x.astype(jnp.int32)), most)
