"""Linformer: keys and values projected along the sequence (Wang et al. 2020, arXiv:2006.04768).

    o_t = Σ_r softmax_r(q_t·k'_r / √K) v'_r,  k'_r = Σ_s E_sr k_s,  v'_r = Σ_s F_sr v_s    (eq. 7)

with learned E and F of `max_length` rows and `rank` columns, shared by the heads; s counts the real
tokens of the row. Both ways only, one segment a row.

Cost of L tokens: O(L rank K) per head. It cannot stream. Parameters: 2 max_length rank beside those
of attention.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.attention.sparse_parts import heads, only_real, projections
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.softmax.attention import attention


class Linformer(Mixer):
    """Attention to `rank` mixtures of the keys; see the module docstring."""

    looks_both_ways = True
    causal_form = False
    packing = "none"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        rank: int = 64,
        use_bias: bool = False,
        max_length: int = 2048,
        causal: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`max_length`: most tokens of a row.

        Raises ValueError for causal=True, widths that do not divide and a rank below 1.
        """
        if rank < 1 or max_length < 1:
            raise ValueError(f"rank and max_length are at least 1; got {rank=}, {max_length=}")
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, use_bias=use_bias, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.num_heads, self.max_length, self.causal = num_heads, max_length, causal
        options["embedding_init"] = jax.nn.initializers.normal(rank**-0.5)
        self.k_embed = nnx.Embed(max_length, rank, **options)
        self.v_embed = nnx.Embed(max_length, rank, **options)

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """It cannot stream: 0."""
        return 0

    def _mix(self, x: Float[Array, "B L D"], inner: tuple, ctx: Context):
        layout = ctx.segments
        q, k, v = (heads(p(x), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        k, v = only_real(layout, k, v)
        k = jnp.einsum("BLR,BLHK->BRHK", self._rows(self.k_embed, layout.position, k), k)
        v = jnp.einsum("BLR,BLHK->BRHK", self._rows(self.v_embed, layout.position, v), v)
        return self.out_proj(attention(q, k, v).reshape(x.shape)), ()

    def _rows(self, embed: nnx.Embed, position: Array, like: Array) -> Float[Array, "B L R"]:
        rows = embed.embedding[...][position].astype(like.dtype)
        return jnp.broadcast_to(rows, (like.shape[0], *rows.shape[1:]))
