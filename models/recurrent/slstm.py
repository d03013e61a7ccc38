"""The sLSTM of xLSTM (Beck et al. 2024, arXiv:2405.04517, eq. 8 to 18).

    i, f, z, o = W x_t + R h_{t-1} + b               x_t behind a convolution and silu for i and f
    c_t = σ(f) c_{t-1} + e^i tanh(z),   n_t = σ(f) n_{t-1} + e^i,   h_t = σ(o) c_t / n_t
    y_t = layernorm(h_t) scale

c and n are kept in units of e^{m_t}, m_t = max(log σ(f) + m_{t-1}, i), i at the first token. W, R
are block-diagonal over heads, and the norm is over each head. R starts at 0, forget biases between
5 and -7 by a power of the channel's place that rises with depth, as published. The feed-forward
behind it belongs to the block. Cost of L tokens: L steps in sequence, O(L D^2 / H).
State: (4 + d_conv - 1) D elements per sequence: h, c, n, m and the convolution's window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear_attention.matrix_state import head_layer_norm
from seqzoo.models.linear_attention.token_shift import place_in_depth
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.scan.nonlinear import nonlinear_scan
from seqzoo.models.ops.scan.running_max import carried
from seqzoo.models.recurrent.parts import wide
from seqzoo.models.recurrent.rg_lru import BlockDiagonal


@stream_state
class SLSTMState(NamedTuple):
    """Output, cell and normaliser in units of e^m, and m; zeros before the first token."""

    h: Float[Array, "... D"]
    c: Float[Array, "... D"]
    n: Float[Array, "... D"]
    m: Float[Array, "... D"]


def slstm(
    x: Float[Array, "B L 4 D"],
    kernel: Float[Array, "H E 4*E"],
    initial: SLSTMState,
    *,
    segments: Segments | None = None,
) -> tuple[SLSTMState, SLSTMState]:
    """All states and the last; x is W x_t + b already, gates i, f, z, o along axis 2.

    `kernel` holds R by heads of E channels, the gates one after another.
    """
    heads = kernel.shape[0]

    def cell(state: SLSTMState, x: Array, dot: Callable) -> SLSTMState:
        h, c, n, m = state
        back = dot(h.reshape(h.shape[0], heads, -1)).reshape(h.shape[0], heads, 4, -1)
        back = jnp.swapaxes(back, 1, 2).reshape(x.shape)
        i, f, z, o = jnp.moveaxis(x + back, 1, 0)
        kept = jax.nn.log_sigmoid(f) + m
        fresh = n == 0  # no token yet
        # What the sums mean does not depend on m, so it has no gradient.
        m = jax.lax.stop_gradient(jnp.where(fresh, i, jnp.maximum(kept, i)))
        forget = jnp.where(fresh, 0, jnp.exp(jnp.where(fresh, 0, kept - m)))
        new = jnp.exp(i - m)
        c, n = forget * c + new * jnp.tanh(z), forget * n + new
        return SLSTMState(jax.nn.sigmoid(o) * c / n, c, n, m)

    unit = carried(initial.m)
    initial = initial._replace(c=initial.c * unit, n=initial.n * unit)
    return nonlinear_scan(cell, x, initial, kernels=(kernel,), segment_ids=segments)


@stream_state
class SLSTMMixerState(NamedTuple):
    """The last inputs of the convolution, None without one, and the cell."""

    window: Float[Array, "B W-1 D"] | None
    cell: SLSTMState


class SLSTM(Mixer):
    """A recurrent network with exponential input gates; see the module docstring."""

    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_conv: int = 4,
        norm_eps: float = 1e-5,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_conv`: taps of the convolution, 0 for none; `layer`: (index, depth).

        Raises ValueError where num_heads does not divide d_model.
        """
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model={d_model}; got {num_heads=}")
        self.norm_eps = norm_eps
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv = DepthwiseConv(d_model, d_conv, **options) if d_conv else None
        self.conv = nnx.data(conv)
        names = ("input_gate", "forget_gate", "value", "output_gate")
        for name in names:
            setattr(self, f"{name}_proj", BlockDiagonal(d_model, num_heads, **options))
        head = d_model // num_heads
        self.forget_gate_proj.bias[...] = forget_bias(num_heads, head, layer, param_dtype)
        self.hidden_kernel = nnx.Param(jnp.zeros((num_heads, head, 4 * head), param_dtype))
        self.scale = nnx.Param(jnp.ones(d_model, param_dtype))

    def _initial(self, batch_size: int) -> SLSTMMixerState:
        zeros = jnp.zeros((batch_size, self.d_model), self.wide)
        window = None if self.conv is None else self.conv.initial(batch_size)
        return SLSTMMixerState(window, SLSTMState(zeros, zeros, zeros, zeros))

    def state_size(self) -> int:
        """(4 + d_conv - 1) d_model, 4 d_model without a convolution."""
        return 4 * self.d_model + (0 if self.conv is None else self.conv.state_size())

    @jax.named_scope("slstm")
    def _mix(self, x: Float[Array, "B L D"], inner: SLSTMMixerState | None, ctx: Context):
        window, cell = self._initial(x.shape[0]) if inner is None else inner
        local = x
        if self.conv is not None:
            local, window = self.conv(x, window, ctx.segments)
            local = jax.nn.silu(local)
        gates = (
            self.input_gate_proj(local),
            self.forget_gate_proj(local),
            self.value_proj(x),
            self.output_gate_proj(x),
        )
        kernel = wide(self.hidden_kernel[...])
        states, cell = slstm(wide(jnp.stack(gates, 2)), kernel, cell, segments=ctx.segments)
        h = states.h.reshape(*x.shape[:2], kernel.shape[0], -1)
        y = head_layer_norm(h, self.scale[...], None, self.norm_eps)
        return y, SLSTMMixerState(window, cell)


def forget_bias(heads: int, width: int, layer: Any, dtype: DTypeLike) -> Float[Array, "H E"]:
    """5 - 12 (e / (E - 1))^(0.3 + 1.3 l / (N - 1)) for channel e of a head in layer l of N."""
    late, _ = place_in_depth(layer)
    place = jnp.arange(width, dtype=dtype) / max(width - 1, 1)
    bias = 5 - 12 * place ** (0.3 + 1.3 * late)
    return jnp.broadcast_to(bias.astype(dtype), (heads, width))
