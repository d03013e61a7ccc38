"""Oscillators as a state space: LinOSS (Rusch and Rus 2024, arXiv:2410.03943) and D-LinOSS.

    x'' = -A x - G x' + B u,   y = C x + D ⊙ u            P oscillators, B [P, D], C [D, P]

with A = relu(a) and steps Δ = σ(s), one each. In time steps (equations 3 to 6):

    "im"      z_t = z_{t-1} + Δ (-A x_t + B u_t),      x_t = x_{t-1} + Δ z_t          G = 0
    "imex"    z_t = z_{t-1} + Δ (-A x_{t-1} + B u_t),  x_t = x_{t-1} + Δ z_t          G = 0
    "damped"  z_t = z_{t-1} + Δ (-A x_{t-1} - G z_t + B u_t),  x_t = x_{t-1} + Δ z_t  G = relu(g)

"im" forgets, "imex" keeps all energy, "damped" (Boyer et al. 2025, arXiv:2505.12171) learns how
much. Each oscillator is one complex mode: with λ an eigenvalue of its step,

    h_t = λ h_{t-1} + (B u)_t,   x_t = Δ² |λ|² Im(λ h_t) / Im λ,

    λ = (1 + i ω) / (1 + ω²) for "im", ω = Δ sqrt(A); else |λ|² = 1 / (1 + Δ G) and
    2 Re λ = 1 + |λ|² (1 - Δ² A).

That is `diagonal_ssm`, an input and an output for each mode. Δ² A is kept where λ is no real number
(for "damped" the paper's own rule, its proposition 3.1). GELU and a linear GLU follow with `gate`.

Where ours differs: B and C are real, of as many oscillators as there are rows; the paper's complex
ones are those of two that share A, G and Δ. GELU is exact. Initial λ of "damped" are uniform in
area on a ring; a, s of the others uniform in [0, 1] as published.
Cost of L tokens: O(L D P), plus O(L D²) for the gate. State: 2 P elements per sequence.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.ssm.diagonal import CHUNK, diagonal_ssm
from seqzoo.models.ssm.parts import check_chunk, gelu_glu

Scheme = Literal["im", "imex", "damped"]
KINDS = ("im", "imex", "damped")
FLAT = 1e-5  # how near Δ² A may come to where λ is real, in units of what lies between


class LinOSS(Mixer):
    """Linear oscillators between dense maps; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        kind: Scheme = "imex",
        r_min: float = 0.9,
        r_max: float = 1.0,
        gate: bool = True,
        chunk_size: int = CHUNK,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_state`: oscillators P; `r_min`, `r_max`: the ring on which λ of "damped" starts.

        Raises ValueError for an unknown kind, no oscillators, radii that are no part of (0, 1] in
        order, and a chunk size that is no power of two.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown {kind=}; known: {', '.join(KINDS)}")
        if d_state < 1 or not 0 < r_min <= r_max <= 1:
            raise ValueError(
                "d_state is at least 1 and radii keep 0 < r_min <= r_max <= 1; got "
                f"{d_state=}, {r_min=}, {r_max=}"
            )
        check_chunk(chunk_size)
        self.kind, self.d_state, self.chunk_size = kind, d_state, chunk_size
        share, drawn = jax.random.uniform(rngs.params(), (2, d_state), param_dtype)
        self.dt_bias = nnx.Param(share, group="dynamics")  # s
        damping = None
        if kind == "damped":
            dt = jax.nn.sigmoid(share)
            area = r_min**2 + (r_max**2 - r_min**2) * drawn  # |λ|²
            damping = (1 / area - 1) / dt
            phase = jax.random.uniform(rngs.params(), (d_state,), param_dtype, 0, jnp.pi)
            drawn = (1 + 1 / area - 2 * jnp.cos(phase) / jnp.sqrt(area)) / dt**2
        self.A_real = nnx.Param(drawn, group="dynamics")  # a
        self.decay = nnx.data(None if damping is None else nnx.Param(damping, group="dynamics"))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, d_state, use_bias=False, **options)
        self.C_re = nnx.Param(_uniform(rngs, (d_state, d_model), param_dtype))
        self.D = nnx.Param(jax.random.normal(rngs.params(), (d_model,), param_dtype))
        self.out_proj = Linear(d_model, 2 * d_model, **options) if gate else None

    def modes(self) -> tuple[Complex[Array, "P"], Float[Array, "P"]]:
        """λ, and Δ² |λ|² / Im λ, in at least float32."""
        dt, stiff = jax.nn.sigmoid(self._wide(self.dt_bias)), self._wide(self.A_real)
        width = dt**2 * jax.nn.relu(stiff)
        if self.kind == "im":
            width = jnp.maximum(width, FLAT)
            area, imag = 1 / (1 + width), jnp.sqrt(width) / (1 + width)
            return jax.lax.complex(area, imag), dt**2 * area / imag
        damping = 1.0 if self.decay is None else 1 + dt * jax.nn.relu(self._wide(self.decay))
        root = jnp.sqrt(damping)  # λ is complex from (root - 1)² to (root + 1)²
        low, high = (root - 1) ** 2, (root + 1) ** 2
        width = jnp.clip(width, low + 4 * root * FLAT, high - 4 * root * FLAT)
        real = (1 + damping - width) / (2 * damping)
        imag = jnp.sqrt((width - low) * (high - width)) / (2 * damping)
        return jax.lax.complex(real, imag), dt**2 / (damping * imag)

    def _wide(self, parameter: nnx.Param) -> Array:
        return parameter[...].astype(self.wide)

    def _initial(self, batch_size: int) -> Float[Array, "B P 2"]:
        return jnp.zeros((batch_size, self.d_state, 2), self.wide)

    def state_size(self) -> int:
        """2 d_state."""
        return 2 * self.d_state

    @jax.named_scope("linoss")
    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        lam, size = self.modes()
        read = -0.5j * lam * size  # 2 Re(read h) is size Im(λ h)
        positions, inner = diagonal_ssm(
            self.in_proj(x),
            lam[:, None],
            jnp.ones_like(lam)[:, None],
            read[:, None],
            inner,
            segment_ids=ctx.segments,
            chunk_size=self.chunk_size,
        )
        C, D = (p[...].astype(x.dtype) for p in (self.C_re, self.D))
        y = jnp.einsum("BLP,PD->BLD", positions.astype(x.dtype), C) + D * x
        return gelu_glu(y, self.out_proj), inner


def _uniform(rngs: nnx.Rngs, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    """Within plus and minus one over the root of the inputs."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(rngs.params(), shape, dtype, -bound, bound)
