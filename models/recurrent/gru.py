"""The gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).

    r = σ(W_r x_t + U_r h_{t-1} + b_r),   z = σ(W_z x_t + U_z h_{t-1} + b_z)
    n = tanh(W_n x_t + b_n + r ⊙ (U_n h_{t-1} + c))        reset_after=True, as in torch and cuDNN
    n = tanh(W_n x_t + b_n + U_n (r ⊙ h_{t-1}))            reset_after=False, as in the paper
    h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}

With reset_after equal to `torch.nn.GRU`; where torch adds two biases there is one here, their sum,
except c, which the reset gate scales. Gates are in the order r, z, n; U starts orthogonal for each.
The output is h, projected to d_model where d_hidden differs.
Cost of L tokens: L steps in sequence, O(L H (D + H)). State: d_hidden elements per sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.scan.nonlinear import nonlinear_scan
from seqzoo.models.recurrent.parts import hidden_width, orthogonal_gates, way_out, wide


def gru(
    x: Float[Array, "B L 3*H"],
    kernel: Float[Array, "H 3*H"],
    hidden_bias: Float[Array, "H"] | None,
    h0: Float[Array, "B H"],
    *,
    segments: Segments | None = None,
) -> tuple[Float[Array, "B L H"], Float[Array, "B H"]]:
    """All states and the last; x is W x_t + b already, kernel U. No `hidden_bias`: reset before."""

    def reset_after(h: Array, x: Array, dot: Callable) -> Array:
        x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(dot(h), 3, axis=-1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + r * (h_n + bias))
        return (1 - z) * n + z * h

    def reset_before(h: Array, x: Array, dot: Callable, dot_new: Callable) -> Array:
        x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
        h_r, h_z = jnp.split(dot(h), 2, axis=-1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + dot_new(r * h))
        return (1 - z) * n + z * h

    if hidden_bias is None:
        kernels = jnp.split(kernel, [2 * h0.shape[-1]], axis=1)
        return nonlinear_scan(reset_before, x, h0, kernels=kernels, segment_ids=segments)
    bias = jnp.broadcast_to(hidden_bias, h0.shape)
    return nonlinear_scan(reset_after, x, h0, kernels=(kernel,), segment_ids=segments)


class GRU(Mixer):
    """A gated recurrent unit; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        reset_after: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_hidden`: width of the state, by default d_model. Raises ValueError below 1."""
        width = hidden_width(d_hidden, d_model)
        self.d_hidden = width
        self.in_proj = Linear(d_model, 3 * width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.hidden_kernel = nnx.Param(
            orthogonal_gates(rngs.params(), width, width, 3, param_dtype)
        )
        bias = jnp.zeros(width, param_dtype)
        self.hidden_bias = nnx.Param(bias, group="no_decay") if reset_after else None
        self.out_proj = way_out(width, d_model, dtype, param_dtype, rngs)

    def _initial(self, batch_size: int) -> Float[Array, "B H"]:
        return jnp.zeros((batch_size, self.d_hidden), self.wide)

    def state_size(self) -> int:
        """d_hidden."""
        return self.d_hidden

    @jax.named_scope("gru")
    def _mix(self, x, inner, ctx):
        h0 = self._initial(x.shape[0]) if inner is None else inner
        bias = None if self.hidden_bias is None else wide(self.hidden_bias[...])
        kernel = wide(self.hidden_kernel[...])
        h, last = gru(wide(self.in_proj(x)), kernel, bias, h0, segments=ctx.segments)
        y = h if self.out_proj is None else self.out_proj(h)
        return y, last
