"""What mixers with sparse patterns have in common: projections, rotation, the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, get_args

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.attention.cache import KVCache, write
from seqzoo.models.linear import Linear
from seqzoo.models.ops.layout.segments import Segments, compact
from seqzoo.models.ops.softmax.block_sparse import attend, by_groups, join
from seqzoo.models.ops.softmax.local_blocks import run_tags
from seqzoo.models.ops.softmax.rope import rope

PositionKind = Literal["none", "rope"]
STREAM_GROUP = 64  # queries of a chunk whose keys are gathered at a time


class StreamPattern(Protocol):
    """What a stream needs to know of a pattern."""

    slots: int

    def keys(self, position: Int[Array, "*B"]) -> tuple[Int[Array, "*B n"], Bool[Array, "*B n"]]:
        """Positions of the keys that a query sees, and which of them count."""

    def place(self, position: Int[Array, "..."], length: Int[Array, "..."]) -> Int[Array, "..."]:
        """The slot of a token in a segment of `length`, `slots` if it is not kept."""


def projections(d_model: int, num_heads: int, **options) -> tuple[Linear, ...]:
    """Projections to queries, keys and values and back, after a check of the width."""
    if num_heads < 1 or d_model % num_heads:
        raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
    return tuple(Linear(d_model, d_model, **options) for _ in range(4))


def turner(kind: PositionKind, d_head: int) -> Callable[[Array, Array], Array]:
    """What positions do to queries and keys. Raises ValueError for what cannot be."""
    if kind not in get_args(PositionKind):
        raise ValueError(
            f"unknown positions={kind!r}; sparse attention has {', '.join(get_args(PositionKind))}"
            " (and the backbone adds others to the embeddings)"
        )
    if kind == "rope" and d_head % 2:
        raise ValueError(f"rotary positions turn pairs; got heads of odd width {d_head}")
    return rope if kind == "rope" else _unturned


def _unturned(x: Array, positions: Array) -> Array:
    return x


def heads(x: Float[Array, "B L D"], num_heads: int) -> Float[Array, "B L H K"]:
    """Cuts the last axis into heads."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def only_real(layout: Segments, *rows: Array) -> tuple[Array, ...]:
    """Zeros at padding, so that what stands there gets into no product."""
    if not layout.masked:
        return rows
    return tuple(
        jnp.where(layout.valid.reshape(*layout.valid.shape, *(1,) * (x.ndim - 2)), x, 0)
        for x in rows
    )


def empty_cache(batch: int, slots: int, num_heads: int, d_head: int, dtype: DTypeLike) -> KVCache:
    """A cache of no tokens."""
    zeros = jnp.zeros((batch, slots, num_heads, d_head), dtype)
    return KVCache(zeros, zeros, jnp.zeros(batch, jnp.int32))


def attend_stream(
    q: Float[Array, "B C H K"],
    k: Float[Array, "B C H K"],
    v: Float[Array, "B C H V"],
    cache: KVCache,
    layout: Segments,
    pattern: StreamPattern,
    scale: float,
) -> tuple[Float[Array, "B C H V"], KVCache]:
    """Causal attention of a chunk to the keys that `pattern` lists, kept or in the chunk.

    Cost of a token: O(n K) per head for n listed keys.
    """
    batch, count = q.shape[:2]
    position = jnp.broadcast_to(layout.position, (batch, count))
    tags = run_tags(layout, batch, count)
    after = write(cache, k, v, position, tags, pattern.place)
    rows = compact(layout) if layout.masked else None
    if rows is not None:
        q, k, v, position, tags = (rows.pack(x) for x in (q, k, v, position, tags))
    key, fine = pattern.keys(position)
    begin = jnp.where(tags == 1, cache.length[:, None], 0)[..., None]  # of the run, in the chunk
    here = pattern.slots + jnp.arange(count)[:, None] - (position[..., None] - key)
    index = jnp.where(key >= begin, here, pattern.place(key, key + 1))
    fine = fine & (tags > 0)[..., None]
    index = jnp.clip(index, 0, pattern.slots + count - 1)
    ks, vs = (
        jnp.concatenate([old.astype(new.dtype), new], 1)
        for old, new in ((cache.k, k), (cache.v, v))
    )

    def run(q: Array, index: Array, fine: Array, ks: Array, vs: Array):
        return attend(q, _pick(ks, index), _pick(vs, index), fine[:, :, None], scale)

    queries = q[:, :, None], index, fine
    o = join([by_groups(run, *queries, whole=(ks, vs), most=STREAM_GROUP)])[:, :, 0]
    return (o if rows is None else rows.unpack(o)), after


def _pick(x: Float[Array, "B S H K"], index: Int[Array, "B C n"]) -> Float[Array, "B C n H K"]:
    flat = index.reshape(index.shape[0], -1, 1, 1)
    return jnp.take_along_axis(x, flat, axis=1).reshape(*index.shape, *x.shape[2:])
