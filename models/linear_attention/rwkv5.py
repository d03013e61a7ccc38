"""The time mixing of RWKV-5 "Eagle" (Peng et al. 2024, arXiv:2404.05892, section 3).

    m_i = x_t + (x_{t-1} - x_t) ⊙ μ_i,   r, k, v, g = W_r m_r, W_k m_k, W_v m_v, W_g m_g
    o_t = (S_{t-1} + diag(u) k_t v_tᵀ)ᵀ r_t,   S_t = diag(w) S_{t-1} + k_t v_tᵀ,   w = exp(-exp(λ))
    y_t = W_out (groupnorm(o_t) ⊙ silu(g_t))

RWKV-6 without what depends on the token: one decay a channel, one share of the token before.
x_{t-1} is the real token before in the segment, zeros before the first. The norm is over each head;
its eps is that of the published code. Where ours differs: the channel mixing belongs to the block,
and initial values follow the layer's place only where it is known. Cost of L tokens in chunks of C:
O(L C (K + V) + L K V) per head. State: H K K + D elements per sequence, the second term the last
token.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.matrix_state import (
    MatrixState,
    head_layer_norm,
    matrix_sizes,
)
from seqzoo.models.linear_attention.rwkv6 import RWKV6State, initial_values
from seqzoo.models.linear_attention.token_shift import interpolate, token_before
from seqzoo.models.mixer import Context
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention


class RWKV5(MatrixState):
    """A decay a channel, the same for all tokens, and a bonus for the current one.

    See the module docstring.
    """

    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        norm_eps: float = 64e-5,
        chunk_size: int | None = None,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`layer`: (index, depth), the first of one where it is not given.

        Raises ValueError for heads that do not divide d_model.
        """
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(
            d_model, matrix_sizes(d_model, num_heads, None, None), chunk_size, **options
        )
        self.norm_eps = norm_eps
        mix, decay, bonus = initial_values(d_model, layer, param_dtype)
        self.mix = nnx.Param(mix[1:5], group="no_decay")  # of r, k, v and g
        self.decay = nnx.Param(decay, group="dynamics")
        self.bonus = nnx.Param(bonus, group="dynamics")
        self.gate_proj = Linear(d_model, d_model, use_bias=False, **options)
        self.scale = nnx.Param(jnp.ones(d_model, param_dtype))
        self.bias = nnx.Param(jnp.zeros(d_model, param_dtype))

    def _initial(self, batch_size: int) -> RWKV6State:
        s = super()._initial(batch_size)
        return RWKV6State(jnp.zeros((batch_size, 1, self.d_model), s.dtype), s)

    def state_size(self) -> int:
        """H K K + D."""
        return super().state_size() + self.d_model

    def _mix(self, x: Float[Array, "B L D"], inner: RWKV6State | None, ctx: Context):
        window, s0 = (None, None) if inner is None else inner
        before, window = token_before(x, window, ctx.segments)
        r, k, v, g = (interpolate(x, before, share, False) for share in self.mix[...])
        r, k, v = (self._heads(z) for z in (self.q_proj(r), self.k_proj(k), self.v_proj(v)))
        heads = self.sizes.heads
        o, s = gated_linear_attention(
            r,
            k,
            v,
            -jnp.exp(self.decay[...].astype(self.wide)).reshape(heads, -1),
            s0,
            chunk_size=self.chunk_size,
            segment_ids=ctx.segments,
            read_before=True,
            bonus=self.bonus[...].reshape(heads, -1),
        )
        o = head_layer_norm(o, self.scale[...], self.bias[...], self.norm_eps)
        return self.out_proj(o * jax.nn.silu(self.gate_proj(g))), RWKV6State(window, s)
