"""Differences of two softmaxes (Ye et al. 2024, arXiv:2410.05258): what `Attention` has on request.

    o = rms(softmax(q_1 k_1ᵀ / sqrt(K)) v - λ softmax(q_2 k_2ᵀ / sqrt(K)) v) (1 - λ_0)
    λ = exp(λ_q1 . λ_k1) - exp(λ_q2 . λ_k2) + λ_0,  λ_0 = 0.8 - 0.6 exp(-0.3 l)      (eq. 1 to 3)

for pairs of neighbouring heads, whose values are taken together, 2 K wide, in layer l = 0, 1, ..;
λ is one number for all heads. So there are as many heads and parameters as without; values twice as
wide make it half again as dear.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.mixer import Constant


class Differential(nnx.Module):
    """What is done to the values and the outputs of softmax attention."""

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        d_head: int,
        layer: Any,
        *,
        norm_eps: float,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """`layer`: (index, depth), the first for None. Raises ValueError for odd numbers."""
        if num_heads % 2 or num_kv_heads % 2:
            raise ValueError(
                "differential=True subtracts one head from its neighbour: num_heads and "
                f"num_kv_heads must be even; got {num_heads=}, {num_kv_heads=}"
            )
        self.norm_eps, wide = norm_eps, jnp.promote_types(param_dtype, jnp.float32)
        first = 0.8 - 0.6 * jnp.exp(-0.3 * jnp.asarray(0 if layer is None else layer[0], wide))
        self.first = Constant(first)
        init = nnx.initializers.normal(0.1)
        self.mix = nnx.Param(init(rngs.params(), (4, d_head), param_dtype))  # q_1, k_1, q_2, k_2
        self.scale = nnx.Param(jnp.ones(2 * d_head, param_dtype))

    def values(self, v: Float[Array, "B S H K"]) -> Float[Array, "B S H 2*K"]:
        """Those of both heads of a pair, for each of the two."""
        pairs = v.reshape(*v.shape[:2], v.shape[2] // 2, -1)
        return jnp.repeat(pairs, 2, axis=2)

    def difference(self, o: Float[Array, "B L H 2*K"]) -> Float[Array, "B L H/2 2*K"]:
        """One output of each pair, normed, in at least float32."""
        o = o.astype(jnp.promote_types(o.dtype, jnp.float32))
        q_1, k_1, q_2, k_2 = self.mix[...].astype(o.dtype)
        first = self.first[...].astype(o.dtype)
        share = jnp.exp(q_1 @ k_1) - jnp.exp(q_2 @ k_2) + first
        o = o[:, :, ::2] - share * o[:, :, 1::2]
        power = jnp.mean(o**2, axis=-1, keepdims=True)
        o = o / jnp.sqrt(power + self.norm_eps) * self.scale[...].astype(o.dtype)
        return o * (1 - first)
