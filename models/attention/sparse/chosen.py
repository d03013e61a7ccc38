"""What mixers have in common whose queries choose blocks of keys by what these hold.

Blocks of C tokens are counted from the start of the segment (`packed_blocks.py`). Of the blocks
before its own, which are complete, a query chooses some; its own it always sees. Scores of blocks
that are not chosen are put out of reach by more channels of queries and keys, one for each block:
0 or `-FAR` in a query where the key has a 1. So `attention` is used as it is, in rows that are
packed and in streams, and its cost is that of all blocks, K + N channels for K; a kernel that
leaves blocks out would need one choice for all queries that it takes at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.attention.cache import KVCache, write
from seqzoo.models.attention.sparse_parts import (
    PositionKind,
    empty_cache,
    heads,
    only_real,
    projections,
    turner,
)
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.models.ops.softmax.local_blocks import run_tags
from seqzoo.models.ops.softmax.packed_blocks import SegmentBlocks, blocks_by_tag, segment_blocks

FAR = 3e4  # as far as float16 goes; e^(-FAR / √K) is 0 for any K below 1,000


class Keys(NamedTuple):
    """Keys and values of rows, S of them, of which the last L are those of the queries."""

    k: Float[Array, "B S H K"]
    v: Float[Array, "B S H K"]
    blocks: SegmentBlocks
    tags: Int[Array, "B S"] | None  # of segments; None where `layout` says it
    positions: Int[Array, "B S"] | None
    layout: Segments

    def own(self) -> Int[Array, "#B S"]:
        """The block that each token is in."""
        size, place = self.blocks.tag.shape[2], self.blocks.place
        place = jnp.arange(self.k.shape[1])[None] if place is None else place
        return place // size

    def before(self, queries: int) -> tuple[Int[Array, "#B L"], Bool[Array, "#B L N"]]:
        """The block of each of the last queries, and which are blocks before it in its segment."""
        mine, number = self.own()[:, -queries:], jnp.arange(self.blocks.first.shape[1])
        first = jnp.take_along_axis(
            jnp.broadcast_to(self.blocks.first, (mine.shape[0], number.shape[0])), mine, 1
        )
        return mine, (number >= first[..., None]) & (number < mine[..., None])

    def attend(self, q: Float[Array, "B L H K"], window: int | None = None) -> Array:
        """Causal attention of the queries to all of these."""
        k, where = self.k, {"segment_ids": self.layout}
        if self.tags is not None:
            where = {"segment_ids": self.tags[:, -q.shape[1] :], "k_segment_ids": self.tags}
            where["q_positions"] = self.positions[:, -q.shape[1] :]
            where["k_positions"] = self.positions
        scale = self.v.shape[-1] ** -0.5
        return attention(q, k, self.v, causal=True, window=window, scale=scale, **where)

    def attend_chosen(self, q: Float[Array, "B L H K"], chosen: Bool[Array, "B L #H N"]) -> Array:
        """The same, to the blocks that are chosen alone."""
        count = chosen.shape[-1]
        away = jnp.broadcast_to(jnp.where(chosen, 0, -FAR), (*q.shape[:3], count))
        mark = self.own()[:, :, None, None] == jnp.arange(count)
        mark = jnp.broadcast_to(mark, (*self.k.shape[:3], count))
        wider = self._replace(k=jnp.concatenate([self.k, mark.astype(self.k.dtype)], -1))
        return wider.attend(jnp.concatenate([q, away.astype(q.dtype)], -1))


def best(
    scores: Float[Array, "B L H N"], before: Bool[Array, "#B L N"], top: int
) -> Bool[Array, "B L H N"]:
    """The `top` blocks of highest score among those before a query's own; no gradient passes."""
    before = before[:, :, None]
    scores = jnp.where(before, jax.lax.stop_gradient(scores), -jnp.inf)
    number = jnp.arange(scores.shape[-1])
    picked = jax.lax.top_k(scores, min(top, scores.shape[-1]))[1]
    return (picked[..., None] == number).any(-2) & before


class ChosenBlocks(Mixer):
    """Projections, positions and the stream; a subclass says what queries do with `Keys`."""

    state_growth = "linear"

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        block_size: int,
        top: int,
        positions: PositionKind,
        use_bias: bool,
        max_length: int,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if min(block_size, max_length) < 1 or top < 0:
            raise ValueError(
                "a block and max_length hold at least 1 token, and top counts blocks; got "
                f"{block_size=}, {max_length=}, {top=}"
            )
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.turn = turner(positions, self.d_head)
        self.block_size, self.top, self.max_length = block_size, top, max_length

    def _initial(self, batch_size: int) -> KVCache:
        return empty_cache(batch_size, self.max_length, self.num_heads, self.d_head, self.kept)

    def state_size(self) -> int:
        """2 max_length d_model + 1."""
        return 2 * self.max_length * self.num_heads * self.d_head + 1

    def _projected(self, x: Float[Array, "B L D"], inner: KVCache | None, layout: Segments):
        """Queries, the keys that they may see, and the cache with theirs."""
        q, k, v = (heads(p(x), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (self.turn(a, layout.position) for a in (q, k))
        k, v = only_real(layout, k, v)
        rows, size = x.shape[:2], self.block_size
        if inner is None:
            return q, Keys(k, v, segment_blocks(layout, *rows, size), None, None, layout), None
        position = jnp.broadcast_to(layout.position, rows)
        tags = run_tags(layout, *rows)
        slots = jnp.broadcast_to(jnp.arange(self.max_length), (rows[0], self.max_length))
        held = (slots < inner.length[:, None]).astype(tags.dtype)
        k_all, v_all, all_tags, places = (
            jnp.concatenate([old.astype(new.dtype), new], 1)
            for old, new in ((inner.k, k), (inner.v, v), (held, tags), (slots, position))
        )
        keys = Keys(k_all, v_all, blocks_by_tag(all_tags, size), all_tags, places, layout)
        return q, keys, write(inner, k, v, position, tags)

    def _put_out(self, o: Float[Array, "B L H K"], x: Float[Array, "B L D"]) -> Array:
        return self.out_proj(o.reshape(*x.shape[:2], -1).astype(x.dtype))
