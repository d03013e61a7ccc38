"""Long short-term memory (Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735).

    i = σ(W_i x_t + U_i h_{t-1} + b_i),  f = σ(.. f),  g = tanh(.. g),  o = σ(.. o)
    c_t = f ⊙ c_{t-1} + i ⊙ g,   h_t = P (o ⊙ tanh(c_t))

with the forget gate of Gers et al. 2000, P the identity or a projection to d_proj (Sak et al. 2014,
arXiv:1402.1128), and, with `peephole` (Gers et al. 2002), p_i ⊙ c_{t-1}, p_f ⊙ c_{t-1}, p_o ⊙ c_t
inside the gates. Without peepholes equal to `torch.nn.LSTM`, whose two biases are one here, their
sum. Gates are in the order i, f, g, o; U starts orthogonal for each, b_f at `forget_bias`
(1: Jozefowicz et al. 2015). The output is h, projected to d_model where its width differs.
Cost of L tokens: L steps in sequence, O(L H (D + H)).
State: d_hidden + d_proj elements per sequence (d_proj being d_hidden without a projection).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.scan.nonlinear import nonlinear_scan
from seqzoo.models.recurrent.parts import hidden_width, orthogonal_gates, way_out, wide


@stream_state
class LSTMState(NamedTuple):
    """Output and cell of each row."""

    h: Float[Array, "... P"]
    c: Float[Array, "... H"]


class LSTMWeights(NamedTuple):
    """What acts inside the loop; optional parts are None."""

    kernel: Float[Array, "P 4*H"]  # U
    peephole: Float[Array, "3 H"] | None = None  # p_i, p_f, p_o
    projection: Float[Array, "H P"] | None = None


def lstm(
    x: Float[Array, "B L 4*H"],
    weights: LSTMWeights,
    initial: LSTMState,
    *,
    segments: Segments | None = None,
) -> tuple[LSTMState, LSTMState]:
    """All states [B, L, ..] and the last; x is W x_t + b already."""
    kernel, peephole, projection = weights
    if peephole is not None:
        peephole = [jnp.broadcast_to(p, initial.c.shape) for p in peephole]

    def cell(state: LSTMState, x: Array, dot: Callable, project: Callable | None = None):
        z = x + dot(state.h)
        c, h = _gated(z, state.c) if peephole is None else _with_peephole(z, state.c, *peephole)
        return LSTMState(h if project is None else project(h), c)

    kernels = (kernel,) if projection is None else (kernel, projection)
    return nonlinear_scan(cell, x, initial, kernels=kernels, segment_ids=segments)


def _gated(z: Float[Array, "B 4*H"], c: Float[Array, "B H"]) -> tuple[Array, Array]:
    """The next c, and o ⊙ tanh(c).

    One logistic for all gates, tanh(g) = 2 σ(2 g) - 1: on slices of four gates the functions take
    a tenth of the whole training step more.
    """
    width = c.shape[-1]
    twice = jnp.repeat(jnp.array([1, 1, 2, 1], z.dtype), width)
    i, f, s, o = jnp.split(jax.nn.sigmoid(z * twice), 4, axis=-1)
    c = f * c + i * _candidate(z[..., 2 * width : 3 * width], s)
    return c, o * jnp.tanh(c)


def _candidate(g: Float[Array, "B H"], s: Float[Array, "B H"]) -> Float[Array, "B H"]:
    """tanh(g) from s = σ(2 g); near 0, where 2 s - 1 has few digits, from the series in g.

    Derivatives are those of 2 s - 1, which has all of its own.
    """
    near = 0.01 if g.dtype == jnp.float64 else 0.2
    y = 2 * s - 1
    g = jax.lax.stop_gradient(g)
    square = g * g
    series = g + g * square * (-1 / 3 + square * (2 / 15 - square * (17 / 315)))
    lost = jnp.where(square < near * near, series - jax.lax.stop_gradient(y), 0)
    return y + lost


def _with_peephole(z, c, p_i, p_f, p_o) -> tuple[Array, Array]:
    i, f, g, o = jnp.split(z, 4, axis=-1)
    i, f = jax.nn.sigmoid(i + p_i * c), jax.nn.sigmoid(f + p_f * c)
    c = f * c + i * jnp.tanh(g)
    return c, jax.nn.sigmoid(o + p_o * c) * jnp.tanh(c)


class LSTM(Mixer):
    """Long short-term memory; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        d_proj: int | None = None,
        peephole: bool = False,
        forget_bias: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_hidden`: width of the cell, by default d_model; `d_proj`: width of h, smaller.

        Raises ValueError for a width below 1 and a d_proj that is not below d_hidden.
        """
        width = hidden_width(d_hidden, d_model)
        if d_proj is not None and not 0 < d_proj < width:
            raise ValueError(f"d_proj must be in 1 .. d_hidden - 1 = {width - 1}; got {d_proj=}")
        out = width if d_proj is None else d_proj
        self.d_hidden, self.d_out = width, out
        self.in_proj = Linear(d_model, 4 * width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.in_proj.bias[...] = self.in_proj.bias[...].at[width : 2 * width].set(forget_bias)
        self.hidden_kernel = nnx.Param(orthogonal_gates(rngs.params(), out, width, 4, param_dtype))
        self.hidden_scale = nnx.Param(jnp.zeros((3, width), param_dtype)) if peephole else None
        projection = orthogonal_gates(rngs.params(), width, out, 1, param_dtype)
        self.hidden_proj = None if d_proj is None else nnx.Param(projection)
        self.out_proj = way_out(out, d_model, dtype, param_dtype, rngs)

    def _initial(self, batch_size: int) -> LSTMState:
        widths = (self.d_out, self.d_hidden)
        return LSTMState(*(jnp.zeros((batch_size, width), self.wide) for width in widths))

    def state_size(self) -> int:
        """d_hidden + d_proj."""
        return self.d_hidden + self.d_out

    @jax.named_scope("lstm")
    def _mix(self, x, inner, ctx):
        initial = self._initial(x.shape[0]) if inner is None else inner
        weights = LSTMWeights(
            wide(self.hidden_kernel[...]),
            None if self.hidden_scale is None else wide(self.hidden_scale[...]),
            None if self.hidden_proj is None else wide(self.hidden_proj[...]),
        )
        states, last = lstm(wide(self.in_proj(x)), weights, initial, segments=ctx.segments)
        y = states.h if self.out_proj is None else self.out_proj(states.h)
        return y, last
