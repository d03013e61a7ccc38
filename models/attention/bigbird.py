"""BigBird: blocks beside, a global block, random blocks (Zaheer et al. 2020, arXiv:2007.14062).

    o_t = Σ_s softmax_s(q_t·k_s / √K) v_s

over the keys s of t's block, of the `back` blocks before it (both ways: and after), of the first
block of the segment, and of `num_random` others, drawn from those that are left by a hash of `seed`
and the block's number. Both ways, the queries of the first block see every key. Blocks of
C = `block_size` tokens are counted from the start of the segment.

Where ours differs: the published code also makes the last block global and draws other blocks for
each head and layer. Here a draw is that of `seed` alone, so that a layer is the same wherever it
stands and a stack of them is scanned; `BackboneConfig.each` gives places of a pattern other seeds.
Causal, blocks are drawn from the past; the paper has both ways only.

Cost of L tokens: O(L n C K) per head with n = back + 2 + num_random blocks of keys, both ways
n = 2 back + 3 + num_random; with padding or borders at most twice that. State: 2 S d_model + 1
elements, S = max_length where blocks are drawn, else (back + 2) C.
"""

from __future__ import annotations

import jax.numpy as jnp
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
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.models.ops.softmax.block_sparse import attend_blocks, attend_from, join
from seqzoo.models.ops.softmax.packed_blocks import SegmentBlocks, segment_blocks


class BigBird(Mixer):
    """Attention to near, first and random blocks; see the module docstring."""

    looks_both_ways = True
    state_growth = "linear"  # where blocks are drawn

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        block_size: int = 64,
        back: int = 1,
        num_random: int = 3,
        seed: int = 0,
        positions: PositionKind = "rope",
        use_bias: bool = False,
        max_length: int = 2048,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`max_length`: most tokens of a segment, if causal and blocks are drawn.

        Raises ValueError for widths that do not divide, empty blocks and negative counts.
        """
        if block_size < 1 or back < 0 or num_random < 0:
            raise ValueError(
                "a block holds at least 1 token, and back and num_random count blocks; got "
                f"{block_size=}, {back=}, {num_random=}"
            )
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.turn = turner(positions, self.d_head)
        kept = max_length if num_random else None
        self.max_length = kept if causal else None
        self.state_growth = "linear" if num_random else "window"
        self.pattern = BlockPattern(
            size=block_size,
            back=back,
            causal=causal,
            first=True,
            num_random=num_random,
            seed=seed,
            max_length=kept,
        )
        self.causal = causal

    def _initial(self, batch_size: int) -> KVCache:
        sizes = self.pattern.slots, self.num_heads, self.d_head
        return empty_cache(batch_size, *sizes, self.kept)

    def state_size(self) -> int:
        """2 S d_model + 1, S = max_length where blocks are drawn, else (back + 2) C."""
        return 2 * self.pattern.slots * self.num_heads * self.d_head + 1

    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        layout = ctx.segments
        q, k, v = (heads(p(x), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (self.turn(a, layout.position) for a in (q, k))
        k, v = only_real(layout, k, v)
        if inner is None:
            o = self._parallel(q, k, v, layout)
        else:
            o, inner = attend_stream(q, k, v, inner, layout, self.pattern, self.d_head**-0.5)
        return self.out_proj(o.reshape(x.shape)), inner

    def _parallel(self, q: Array, k: Array, v: Array, layout: Segments) -> Array:
        length, scale = q.shape[1], self.d_head**-0.5
        blocks = segment_blocks(layout, *q.shape[:2], self.pattern.size)
        rows = tuple(blocks.pack(a) for a in (q, k, v))
        part = attend_blocks(
            *rows, blocks, self.pattern.table, self.pattern.sees, scale, near=self.pattern.near
        )
        o = join([part])
        if self.causal:
            return blocks.unpack(o, length)
        if not layout.masked:
            whole = attention(q[:, : self.pattern.size], k, v, scale=scale)
            rest = blocks.unpack(o, length)[:, self.pattern.size :]
            return jnp.concatenate([whole.astype(rest.dtype), rest], axis=1)
        return blocks.unpack(self._first(rows, blocks, o, scale), length)

    def _first(self, rows: tuple, blocks: SegmentBlocks, o: Array, scale: float) -> Array:
        """The queries of first blocks see all; a segment of one block has done so already."""
        size = self.pattern.size
        index = blocks.first[..., None] * size + jnp.arange(size)
        found = jnp.broadcast_to((blocks.count > 1)[..., None], index.shape)
        whole = join([attend_from(index, found, *rows, blocks, scale)])
        mine = (blocks.number == 0) & (blocks.count > 1)
        return jnp.where(mine[..., None, None, None], whole, o)
