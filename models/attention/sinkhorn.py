"""Sparse Sinkhorn attention: blocks attend to a sorted block (Tay et al. 2020, arXiv:2002.11296).

    o_t = Σ_s softmax_s(q_t·k_s / √K) v_s   over t's block and the block that P sends to its place,
    P = Sinkhorn(S_i·T_j / √K)              k'_i = Σ_j P_ij k_j, and v' alike             (eq. 3, 5)

Blocks of C = `block_size` tokens are counted from the start of the segment; S and T are projections
of the mean of a block's inputs. P is made doubly stochastic, per head, by `iterations` rounds of
normalising rows and columns of a segment's blocks (in logarithms, at `temperature`). A segment of
one block has no other to attend to.

Where ours differs: the paper's sorting network has one output for each block of a row of fixed
length, where ours compares blocks in pairs; no Gumbel noise. Both ways only: what makes columns sum
to one has seen all blocks.

Cost of L tokens: O(L C K + L² K / C) per head; with padding or borders at most twice as many
blocks. It cannot stream.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from seqzoo.models.attention.sparse_parts import (
    PositionKind,
    heads,
    only_real,
    projections,
    turner,
)
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.softmax.block_sparse import attend, by_groups, join
from seqzoo.models.ops.softmax.masks import LOW
from seqzoo.models.ops.softmax.packed_blocks import SegmentBlocks, segment_blocks


class Sinkhorn(Mixer):
    """Attention to one's own and a sorted block; see the module docstring."""

    looks_both_ways = True
    causal_form = False

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        block_size: int = 64,
        iterations: int = 5,
        temperature: float = 0.75,
        positions: PositionKind = "rope",
        use_bias: bool = False,
        causal: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for causal=True, widths that do not divide and empty blocks."""
        if block_size < 1 or iterations < 1 or temperature <= 0:
            raise ValueError(
                "block_size and iterations are at least 1, temperature is positive; got "
                f"{block_size=}, {iterations=}, {temperature=}"
            )
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, use_bias=use_bias, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.sort_q_proj = Linear(d_model, d_model, use_bias=False, **options)
        self.sort_k_proj = Linear(d_model, d_model, use_bias=False, **options)
        self.num_heads, self.d_head, self.causal = num_heads, d_model // num_heads, causal
        self.size, self.iterations, self.temperature = block_size, iterations, temperature
        self.turn = turner(positions, self.d_head)

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """It cannot stream: 0."""
        return 0

    def _mix(self, x: Float[Array, "B L D"], inner: tuple, ctx: Context):
        layout = ctx.segments
        q, k, v = (heads(p(x), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (self.turn(a, layout.position) for a in (q, k))
        k, v = only_real(layout, k, v)
        blocks = segment_blocks(layout, *x.shape[:2], self.size)
        q, k, v = (blocks.pack(a) for a in (q, k, v))
        p = self._sorting(blocks.pack(*only_real(layout, x)), blocks).astype(k.dtype)
        k, v = (jnp.concatenate([a, jnp.einsum("BHNM,BMCHK->BNCHK", p, a)], 2) for a in (k, v))

        def run(q, k, v, tag, count):
            own = (tag[..., None] == tag[..., None, :]) & (tag > 0)[..., None, :]
            other = jnp.broadcast_to((count > 1)[..., None, None], own.shape)
            return attend(q, k, v, jnp.concatenate([own, other], -1), self.d_head**-0.5)

        o = blocks.unpack(join([by_groups(run, q, k, v, blocks.tag, blocks.count)]), x.shape[1])
        return self.out_proj(o.reshape(x.shape)), ()

    def _sorting(self, x: Float[Array, "B N C D"], blocks: SegmentBlocks) -> Array:
        """P [B, H, N, N], within segments."""
        size = jnp.maximum((blocks.tag > 0).sum(-1), 1)[..., None]
        mean = (x.sum(2) / size).astype(x.dtype)
        s, t = (heads(p(mean), self.num_heads) for p in (self.sort_q_proj, self.sort_k_proj))
        wide = jnp.promote_types(s.dtype, jnp.float32)
        logits = jnp.einsum("BNHK,BMHK->BHNM", s, t, preferred_element_type=wide)
        same = (blocks.first[:, :, None] == blocks.first[:, None])[:, None]
        scale = self.d_head**-0.5 / self.temperature
        return doubly_stochastic(logits * scale, same, self.iterations)


def doubly_stochastic(
    logits: Float[Array, "B H N N"], seen: Bool[Array, "#B 1 N N"], iterations: int
) -> Float[Array, "B H N N"]:
    """exp(logits) where `seen`, rows and columns normalised in turn (Sinkhorn 1964).

    Every row and every column needs something that is seen.
    """
    logits = jnp.where(seen, logits, LOW)
    for _ in range(iterations):
        for axis in (-1, -2):
            total = jax.nn.logsumexp(logits, axis=axis, keepdims=True)
            logits = jnp.where(seen, logits - total, LOW)
    return jnp.where(seen, jnp.exp(logits), 0)
