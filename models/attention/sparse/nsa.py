"""NSA: native sparse attention (Yuan et al. 2025, arXiv:2502.11089).

    o_t = Σ_c σ(g_t^c) softmax attention of q_t to keys and values of c       c: three branches

(section 3, equations 5 to 12): compressed, one key and value for each block before t's own, sums
of the block's by learned weights a place and channel; chosen, the tokens of t's block, of the first
one and of the `top` others whose compressed keys have the most attention, all heads together; and
near, a window. g is linear in x, one number a head and branch. Blocks of `block_size` tokens are
counted from the start of the segment. Choosing has no gradient.

Where ours differs: blocks are compressed by weights in the place of an MLP, do not overlap, and
are those that are chosen; the branches share keys and values. Scores of other blocks are made and
put out of reach (`chosen.py`), so that the cost is that of full attention, O(L² (K + L / C)) per
head for L tokens in blocks of C. State: 2 max_length d_model + 1 elements, keys, values, a count.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from seqzoo.models.attention.cache import KVCache
from seqzoo.models.attention.sparse.chosen import ChosenBlocks, Keys, best
from seqzoo.models.attention.sparse_parts import PositionKind, heads
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context
from seqzoo.models.ops.softmax.local_blocks import weights


class NSA(ChosenBlocks):
    """Attention to compressed, chosen and near tokens; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        block_size: int = 32,
        top: int = 4,
        window: int = 64,
        positions: PositionKind = "rope",
        use_bias: bool = False,
        max_length: int = 2048,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`top`: blocks that a query chooses beside its own and the first; `window`: in tokens.

        Raises ValueError for widths that do not divide, empty blocks or windows, negative counts.
        """
        if window < 1:
            raise ValueError(f"window is a number of tokens, at least 1; got {window=}")
        sizes = (d_model, num_heads, block_size, top, positions, use_bias, max_length)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(*sizes, **options)
        self.window = window
        self.gate_proj = Linear(d_model, 3 * num_heads, **options)
        even = jnp.full((2, block_size, self.d_head), 1 / block_size, param_dtype)
        self.mix = nnx.Param(even)  # of keys and values

    @jax.named_scope("nsa")
    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        q, keys, after = self._projected(x, inner, ctx.segments)
        mine, before = keys.before(q.shape[1])
        compressed, attended = self._compressed(q, keys, before)
        number = jnp.arange(before.shape[-1])
        first = before & (jnp.cumsum(before, -1) == 1)
        own = (mine[..., None] == number) | first
        chosen = best(attended, before & ~first, self.top) | own[:, :, None]
        made = compressed, keys.attend_chosen(q, chosen), keys.attend(q, self.window)
        gates = jax.nn.sigmoid(heads(self.gate_proj(x).astype(self.wide), 3))
        o = sum(gates[:, :, i, :, None] * branch for i, branch in enumerate(made))
        return self._put_out(o, x), after

    def _compressed(
        self, q: Float[Array, "B L H K"], keys: Keys, before: Bool[Array, "#B L N"]
    ) -> tuple[Float[Array, "B L H K"], Float[Array, "B L 1 N"]]:
        """Attention to one key a block, and how much of it each block has."""
        shares = self.mix[...].astype(self.wide)
        k, v = (
            jnp.einsum("BNCHK,CK->BNHK", keys.blocks.pack(a.astype(self.wide)), share)
            for a, share in zip((keys.k, keys.v), shares, strict=True)
        )
        s = jnp.einsum("BLHK,BNHK->BLHN", q.astype(self.wide), k) * self.d_head**-0.5
        p = weights(s, before[:, :, None], "softmax")
        return jnp.einsum("BLHN,BNHK->BLHK", p, v), p.sum(2, keepdims=True)
