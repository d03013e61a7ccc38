"""minGRU and minLSTM (Feng et al. 2024, "Were RNNs all we needed?", arXiv:2410.01201).

    minGRU:   z = σ(W_z x_t),   h_t = (1 - z) ⊙ h_{t-1} + z ⊙ g(W_h x_t)
    minLSTM:  f = σ(W_f x_t),  i = σ(W_i x_t),   h_t = f/(f+i) ⊙ h_{t-1} + i/(f+i) ⊙ g(W_h x_t)

(sections 3.1 and 3.2; biases in every map). g(x) = x + 1/2 for x >= 0 and σ(x) below, which keeps
states positive (appendix B), or the identity with `positive=False`. The paper trains in logarithms,
by a cumulative log-sum-exp; here the same h_t comes from `linear_scan` on the gates, whose decays
are differences of logarithms and so lose nothing. The state starts at 0. The output is h, projected
to d_model where d_hidden differs. Cost of L tokens: O(L H D). State: d_hidden elements a sequence.
"""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.recurrent.parts import hidden_width, way_out, wide


def positive_part(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """g: x + 1/2 where x >= 0, σ(x) below; continuous with its slope halved there."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


def min_gru(
    gate: Float[Array, "B L H"],
    candidate: Float[Array, "B L H"],
    h0: Float[Array, "B H"] | None = None,
    *,
    segments: Segments | None = None,
) -> Float[Array, "B L H"]:
    """All states; `gate` is W_z x_t before σ, `candidate` g(W_h x_t)."""
    keep = jax.nn.sigmoid(-gate)  # 1 - σ(gate) without cancellation
    return linear_scan(keep, jax.nn.sigmoid(gate) * candidate, h0, segment_ids=segments)


def min_lstm(
    forget: Float[Array, "B L H"],
    input: Float[Array, "B L H"],
    candidate: Float[Array, "B L H"],
    h0: Float[Array, "B H"] | None = None,
    *,
    segments: Segments | None = None,
) -> Float[Array, "B L H"]:
    """All states; the gates are before σ. f/(f+i) = 1 - σ(log i - log f)."""
    odds = jax.nn.log_sigmoid(input) - jax.nn.log_sigmoid(forget)
    return min_gru(odds, candidate, h0, segments=segments)


class _MinRNN(Mixer):
    """What the two have in common: one projection into gates and candidate."""

    gates = 1

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        positive: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_hidden`: width of the state, by default d_model; `positive`: whether g is applied.

        Raises ValueError for a width below 1.
        """
        width = hidden_width(d_hidden, d_model)
        self.d_hidden, self.positive = width, positive
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, (self.gates + 1) * width, **options)
        self.out_proj = way_out(width, d_model, dtype, param_dtype, rngs)

    def _initial(self, batch_size: int) -> Float[Array, "B H"]:
        return jnp.zeros((batch_size, self.d_hidden), self.wide)

    def state_size(self) -> int:
        """d_hidden."""
        return self.d_hidden

    @abc.abstractmethod
    def _states(self, gates, candidate, h0, layout) -> Array:
        """All states from the pre-activations of the gates."""

    def _mix(self, x, inner, ctx):
        *gates, candidate = jnp.split(wide(self.in_proj(x)), self.gates + 1, axis=-1)
        candidate = positive_part(candidate) if self.positive else candidate
        layout = ctx.segments
        h = self._states(gates, candidate, inner, layout)
        y = h if self.out_proj is None else self.out_proj(h)
        return y, h[:, -1]


class MinGRU(_MinRNN):
    """The minimal gated recurrent unit; see the module docstring."""

    @jax.named_scope("min_gru")
    def _states(self, gates, candidate, h0, layout):
        return min_gru(*gates, candidate, h0, segments=layout)


class MinLSTM(_MinRNN):
    """The minimal LSTM, its gates normalised to add up to 1; see the module docstring."""

    gates = 2

    @jax.named_scope("min_lstm")
    def _states(self, gates, candidate, h0, layout):
        return min_lstm(*gates, candidate, h0, segments=layout)
