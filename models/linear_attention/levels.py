"""Log-linear attention as an option of a mixer (Guo et al. 2025, arXiv:2506.04761): its weights.

    o_t = Σ_l λ_t[l] S_t[l]ᵀ q_t,   λ = softplus(c ⊙ W_λ x), one number a head and level

S[0] holds the token itself and S[l] a bucket of 2^(l-1) tokens before it; the last level holds all
that is older too, where the paper has a level for every power of two of the longest row. With M
levels the state of a head is M times as large: enough for rows of 2^M tokens, O(log L). Cost of L
tokens O(L M K V) between chunks, and what a mixer has inside them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear


class LevelWeights(nnx.Module):
    """λ of every head."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        levels: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`levels`: M, of tokens before the current one. Raises ValueError below 1 or above 30."""
        if not 1 <= levels <= 30:
            raise ValueError(
                "levels is the number of powers of two that a row may be long, 1 to 30 (0: one "
                f"state for all); got {levels=}"
            )
        self.heads = heads
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, heads * (levels + 1), **options)
        self.scale = nnx.Param(jnp.ones((heads, levels + 1), param_dtype))

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L H M+1"]:
        """In at least float32."""
        y = self.in_proj(x).reshape(*x.shape[:2], self.heads, -1)
        y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        return jax.nn.softplus(self.scale[...].astype(y.dtype) * y)
