"""Lightning attention (TransNormerLLM: Qin et al. 2023, arXiv:2307.14995; MiniMax-01, 2501.08313).

    S_t = λ_h S_{t-1} + k_t v_tᵀ,  o_t = S_tᵀ q_t,  q, k, v = silu(W x)
    y_t = W_out (rms(o_t) scale * σ(W_g x_t)),   log λ_h = -decay_scale 2^(-8h/H),  h = 1 .. H

No scaling and no denominator: the norm, over all heads together, bounds the outputs. Both papers
multiply the slopes by 1 - l/(layers - 1) at layer l, so that the last layer keeps everything; here
`decay_scale` is that factor, one for all layers. TransNormerLLM has no silu on the values and
rotates the queries and keys of its first layer; this is the form of MiniMax-01, whose fused
projection is here three.

Cost of L tokens in chunks of C: O(L C K + L K^2) per head. State: H K K elements per sequence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear_attention.matrix_state import MatrixState, matrix_sizes
from seqzoo.models.mixer import Context, config_of


class LightningAttention(MatrixState):
    """Linear attention with a fixed slope per head; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_head: int | None = None,
        decay_scale: float = 1.0,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`decay_scale`: factor on all slopes, 0 for no decay.

        Raises ValueError for sizes that cannot be and a negative scale.
        """
        if not decay_scale >= 0:
            raise ValueError(f"decay_scale must be at least 0, else states grow; got {decay_scale}")
        sizes = matrix_sizes(d_model, num_heads, d_head, d_head)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, sizes, chunk_size, **options)
        self.decay_scale = decay_scale
        inner = num_heads * sizes.d_value
        self.gate_proj = nnx.Linear(d_model, inner, use_bias=False, **options)
        self.norm = nnx.RMSNorm(inner, epsilon=norm_eps, **options)

    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (self._heads(jax.nn.silu(p(x))) for p in projections)
        log_decay = -self.decay_scale * slopes(self.sizes.heads)[:, None]
        o, s = self._recur(q, k, v, log_decay, inner, ctx)
        o = self.norm(o.reshape(*x.shape[:2], -1)) * jax.nn.sigmoid(self.gate_proj(x))
        return self.out_proj(o.astype(x.dtype)), s


LightningAttentionConfig = config_of(LightningAttention)


def slopes(heads: int) -> Float[np.ndarray, "H"]:
    """2^(-8h/H) for h = 1 .. H, the slopes of ALiBi (arXiv:2108.12409)."""
    return 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)
