"""Block-local attention with look-back (the local attention of Tay et al. 2020, 2011.04006).

    o_t = Σ_s softmax_s(q_t·k_s / √K) v_s

over the keys of t's block and of the `back` blocks before it (s <= t if causal; else also of the
`back` blocks after it). Blocks of C = `block_size` tokens are counted from the start of the
segment; `back` = 0 is the published form, without look-back.

Cost of L tokens: O(L (back + 1) C K) per head, both ways O(L (2 back + 1) C K); with padding or
borders at most twice that. State: 2 (back + 1) C d_model + 1 elements, a ring of keys and one of
values, and a count.
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
from seqzoo.models.ops.softmax.block_sparse import attend_blocks, join
from seqzoo.models.ops.softmax.packed_blocks import segment_blocks


class LocalAttention(Mixer):
    """Attention within blocks and to blocks beside them; see the module docstring."""

    looks_both_ways = True
    state_growth = "window"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        block_size: int = 64,
        back: int = 1,
        positions: PositionKind = "rope",
        use_bias: bool = False,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for widths that do not divide and for empty blocks."""
        if block_size < 1 or back < 0:
            raise ValueError(
                f"a block holds at least 1 token, and back counts blocks; got {block_size=}, "
                f"{back=}"
            )
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.turn = turner(positions, self.d_head)
        self.pattern = BlockPattern(size=block_size, back=back, causal=causal)
        self.causal = causal

    def _initial(self, batch_size: int) -> KVCache:
        sizes = self.pattern.slots, self.num_heads, self.d_head
        return empty_cache(batch_size, *sizes, self.kept)

    def state_size(self) -> int:
        """2 (back + 1) C d_model + 1."""
        return 2 * self.pattern.slots * self.num_heads * self.d_head + 1

    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        layout, scale = ctx.segments, self.d_head**-0.5
        q, k, v = (heads(p(x), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (self.turn(a, layout.position) for a in (q, k))
        k, v = only_real(layout, k, v)
        if inner is None:
            blocks = segment_blocks(layout, *x.shape[:2], self.pattern.size)
            rows = (blocks.pack(a) for a in (q, k, v))
            part = attend_blocks(
                *rows, blocks, self.pattern.table, self.pattern.sees, scale, near=self.pattern.near
            )
            o = blocks.unpack(join([part]), x.shape[1])
        else:
            o, inner = attend_stream(q, k, v, inner, layout, self.pattern, scale)
        return self.out_proj(o.reshape(x.shape)), inner
