"""A recurrent network with a HiPPO memory (Gu et al. 2020, arXiv:2008.07669, section 3).

    s_t = [h_{t-1}, m_{t-1}, x_t],   g_t = sigmoid(G s_t)
    h_t = (1 - g_t) h_{t-1} + g_t tanh(W s_t)
    f_t = V h_t,   m_t = A m_{t-1} + B f_t        each of `memories` signals f on its own

m holds the coefficients of f's whole past (LegS, steps of 1 / t, so that no time scale is chosen)
or of a window of it: with measure="legt" it is the memory of the Legendre Memory Unit (Voelker et
al. 2019, NeurIPS 32). A and B are fixed, by the bilinear rule. The memory is kept in the eigenbasis
of A's normal part, where a step of any length costs O(N); G and W read it there, which changes
their initialisation only.
Cost of L tokens: L steps in sequence, O(L H (D + H + memories N)).
State: d_hidden + memories d_state elements per sequence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.scan.nonlinear import nonlinear_scan
from seqzoo.models.recurrent.parts import hidden_width, way_out, wide
from seqzoo.models.ssm.dplr import dplr_step, planes, resolvent
from seqzoo.models.ssm.hippo import Measure, check_even, nplr
from seqzoo.models.ssm.memory import WINDOW


class HippoCell(Mixer):
    """A gated recurrent network that writes to and reads from HiPPO memories; see the module."""

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        d_state: int = 64,
        memories: int = 1,
        measure: Measure = "legs",
        window: float = 256.0,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """State sizes and the memory's measure.

        Args:
            d_model: channels D.
            d_hidden: width of h, by default d_model.
            d_state: coefficients N of one memory, even.
            memories: signals that are remembered.
            measure: legs, legt, fourier, fourier2 or lagt.
            window: tokens that the memory spans (lagt: its time constant); legs has none.
            dtype: of the computation.
            param_dtype: of the parameters.
            rngs: random streams.

        Raises ValueError for an odd d_state, a measure without a window, and sizes below 1.
        """
        if measure not in ("legs", "legt", "fourier", "fourier2", "lagt"):
            raise ValueError(f"unknown {measure=}; known: legs, legt, fourier, fourier2, lagt")
        if window <= 0 or memories < 1:
            raise ValueError(f"window and memories must be positive; got {window=}, {memories=}")
        check_even(d_state)
        self.d_hidden, self.d_state = hidden_width(d_hidden, d_model), d_state
        self.memories, self.measure, self.window = memories, measure, window
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, 2 * self.d_hidden, **options)
        rows = self.d_hidden + memories * d_state
        kernel = jax.random.normal(rngs.params(), (rows, 2 * self.d_hidden), param_dtype)
        self.hidden_kernel = nnx.Param(kernel * rows**-0.5)
        self.memory_proj = Linear(self.d_hidden, memories, use_bias=False, **options)
        self.out_proj = way_out(self.d_hidden, d_model, dtype, param_dtype, rngs)

    def _initial(self, batch_size: int) -> tuple[Float[Array, "B H"], Float[Array, "B K N"]]:
        shapes = ((self.d_hidden,), (self.memories, self.d_state))
        return tuple(jnp.zeros((batch_size, *shape), self.wide) for shape in shapes)

    def state_size(self) -> int:
        """d_hidden + memories d_state."""
        return self.d_hidden + self.memories * self.d_state

    @jax.named_scope("hippo")
    def _mix(self, x, inner, ctx):
        start = self._initial(x.shape[0]) if inner is None else inner
        inputs = wide(self.in_proj(x)), self._ages(x, ctx.segments)
        kernels = wide(self.hidden_kernel[...]), wide(self.memory_proj.matrix())
        (h, _), last = nonlinear_scan(
            self._cell(), inputs, start, kernels=kernels, segment_ids=ctx.segments
        )
        y = h if self.out_proj is None else self.out_proj(h)
        return y, last

    def _ages(self, x: Array, layout: Segments) -> Float[Array, "B L"]:
        """The number of each token in its segment, from 1."""
        return jnp.broadcast_to(layout.position + 1, x.shape[:2]).astype(self.wide)

    def _cell(self):
        """The step (h, m), (in_proj of x_t, t) -> (h, m)."""
        form = nplr(self.measure, self.d_state)
        lam, p, b = (
            jax.lax.complex(jnp.asarray(z.real, self.wide), jnp.asarray(z.imag, self.wide))
            for z in (form.lam, form.p, form.b)
        )
        b = planes(b)
        if self.measure != "legs":
            dt = jnp.asarray(WINDOW[self.measure] / self.window, self.wide)
            fixed = resolvent(lam, p, dt), dt

        def cell(state, inputs, dot, write):
            (h, m), (x, t) = state, inputs
            seen = jnp.concatenate([h, m.reshape(m.shape[0], -1)], axis=1)
            new, gate = jnp.split(x + dot(seen), 2, axis=-1)
            gate = jax.nn.sigmoid(gate)
            h = (1 - gate) * h + gate * jnp.tanh(new)
            f = write(h)[..., None]
            if self.measure != "legs":
                return h, dplr_step(fixed[0], m, b * f, fixed[1])
            dt = 1 / t[:, None]
            return h, dplr_step(resolvent(lam, p, dt), m, b * f, dt)

        return cell
