"""HGRN2, a gated recurrence with a widened state (Qin et al. 2024, arXiv:2404.07904).

    f_t = γ + (1 - γ) σ(W_f x_t),   S_t = diag(f_t) S_{t-1} + (1 - f_t) (W_i x_t)ᵀ
    y_t = W_out (rms(S_tᵀ silu(W_q x_t)) scale)

It is gated linear attention whose key is 1 - f, so that decay and input are tied; the query is the
output gate of HGRN. The norm runs over all heads together. The lower bound γ rises with depth as in
HGRN: l / N in layer l = 0 .. N-1 (0 where no layer is known), or what `lower_bound` says. Where
ours differs: the paper learns the bounds of all layers together from there; here they stay, or
each learns by itself.

Cost of L tokens in chunks of C: O(L C (K + V) + L K V) per head. State: H K V elements per
sequence, K the expansion of the state.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear_attention.matrix_state import MatrixState, matrix_sizes
from seqzoo.models.mixer import Constant, Context
from seqzoo.models.recurrent.parts import lower_bound_of

HIGHEST = 1 - 1e-6  # of a learned bound, below which a channel still forgets


class HGRN2(MatrixState):
    """Gated linear attention with k = 1 - f; see the module docstring."""

    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int | None = None,
        d_value: int | None = None,
        lower_bound: float | None = None,
        learned_bound: bool = False,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Widths are d_model / num_heads by default; `lower_bound` is the least decay, by default
        that of `layer` = (index, depth). With `learned_bound` each channel learns its own.

        Raises ValueError for sizes that cannot be and a bound outside [0, 1).
        """
        sizes = matrix_sizes(d_model, num_heads, d_key, d_value)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, sizes, chunk_size, **options)
        bound = lower_bound_of(lower_bound, layer, param_dtype)
        self.lower_bound = Constant(bound)
        channels = jnp.broadcast_to(bound, (num_heads * sizes.d_key,))
        self.bound = nnx.data(nnx.Param(channels, group="dynamics") if learned_bound else None)
        self.norm = nnx.RMSNorm(num_heads * sizes.d_value, epsilon=norm_eps, **options)

    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        q, forget, v = (self._heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        bound = self.lower_bound[...]
        if self.bound is not None:
            bound = jnp.clip(self._heads(self.bound[...][None, None]), 0, HIGHEST)
        log_decay, k = forget_and_key(forget, bound)
        o, s = self._recur(jax.nn.silu(q), k, v, log_decay, inner, ctx)
        return self.out_proj(self.norm(o.reshape(*x.shape[:2], -1))), s


def forget_and_key(
    logits: Float[Array, "..."], lower_bound: float | Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """log f and 1 - f, in at least float32 and without cancellation."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    key = (1 - lower_bound) * jax.nn.sigmoid(-logits)
    # log1p is never above 0 but infinite where the key rounds to 1, which a bound prevents.
    bounded = lower_bound > 0
    log_bounded = jnp.log1p(-jnp.where(bounded, key, 0))
    return jnp.where(bounded, log_bounded, jax.nn.log_sigmoid(logits)), key
