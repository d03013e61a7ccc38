"""Multi-scale retention (RetNet; Sun et al. 2023, arXiv:2307.08621).

    S_t = γ_h S_{t-1} + k_t v_tᵀ,  o_t = S_tᵀ q_t / sqrt(K),  γ_h = 1 - 2^(-5-h),  h = 0 .. H-1
    y_t = W_out (rms(o_t) scale * silu(W_g x_t))                   (their eq. 5 to 8)

q and k are rotated by their positions, which is their complex exponential e^{inθ}; with
`positions="xpos"` (arXiv:2212.10554) pair i of channels decays by ζ_i^(1/512) a step too, in the
state, so that no factor grows with the position. Values are twice as wide as keys by default. Where
ours differs: the group norm takes no mean and has one scale for all heads, as in
flash-linear-attention; pairs of channels are (i, i + K/2); and the paper's three rescalings of the
scores are left out, since the norm undoes them up to its eps.

Cost of L tokens in chunks of C: O(L C (K + V) + L K V) per head. State: H K V elements per
sequence, whatever its length.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.delta_parts import HeadNorm
from seqzoo.models.linear_attention.matrix_state import MatrixState, matrix_sizes
from seqzoo.models.mixer import Context
from seqzoo.models.ops.softmax.rope import rope, xpos_log_decay


class RetNet(MatrixState):
    """Linear attention with a fixed decay per head; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int | None = None,
        d_value: int | None = None,
        positions: Literal["rope", "xpos"] = "rope",
        rope_base: float = 10000.0,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_key` is d_model / num_heads by default, `d_value` twice that.

        Raises ValueError for sizes that cannot be, for an odd key width, which cannot be turned,
        and for unknown positions.
        """
        if positions not in ("rope", "xpos"):
            raise ValueError(f"unknown {positions=}; known: rope, xpos")
        sizes = matrix_sizes(d_model, num_heads, d_key, d_value, value_factor=2.0)
        if sizes.d_key % 2:
            raise ValueError(f"RoPE rotates pairs, so d_key must be even; got {sizes.d_key}")
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, sizes, chunk_size, **options)
        self.positions, self.rope_base = positions, rope_base
        inner = num_heads * sizes.d_value
        self.gate_proj = Linear(d_model, inner, use_bias=False, **options)
        self.norm = HeadNorm(sizes.d_value, "silu", eps=norm_eps, param_dtype=param_dtype)

    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        q, k, v = (self._heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (rope(z, ctx.segments.position, base=self.rope_base) for z in (q, k))
        log_decay = retention_log_decay(self.sizes.heads)[:, None]
        if self.positions == "xpos":
            log_decay = log_decay + xpos_log_decay(self.sizes.d_key)
        o, s = self._recur(q, k, v, log_decay, inner, ctx, scale=self.sizes.d_key**-0.5)
        return self.out_proj(self.norm(o, self.gate_proj(x))), s


def retention_log_decay(heads: int) -> Float[np.ndarray, "H"]:
    """log(1 - 2^(-5-h)), the paper's decay of head h."""
    return np.log1p(-(2.0 ** (-5.0 - np.arange(heads))))
