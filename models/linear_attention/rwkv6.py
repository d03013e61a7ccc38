"""The time mixing of RWKV-6 "Finch" (Peng et al. 2024, arXiv:2404.05892, section 4).

    m_i = x_t + (x_{t-1} - x_t) ⊙ (μ_i + tanh(c A_i) B_i),  c = x_t + (x_{t-1} - x_t) ⊙ μ_x
    r, k, v, g = W_r m_r, W_k m_k, W_v m_v, W_g m_g,   log w_t = -exp(λ + tanh(m_w A_w) B_w)
    o_t = (S_{t-1} + diag(u) k_t v_tᵀ)ᵀ r_t,   S_t = diag(w_t) S_{t-1} + k_t v_tᵀ
    y_t = W_out (groupnorm(o_t) ⊙ silu(g_t))

i runs over r, k, v, g and w. x_{t-1} is the real token before in the segment, zeros before the
first. The norm is over each head; its eps is that of the published code. Where ours differs: the
channel mixing belongs to the block, and initial values follow the layer's place only where it is
known. Cost of L tokens in chunks of C: O(L C (K + V) + L K V) per head. State: H K K + D elements
per sequence, the second term the last token.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

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
from seqzoo.models.linear_attention.token_shift import place_in_depth, places, token_before
from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention

MIXES = 5  # of r, k, v, g and w; a sixth vector makes what their changes are read from


@stream_state
class RWKV6State(NamedTuple):
    """The last token, and what every head remembers."""

    before: Float[Array, "B 1 D"]
    s: Float[Array, "B H K V"]


class RWKV6(MatrixState):
    """Decays per channel and token, and a bonus for the current one; see the module docstring."""

    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        mix_rank: int = 32,
        decay_rank: int = 64,
        norm_eps: float = 64e-5,
        chunk_size: int | None = None,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`layer`: (index, depth), the first of one where it is not given.

        Raises ValueError for sizes that cannot be.
        """
        if min(mix_rank, decay_rank) < 1:
            raise ValueError(f"ranks must be at least 1; got {mix_rank=}, {decay_rank=}")
        sizes = matrix_sizes(d_model, num_heads, None, None)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, sizes, chunk_size, **options)
        self.norm_eps = norm_eps
        inner = num_heads * sizes.d_key
        mix, decay, bonus = initial_values(d_model, layer, param_dtype)
        linear = {"use_bias": False, **options}
        self.mix = nnx.Param(mix, group="no_decay")
        self.mix_proj = Linear(d_model, MIXES * mix_rank, **linear)
        small = jax.random.uniform(
            rngs.params(), (MIXES, mix_rank, d_model), param_dtype, -0.01, 0.01
        )
        self.B_mix = nnx.Param(small)
        self.in_proj = Linear(d_model, decay_rank, **linear)
        draw = jax.nn.initializers.uniform(0.02)
        self.decay_proj = Linear(decay_rank, inner, kernel_init=draw, **linear)
        self.decay = nnx.Param(decay, group="dynamics")
        self.bonus = nnx.Param(bonus, group="dynamics")
        self.gate_proj = Linear(d_model, inner, **linear)
        self.scale = nnx.Param(jnp.ones(inner, param_dtype))
        self.bias = nnx.Param(jnp.zeros(inner, param_dtype))

    def _initial(self, batch_size: int) -> RWKV6State:
        s = super()._initial(batch_size)
        return RWKV6State(jnp.zeros((batch_size, 1, self.d_model), s.dtype), s)

    def state_size(self) -> int:
        """H K K + D."""
        return super().state_size() + self.d_model

    def _mix(self, x: Float[Array, "B L D"], inner: RWKV6State | None, ctx: Context):
        layout = ctx.segments
        window, s0 = (None, None) if inner is None else inner
        before, window = token_before(x, window, ctx.segments)
        mixed_r, mixed_k, mixed_v, mixed_g, mixed_w = self._mixed(x, before - x)
        q, k, v = (
            self._heads(p(m))
            for p, m in zip(
                (self.q_proj, self.k_proj, self.v_proj), (mixed_r, mixed_k, mixed_v), strict=True
            )
        )
        d = self.decay_proj(jnp.tanh(self.in_proj(mixed_w)))
        d = d.astype(jnp.promote_types(d.dtype, jnp.float32)) + self.decay[...]
        o, s = gated_linear_attention(
            q,
            k,
            v,
            self._heads(-jnp.exp(d)),
            s0,
            chunk_size=self.chunk_size,
            segment_ids=layout,
            read_before=True,
            bonus=self.bonus[...].reshape(self.sizes.heads, -1),
        )
        o = head_layer_norm(o, self.scale[...], self.bias[...], self.norm_eps)
        y = o * jax.nn.silu(self.gate_proj(mixed_g))
        return self.out_proj(y), RWKV6State(window, s)

    def _mixed(self, x: Float[Array, "B L D"], change: Float[Array, "B L D"]) -> list[Array]:
        """x moved towards the token before, by an amount of its own for each of the five."""
        mix = self.mix[...].astype(x.dtype)
        low = jnp.tanh(self.mix_proj(x + change * mix[0]))
        low = low.reshape(*low.shape[:2], MIXES, -1)
        more = jnp.einsum("BLMR,MRD->MBLD", low, self.B_mix[...].astype(low.dtype))
        return [x + change * (mix[i + 1] + more[i]) for i in range(MIXES)]


def initial_values(
    d_model: int, layer: Any, dtype: DTypeLike
) -> tuple[Float[Array, "6 D"], Float[Array, "D"], Float[Array, "D"]]:
    """μ of x, r, k, v, g and w, then λ and u, as the published code sets them by layer."""
    late, early = place_in_depth(layer)
    ratio, place, channel = places(d_model, dtype)
    plain, half = 1 - ratio**early, 1 - ratio ** (0.5 * early)
    mix = jnp.stack([plain, half, plain, plain - 0.3 * late, half, plain])
    decay = 5 * place ** (0.7 + 1.3 * late) - 6
    zigzag = 0.1 * ((channel + 1) % 3 - 1)
    bonus = late * (1 - place) + zigzag
    return mix.astype(dtype), decay.astype(dtype), bonus.astype(dtype)
