"""The time mixing of RWKV-4 (Peng et al. 2023, arXiv:2305.13048, section 3).

    m_i = x_t + (x_{t-1} - x_t) ⊙ μ_i,   r, k, v = W_r m_r, W_k m_k, W_v m_v
    y_t = W_out (σ(r_t) ⊙ wkv_t)

with wkv the average of the values by e^{k}, decaying with distance, of
`ops/scan/wkv_recurrence.py`; log decays are -e^λ. Where ours differs: μ is how much of the token
before, as in RWKV-6; with `share_of_now` of the current one, as in the code of 4. Channel mixing
belongs to the block (`feedforward="rwkv"` or "rwkv4"). Cost of L tokens: O(L D H) and a scan.
State: 3 H + D elements per sequence, H = d_hidden: two sums, their exponent, and the last token.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.token_shift import (
    interpolate,
    place_in_depth,
    places,
    token_before,
)
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.scan.wkv_recurrence import WKVState, wkv, wkv_initial
from seqzoo.models.recurrent.parts import hidden_width, wide


@stream_state
class RWKV4State(NamedTuple):
    """The last token, and the sums."""

    before: Float[Array, "B 1 D"]
    sums: WKVState


class RWKV4(Mixer):
    """An attention-free average with a decay per channel; see the module docstring."""

    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        share_of_now: bool = False,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_hidden`: width of the sums, by default d_model; `layer`: (index, depth).

        Raises ValueError for a width below 1.
        """
        width = hidden_width(d_hidden, d_model)
        self.d_hidden = width
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, width, **options)  # the receptance r
        self.k_proj = Linear(d_model, width, **options)
        self.v_proj = Linear(d_model, width, **options)
        self.out_proj = Linear(width, d_model, **options)
        mix, decay, bonus = initial_values(d_model, width, layer, param_dtype)
        self.share_of_now = share_of_now
        self.mix = nnx.Param(1 - mix if share_of_now else mix, group="no_decay")
        self.decay = nnx.Param(decay, group="dynamics")
        self.bonus = nnx.Param(bonus, group="dynamics")

    def _initial(self, batch_size: int) -> RWKV4State:
        before = jnp.zeros((batch_size, 1, self.d_model), self.wide)
        return RWKV4State(before, wkv_initial(batch_size, self.d_hidden, self.wide))

    def state_size(self) -> int:
        """3 d_hidden + d_model."""
        return 3 * self.d_hidden + self.d_model

    @jax.named_scope("rwkv4")
    def _mix(self, x: Float[Array, "B L D"], inner: RWKV4State | None, ctx: Context):
        window, sums = (None, None) if inner is None else inner
        before, window = token_before(x, window, ctx.segments)
        r, k, v = (
            proj(interpolate(x, before, self.mix[i], self.share_of_now))
            for i, proj in enumerate((self.q_proj, self.k_proj, self.v_proj))
        )
        layout = ctx.segments
        log_decay = -jnp.exp(wide(self.decay[...]))
        o, sums = wkv(wide(k), wide(v), log_decay, self.bonus[...], sums, segment_ids=layout)
        y = jax.nn.sigmoid(wide(r)) * o
        return self.out_proj(y), RWKV4State(window, sums)


def initial_values(
    d_model: int, d_hidden: int, layer: Any, dtype: DTypeLike
) -> tuple[Float[Array, "3 D"], Float[Array, "H"], Float[Array, "H"]]:
    """μ of r, k and v, then λ and u, as the published code sets them by layer."""
    late, early = place_in_depth(layer)
    ratio, _, _ = places(d_model, dtype)
    plain = 1 - ratio**early
    mix = jnp.stack([1 - ratio ** (0.5 * early), plain, plain - 0.3 * late])
    _, place, channel = places(d_hidden, dtype)
    decay = 8 * place ** (0.7 + 1.3 * late) - 5
    bonus = jnp.log(0.3) + 0.5 * ((channel + 1) % 3 - 1)
    return mix.astype(dtype), decay.astype(dtype), bonus.astype(dtype)
