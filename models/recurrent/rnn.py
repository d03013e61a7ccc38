"""The simple recurrent network (Elman 1990, doi:10.1207/s15516709cog1402_1).

    h_t = f(W x_t + U h_{t-1} + b)        f = tanh or relu

Equal to `torch.nn.RNN`, whose two biases are one here, their sum. U starts orthogonal, or as the
identity for relu (Le et al. 2015, arXiv:1504.00941). The output is h, projected to d_model where
d_hidden differs. Cost of L tokens: L steps in sequence, O(L H (D + H)).
State: d_hidden elements per sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

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

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def rnn(
    x: Float[Array, "B L H"],
    kernel: Float[Array, "H H"],
    h0: Float[Array, "B H"],
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    segments: Segments | None = None,
) -> tuple[Float[Array, "B L H"], Float[Array, "B H"]]:
    """All states and the last; x is W x_t + b already."""
    f = ACTIVATIONS[activation]

    def cell(h: Array, x: Array, dot: Callable) -> Array:
        return f(x + dot(h))

    return nonlinear_scan(cell, x, h0, kernels=(kernel,), segment_ids=segments)


class RNN(Mixer):
    """A tanh or relu recurrent network; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        activation: Literal["tanh", "relu"] = "tanh",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_hidden`: width of the state, by default d_model.

        Raises ValueError for a width below 1 and an unknown activation.
        """
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown {activation=}; known: {', '.join(ACTIVATIONS)}")
        width = hidden_width(d_hidden, d_model)
        self.d_hidden, self.activation = width, activation
        self.in_proj = Linear(d_model, width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        if activation == "relu":
            kernel = jnp.eye(width, dtype=param_dtype)
        else:
            kernel = orthogonal_gates(rngs.params(), width, width, 1, param_dtype)
        self.hidden_kernel = nnx.Param(kernel)
        self.out_proj = way_out(width, d_model, dtype, param_dtype, rngs)

    def _initial(self, batch_size: int) -> Float[Array, "B H"]:
        return jnp.zeros((batch_size, self.d_hidden), self.wide)

    def state_size(self) -> int:
        """d_hidden."""
        return self.d_hidden

    @jax.named_scope("rnn")
    def _mix(self, x, inner, ctx):
        h0 = self._initial(x.shape[0]) if inner is None else inner
        kernel = wide(self.hidden_kernel[...])
        h, last = rnn(
            wide(self.in_proj(x)), kernel, h0, activation=self.activation, segments=ctx.segments
        )
        y = h if self.out_proj is None else self.out_proj(h)
        return y, last
