"""RWKV's feed-forward, which reads the token before too.

    k_t = relu(W_k (x_t + (x_{t-1} - x_t) ⊙ μ_k))²
    y_t = σ(W_r (x_t + (x_{t-1} - x_t) ⊙ μ_r)) ⊙ W_v k_t       RWKV-4 to 6, arXiv:2305.13048, eq. 18
    y_t = W_v k_t                                              RWKV-7, arXiv:2503.14456

A block has it where `feedforward` is "rwkv" or "rwkv7". State: the last token, D elements.
"""

from __future__ import annotations

from typing import Any

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


class ChannelMix(Mixer):
    """A squared-relu network over mixtures of neighbouring tokens; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        receptance: bool = True,
        share_of_now: bool = False,
        expansion: float = 4.0,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`receptance`: whether the outputs are gated; `layer`: (index, depth).

        `share_of_now`: μ is how much of the current token, as the code of RWKV-4 keeps it.
        """
        hidden = max(1, round(expansion * d_model))
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.up_proj = Linear(d_model, hidden, **options)
        self.down_proj = Linear(hidden, d_model, **options)
        gate = Linear(d_model, d_model, **options) if receptance else None
        self.gate_proj = nnx.data(gate)
        _, early = place_in_depth(layer)
        ratio, _, _ = places(d_model, param_dtype)
        # RWKV-7 mixes by the fourth power of the others' share.
        powers = [early, early] if receptance else [early**4]
        mix = jnp.stack([1 - ratio**p for p in powers])
        self.share_of_now = share_of_now
        self.mix = nnx.Param(
            (1 - mix if share_of_now else mix).astype(param_dtype), group="no_decay"
        )

    def _initial(self, batch_size: int) -> Float[Array, "B 1 D"]:
        return jnp.zeros((batch_size, 1, self.d_model), self.wide)

    def state_size(self) -> int:
        """d_model."""
        return self.d_model

    @jax.named_scope("rwkv_channel_mix")
    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        before, window = token_before(x, inner, ctx.segments)
        mixed = [interpolate(x, before, mu, self.share_of_now) for mu in self.mix[...]]
        y = self.down_proj(jax.nn.relu(self.up_proj(mixed[0])) ** 2)
        if self.gate_proj is not None:
            y = jax.nn.sigmoid(self.gate_proj(mixed[1])) * y
        return y, window
