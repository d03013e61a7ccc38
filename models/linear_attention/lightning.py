"""Lightning attention (TransNormerLLM: Qin et al. 2023, arXiv:2307.14995; MiniMax-01, 2501.08313).

    S_t = λ_h S_{t-1} + k_t v_tᵀ,  o_t = S_tᵀ q_t,  q, k, v = silu(W x)
    y_t = W_out (rms(o_t) scale * σ(W_g x_t)),   log λ_h = -2^(-8h/H) (1 - l/(N-1) + 1e-5)

for head h = 1 .. H in layer l = 0 .. N-1: the last layer keeps nearly everything. A mixer that was
told no layer is the first. No scaling and no denominator: the norm, over all heads together, bounds
the outputs. This is the form of MiniMax-01, whose fused projection is here three; TransNormerLLM
has no silu on the values and rotates the queries and keys of its first layer.

Cost of L tokens in chunks of C: O(L C K + L K^2) per head. State: H K K elements per sequence.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.matrix_state import MatrixState, matrix_sizes
from seqzoo.models.mixer import Constant, Context


class LightningAttention(MatrixState):
    """Linear attention with a fixed slope per head and layer; see the module docstring."""

    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_head: int | None = None,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`layer`: (index, depth). Raises ValueError for sizes that cannot be."""
        sizes = matrix_sizes(d_model, num_heads, d_head, d_head)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, sizes, chunk_size, **options)
        # The index is traced in a scanned stack, so its factor is kept with the weights.
        self.decay = Constant(layer_factor(layer, jnp.promote_types(param_dtype, jnp.float32)))
        inner = num_heads * sizes.d_value
        self.gate_proj = Linear(d_model, inner, use_bias=False, **options)
        self.norm = nnx.RMSNorm(inner, epsilon=norm_eps, **options)

    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (self._heads(jax.nn.silu(p(x))) for p in projections)
        rates = jnp.asarray(slopes(self.sizes.heads), self.wide)
        log_decay = -self.decay[...].astype(self.wide) * rates[:, None]
        o, s = self._recur(q, k, v, log_decay, inner, ctx)
        o = self.norm(o.reshape(*x.shape[:2], -1)) * jax.nn.sigmoid(self.gate_proj(x))
        return self.out_proj(o), s


def slopes(heads: int) -> Float[np.ndarray, "H"]:
    """2^(-8h/H) for h = 1 .. H, the slopes of ALiBi (arXiv:2108.12409)."""
    return 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)


def layer_factor(layer: Any, dtype: DTypeLike = jnp.float32) -> Float[Array, ""]:
    """1 - l/(N-1) + 1e-5 for layer = (l, N), the first layer for None."""
    index, depth = (0, 1) if layer is None else layer
    return jnp.asarray(1 - index / max(depth - 1, 1) + 1e-5, dtype)
