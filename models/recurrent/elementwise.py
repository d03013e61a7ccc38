"""Recurrent networks whose recurrence is elementwise: IndRNN, QRNN and SRU.

    IndRNN: h_t = f(W x_t + b + decay ⊙ h_{t-1})                   Li et al. 2018, arXiv:1803.04831
    QRNN:   z, f, o = tanh, σ, σ of a causal convolution of `width` steps;
            c_t = f ⊙ c_{t-1} + (1 - f) ⊙ z,   h_t = o ⊙ c_t       Bradbury et al. 2016, 1611.01576
    SRU:    f = σ(W_f x_t + v_f ⊙ c_{t-1} + b_f),   c_t = f ⊙ c_{t-1} + (1 - f) ⊙ W x_t,
            r = σ(W_r x_t + v_r ⊙ c_{t-1} + b_r),   h_t = r ⊙ c_t + (1 - r) ⊙ α x_t
                                                                   Lei et al. 2018, arXiv:1709.02755

QRNN is linear given its gates and runs by `linear_scan`, without zoneout. SRU's highway α is
sqrt(3), the published 1 + 2 exp(b) under the root at b_r = 0; its width is d_model. IndRNN's
decays start uniform in [0, 1] and act at most as γ^(1/T) in size (section 3.2), so that a state
grows by no more than γ = `growth` in T = `length` tokens; the paper clips them after each step of
the optimiser.
Cost of L tokens: O(L H D), for QRNN times its width.
State per sequence: IndRNN d_hidden; QRNN d_hidden + (width - 1) d_model; SRU d_model elements.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.conv.short import short_conv
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.ops.scan.nonlinear import nonlinear_scan
from seqzoo.models.recurrent.parts import hidden_width, way_out, wide

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


def ind_rnn(
    x: Float[Array, "B L H"],
    decay: Float[Array, "H"],
    h0: Float[Array, "B H"],
    *,
    activation: Literal["relu", "tanh"] = "relu",
    segments: Segments | None = None,
) -> tuple[Float[Array, "B L H"], Float[Array, "B H"]]:
    """All states and the last; x is W x_t + b already."""
    f, decay = ACTIVATIONS[activation], jnp.broadcast_to(decay, h0.shape)
    return nonlinear_scan(lambda h, x: f(x + decay * h), x, h0, segment_ids=segments)


def sru(
    x: Float[Array, "B L 4*D"],
    weights: Float[Array, "2 D"],
    c0: Float[Array, "B D"],
    *,
    segments: Segments | None = None,
) -> tuple[Float[Array, "B L D"], Float[Array, "B D"]]:
    """Outputs and the last c; x holds W x_t, W_f x_t + b_f, W_r x_t + b_r and α x_t."""

    v_f, v_r = (jnp.broadcast_to(v, c0.shape) for v in weights)

    def cell(state: tuple[Array, Array], x: Array) -> tuple[Array, Array]:
        c = state[0]
        value, forget, reset, highway = jnp.split(x, 4, axis=-1)
        f = jax.nn.sigmoid(forget + v_f * c)
        r = jax.nn.sigmoid(reset + v_r * c)
        c = f * c + (1 - f) * value
        return c, r * c + (1 - r) * highway

    (_, h), (c, _) = nonlinear_scan(cell, x, (c0, jnp.zeros_like(c0)), segment_ids=segments)
    return h, c


class IndRNN(Mixer):
    """An independently recurrent network; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        activation: Literal["relu", "tanh"] = "relu",
        growth: float = 2.0,
        length: int = 2048,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`growth`: most that `length` tokens may make of a state; `length` 0: no bound.

        Raises ValueError for a width below 1, an unknown activation and a bound that is none.
        """
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown {activation=}; known: {', '.join(ACTIVATIONS)}")
        if not growth > 0 or length < 0:
            raise ValueError(f"growth is a factor above 0 of length >= 0; got {growth=}, {length=}")
        width = hidden_width(d_hidden, d_model)
        self.d_hidden, self.activation = width, activation
        self.bound = growth ** (1 / length) if length else None
        self.in_proj = Linear(d_model, width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        decay = jax.random.uniform(rngs.params(), (width,), param_dtype)
        self.decay = nnx.Param(decay, group="dynamics")
        self.out_proj = way_out(width, d_model, dtype, param_dtype, rngs)

    def _initial(self, batch_size: int) -> Float[Array, "B H"]:
        return jnp.zeros((batch_size, self.d_hidden), self.wide)

    def state_size(self) -> int:
        """d_hidden."""
        return self.d_hidden

    @jax.named_scope("indrnn")
    def _mix(self, x, inner, ctx):
        h0 = self._initial(x.shape[0]) if inner is None else inner
        u, decay = wide(self.in_proj(x)), wide(self.decay[...])
        if self.bound is not None:
            # Gradients are those of the bound, so that a weight that went past it comes back.
            bounded = jnp.clip(decay, -self.bound, self.bound)
            decay = decay + jax.lax.stop_gradient(bounded - decay)
        h, last = ind_rnn(u, decay, h0, activation=self.activation, segments=ctx.segments)
        y = h if self.out_proj is None else self.out_proj(h)
        return y, last


@stream_state
class QRNNState(NamedTuple):
    """The last inputs of the convolution and the cell."""

    window: Float[Array, "B W-1 D"]
    c: Float[Array, "B H"]


class QRNN(Mixer):
    """A quasi-recurrent network with fo-pooling; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        width: int = 2,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`width`: steps that the convolution sees. Raises ValueError for sizes below 1."""
        if width < 1:
            raise ValueError(f"width counts the current token and must be at least 1; got {width=}")
        hidden = hidden_width(d_hidden, d_model)
        self.d_hidden, self.width = hidden, width
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(width * d_model, 3 * hidden, **options)
        self.out_proj = way_out(hidden, d_model, dtype, param_dtype, rngs)

    def _initial(self, batch_size: int) -> QRNNState:
        window = jnp.zeros((batch_size, self.width - 1, self.d_model), self.wide)
        return QRNNState(window, jnp.zeros((batch_size, self.d_hidden), self.wide))

    def state_size(self) -> int:
        """d_hidden + (width - 1) d_model."""
        return self.d_hidden + (self.width - 1) * self.d_model

    @jax.named_scope("qrnn")
    def _mix(self, x, inner, ctx):
        layout = ctx.segments
        window, c0 = (None, None) if inner is None else inner
        taken = jnp.eye(self.width, dtype=x.dtype)[..., None] * jnp.ones(x.shape[-1], x.dtype)
        parts = [short_conv(x, kernel, window, segment_ids=layout) for kernel in taken]
        seen, window = jnp.concatenate([y for y, _ in parts], axis=-1), parts[0][1]
        z, f, o = jnp.split(wide(self.in_proj(seen)), 3, axis=-1)
        new = jax.nn.sigmoid(-f) * jnp.tanh(z)
        c = linear_scan(jax.nn.sigmoid(f), new, c0, segment_ids=layout)
        y = jax.nn.sigmoid(o) * c
        y = y if self.out_proj is None else self.out_proj(y)
        return y, QRNNState(window, c[:, -1])


class SRU(Mixer):
    """A simple recurrent unit with its highway; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, d_model, use_bias=False, **options)
        self.gate_proj = Linear(d_model, 2 * d_model, **options)
        weights = jax.random.uniform(rngs.params(), (2, d_model), param_dtype, -1, 1)
        self.hidden_scale = nnx.Param(weights * math.sqrt(3), group="no_decay")

    def _initial(self, batch_size: int) -> Float[Array, "B D"]:
        return jnp.zeros((batch_size, self.d_model), self.wide)

    def state_size(self) -> int:
        """d_model."""
        return self.d_model

    @jax.named_scope("sru")
    def _mix(self, x, inner, ctx):
        c0 = self._initial(x.shape[0]) if inner is None else inner
        parts = (self.in_proj(x), self.gate_proj(x), math.sqrt(3) * x)
        u = jnp.concatenate([wide(p) for p in parts], axis=-1)
        h, c = sru(u, wide(self.hidden_scale[...]), c0, segments=ctx.segments)
        return h, c
