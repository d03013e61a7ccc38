"""Longformer: a window and global tokens (Beltagy et al. 2020, arXiv:2004.05150).

    o_t = Σ_s softmax_s(q_t·k_s / √K) v_s

over the keys s less than `window` positions away (s <= t if causal) and those at `global_positions`
of the segment. Both ways, the queries at these positions see every key, through projections of
their own (section 3.1); causal, they are queries like others, since what they see is the past.
Windows do not skip positions (the paper's dilation).

Cost of L tokens: O(L n C K) per head with blocks of C = `block_size` (by default about an eighth of
the window) and n = ceil((window - 1) / C) + 1 of them, both ways 2 n - 1, plus O(L G K) for G
global positions; with padding or borders at most twice that. State: 2 (window + G) d_model + 1
elements.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.attention.cache import KVCache
from seqzoo.models.attention.patterns import BlockPattern
from seqzoo.models.attention.sparse_parts import (
    PositionKind,
    attend_stream,
    empty_cache,
    heads,
    only_real,
    projections,
    turner,
)
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.models.ops.softmax.block_sparse import (
    Part,
    attend,
    attend_blocks,
    attend_from,
    by_groups,
    gather,
    join,
)
from seqzoo.models.ops.softmax.packed_blocks import SegmentBlocks, segment_blocks


class Longformer(Mixer):
    """Attention in a window and to global tokens; see the module docstring."""

    looks_both_ways = True
    state_growth = "window"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        window: int = 128,
        global_positions: tuple[int, ...] = (0,),
        block_size: int | None = None,
        positions: PositionKind = "rope",
        use_bias: bool = False,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`window` counts the current token and those on one side.

        Raises ValueError for widths that do not divide, a window below 1, blocks larger than the
        window, and global positions that are negative or equal.
        """
        size = max(1, -(-(window - 1) // 8)) if block_size is None else block_size
        if window < 1 or not 1 <= size <= window:
            raise ValueError(
                "window counts the current token and holds at least one block; got "
                f"{window=}, {block_size=}"
            )
        listed = isinstance(global_positions, tuple | list)
        if (
            not listed
            or len({*global_positions}) < len(global_positions)
            or (min(global_positions, default=0) < 0)
        ):
            raise ValueError(
                f"global_positions are different positions from 0 on; got {global_positions}"
            )
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        own = None
        if global_positions and not causal:
            made = projections(d_model, num_heads, **options)
            own = nnx.Dict(dict(zip(("q_proj", "k_proj", "v_proj"), made, strict=False)))
        self.global_proj = nnx.data(own)
        self.turn = turner(positions, self.d_head)
        self.pattern = BlockPattern(
            size=size,
            back=-(-(window - 1) // size),
            causal=causal,
            reach=window,
            pinned=tuple(global_positions),
        )
        self.causal = causal

    def _initial(self, batch_size: int) -> KVCache:
        sizes = self.pattern.slots, self.num_heads, self.d_head
        return empty_cache(batch_size, *sizes, self.kept)

    def state_size(self) -> int:
        """2 (window + G) d_model + 1."""
        return 2 * self.pattern.slots * self.num_heads * self.d_head + 1

    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        layout = ctx.segments
        q, k, v = self._heads(x, (self.q_proj, self.k_proj, self.v_proj), layout)
        if inner is None:
            o = self._parallel(x, q, k, v, layout)
        else:
            o, inner = attend_stream(q, k, v, inner, layout, self.pattern, self.d_head**-0.5)
        return self.out_proj(o.reshape(x.shape)), inner

    def _heads(self, x: Array, made: tuple, layout: Segments) -> tuple[Array, ...]:
        q, k, v = (heads(p(x), self.num_heads) for p in made)
        q, k = (self.turn(a, layout.position) for a in (q, k))
        return q, *only_real(layout, k, v)

    def _parallel(self, x: Array, q: Array, k: Array, v: Array, layout: Segments) -> Array:
        length, scale = q.shape[1], self.d_head**-0.5
        blocks = segment_blocks(layout, *q.shape[:2], self.pattern.size)
        rows = tuple(blocks.pack(a) for a in (q, k, v))
        parts = [
            attend_blocks(
                *rows, blocks, self.pattern.table, self.pattern.sees, scale, near=self.pattern.near
            )
        ]
        if self.pattern.pinned:
            parts.append(self._to_global(*rows, blocks, scale))
        o = join(parts)
        if self.global_proj is None:
            return blocks.unpack(o, length)
        if layout.masked:
            o = self._from_global(self._heads(x, self._own(), layout), blocks, o, scale)
            return blocks.unpack(o, length)
        o = blocks.unpack(o, length)
        places = np.array([p for p in self.pattern.pinned if p < length])
        if not places.size:
            return o
        own = (
            heads(p(a), self.num_heads)
            for p, a in zip(self._own(), (x[:, places], x, x), strict=True)
        )
        q, k, v = own
        q, k = self.turn(q, jnp.asarray(places)), self.turn(k, layout.position)
        return o.at[:, places].set(attention(q, k, v, scale=scale).astype(o.dtype))

    def _own(self) -> tuple[Linear, ...]:
        return tuple(self.global_proj[name] for name in ("q_proj", "k_proj", "v_proj"))

    def _global_slots(self, blocks: SegmentBlocks) -> tuple[Array, Array]:
        """For each block the slots of its segment's global tokens, and whether they exist.

        A segment that shares its block lies in the window as a whole.
        """
        pinned = jnp.array(self.pattern.pinned)
        index = blocks.first[..., None] * self.pattern.size + pinned
        inside = pinned // self.pattern.size < blocks.count[..., None]
        return index, inside & (blocks.count > 1)[..., None]

    def _to_global(self, q, k, v, blocks: SegmentBlocks, scale: float) -> Part:
        """Queries' scores of global keys that are out of their window."""
        index, found = self._global_slots(blocks)
        flat = (a.reshape(a.shape[0], -1, *a.shape[3:]) for a in (k, v, blocks.tag))
        k, v, k_tag = (gather(a, jnp.where(found, index, 0)) for a in flat)
        pinned = jnp.array(self.pattern.pinned)

        def run(q, k, v, tag, position, k_tag, found):
            seen = (found & (k_tag > 0))[..., None, :] & (tag[..., None] == k_tag[..., None, :])
            far = position[..., None] - pinned
            seen = seen & ((far if self.causal else jnp.abs(far)) >= self.pattern.reach)
            return attend(q, k, v, seen, scale)

        return by_groups(run, q, k, v, blocks.tag, blocks.position, k_tag, found)

    def _from_global(self, qkv: tuple, blocks: SegmentBlocks, o: Array, scale: float) -> Array:
        """Puts what global queries see into o [B, N, C, H, V]."""
        rows = tuple(blocks.pack(a) for a in qkv)
        tag, at = blocks.tag, jnp.isin(blocks.position, jnp.array(self.pattern.pinned))
        seen = (tag[..., None] == tag[..., None, :]) & (tag > 0)[..., None, :]
        own = join([by_groups(lambda *a: attend(*a, scale), *rows, seen)])
        single = (blocks.count == 1)[..., None]
        o = jnp.where((at & single)[..., None, None], own, o)
        index, found = self._global_slots(blocks)
        whole = join([attend_from(index, found, *rows, blocks, scale)])
        mine = found & (blocks.number == 0)[..., None]
        flat = o.reshape(o.shape[0], -1, *o.shape[3:])
        slots = jnp.where(mine, index, flat.shape[1]).reshape(flat.shape[0], -1)
        whole = whole.reshape(*slots.shape, *whole.shape[3:])
        flat = flat.at[jnp.arange(len(flat))[:, None], slots].set(whole, mode="drop")
        return flat.reshape(o.shape)
