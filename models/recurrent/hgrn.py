"""The hierarchically gated recurrent network (Qin et al. 2023, arXiv:2311.04823).

    f = γ + (1 - γ) ⊙ σ(W_f x_t + b),   h_t = f ⊙ h_{t-1} + (1 - f) ⊙ silu(W_c x_t)
    out = W_out (rms(h) * scale * silu(W_g x_t))

Differs from the paper as the flash-linear-attention library does: h is real where the paper rotates
it by a fixed phase per channel, and the output's gate is a silu behind a norm. The lower bound γ
rises with depth, l / N in layer l = 0 .. N-1 (0 where no layer is known), or is what `lower_bound`
says; the paper learns the bounds of all layers together from there, here they stay.
Cost of L tokens: O(L H D). State: d_hidden elements per sequence.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Constant, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.recurrent.parts import hidden_width, lower_bound_of, wide


def hgrn(
    forget: Float[Array, "B L H"],
    candidate: Float[Array, "B L H"],
    h0: Float[Array, "B H"] | None = None,
    *,
    lower_bound: float | Float[Array, ""] = 0.0,
    segments: Segments | None = None,
) -> Float[Array, "B L H"]:
    """All states; both inputs are before their nonlinearities."""
    new = (1 - lower_bound) * jax.nn.sigmoid(-forget)  # 1 - f without cancellation
    return linear_scan(1 - new, new * jax.nn.silu(candidate), h0, segment_ids=segments)


class HGRN(Mixer):
    """A gated linear recurrence with a lower bound on its decay; see the module docstring."""

    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        lower_bound: float | None = None,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`lower_bound`: least decay, by default that of `layer` = (index, depth).

        Raises ValueError for a width below 1 and a bound outside [0, 1).
        """
        width = hidden_width(d_hidden, d_model)
        self.d_hidden = width
        self.lower_bound = Constant(lower_bound_of(lower_bound, layer, param_dtype))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, 2 * width, **options)
        self.gate_proj = Linear(d_model, width, **options)
        self.norm = nnx.RMSNorm(width, **options)
        self.out_proj = Linear(width, d_model, **options)

    def _initial(self, batch_size: int) -> Float[Array, "B H"]:
        return jnp.zeros((batch_size, self.d_hidden), self.wide)

    def state_size(self) -> int:
        """d_hidden."""
        return self.d_hidden

    @jax.named_scope("hgrn")
    def _mix(self, x, inner, ctx):
        layout = ctx.segments
        forget, candidate = jnp.split(wide(self.in_proj(x)), 2, axis=-1)
        h = hgrn(forget, candidate, inner, lower_bound=self.lower_bound[...], segments=layout)
        y = self.norm(h) * jax.nn.silu(self.gate_proj(x))
        return self.out_proj(y), h[:, -1]
