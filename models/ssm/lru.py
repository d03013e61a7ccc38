"""The Linear Recurrent Unit (Orvieto et al. 2023, arXiv:2303.06349).

    h_t = λ ⊙ h_{t-1} + γ ⊙ (B x_t),   y_t = Re(C h_t) + D ⊙ x_t        h complex [N]
    λ = exp(-exp(nu_log) + i exp(theta_log)),   γ = exp(gamma_log)

(equations 3, 6 and 7). |λ| starts uniform in area on a ring, the phase uniform, and γ at
sqrt(1 - |λ|²), which keeps the state's variance at that of the input. B and C are complex matrices,
kept as real planes; h is no half of conjugate pairs, so no factor 2. Only the recurrence is here:
norm, GELU and GLU of the paper's block belong to the backbone.
Cost of L tokens: O(L D N). State: 2 N elements per sequence.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.scan.linear import linear_scan


def lru(
    u: Complex[Array, "B L N"],
    nu_log: Float[Array, "N"],
    theta_log: Float[Array, "N"],
    h0: Complex[Array, "B N"] | None = None,
    *,
    segments: Segments | None = None,
) -> Complex[Array, "B L N"]:
    """All states of h_t = λ ⊙ h_{t-1} + u_t, where u is γ ⊙ (B x)."""
    radius, phase = jnp.exp(-jnp.exp(nu_log)), jnp.exp(theta_log)
    decay = jax.lax.complex(radius * jnp.cos(phase), radius * jnp.sin(phase))
    return linear_scan(decay, u, h0, segment_ids=segments)


def ring(
    key: Array, n: int, r_min: float, r_max: float, max_phase: float, dtype: DTypeLike
) -> tuple[Float[Array, "N"], Float[Array, "N"], Float[Array, "N"]]:
    """(nu_log, theta_log, gamma_log) of λ uniform in area on r_min <= |λ| <= r_max (lemma 3.2)."""
    radius_key, phase_key = jax.random.split(key)
    tiny = jnp.finfo(dtype).tiny
    area = jax.random.uniform(radius_key, (n,), dtype, r_min**2, r_max**2)  # |λ|²
    area = jnp.clip(area, tiny, 1 - jnp.finfo(dtype).epsneg)
    phase = jax.random.uniform(phase_key, (n,), dtype, tiny, max_phase)
    return jnp.log(-0.5 * jnp.log(area)), jnp.log(phase), 0.5 * jnp.log1p(-area)


class LRU(Mixer):
    """A complex diagonal recurrence between dense complex maps; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        r_min: float = 0.0,
        r_max: float = 0.99,
        max_phase: float = 2 * math.pi,
        normalize: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_state`: complex states N; `normalize`: whether there is γ (else it is 1).

        Raises ValueError unless 0 <= r_min < r_max <= 1, max_phase is in (0, 2π] and d_state >= 1.
        """
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"the ring must keep 0 <= r_min < r_max <= 1; got {r_min=}, {r_max=}")
        if not 0 < max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase is an angle in (0, 2π]; got {max_phase=}")
        if d_state < 1:
            raise ValueError(f"d_state must be at least 1; got {d_state=}")
        self.d_state = d_state
        nu, theta, gamma = ring(rngs.params(), d_state, r_min, r_max, max_phase, param_dtype)
        self.nu_log = nnx.Param(nu, group="dynamics")
        self.theta_log = nnx.Param(theta, group="dynamics")
        self.gamma_log = nnx.Param(gamma, group="dynamics") if normalize else None

        def matrix(rows: int, columns: int, scale: float) -> Array:
            return jax.random.normal(rngs.params(), (rows, columns), param_dtype) * scale

        in_scale, out_scale = (2 * d_model) ** -0.5, d_state**-0.5
        self.B_re = nnx.Param(matrix(d_state, d_model, in_scale), group="dynamics")
        self.B_im = nnx.Param(matrix(d_state, d_model, in_scale), group="dynamics")
        self.C_re = nnx.Param(matrix(d_model, d_state, out_scale))
        self.C_im = nnx.Param(matrix(d_model, d_state, out_scale))
        self.D = nnx.Param(jax.random.normal(rngs.params(), (d_model,), param_dtype))

    def _initial(self, batch_size: int) -> Float[Array, "B 2 N"]:
        return jnp.zeros((batch_size, 2, self.d_state), self.wide)  # real and imaginary planes

    def state_size(self) -> int:
        """2 d_state."""
        return 2 * self.d_state

    @jax.named_scope("lru")
    def _mix(self, x, inner, ctx):
        u = self._inputs(x)
        wide = u.real.dtype
        h0 = None if inner is None else jax.lax.complex(inner[:, 0], inner[:, 1])
        nu_log, theta_log = self.nu_log[...].astype(wide), self.theta_log[...].astype(wide)
        h = lru(u, nu_log, theta_log, h0, segments=ctx.segments)
        last = jnp.stack([h[:, -1].real, h[:, -1].imag], axis=1)
        return self._outputs(h, x), last

    def _inputs(self, x: Float[Array, "B L D"]) -> Complex[Array, "B L N"]:
        """γ ⊙ (B x), in at least float32."""
        B = jnp.concatenate([self.B_re[...], self.B_im[...]]).astype(self.dtype)
        u = jnp.einsum("BLD,ND->BLN", x, B)
        u = u.astype(jnp.promote_types(u.dtype, jnp.float32))
        re, im = jnp.split(u, 2, axis=-1)
        if self.gamma_log is not None:
            gamma = jnp.exp(self.gamma_log[...].astype(u.dtype))
            re, im = gamma * re, gamma * im
        return jax.lax.complex(re, im)

    def _outputs(self, h: Complex[Array, "B L N"], x: Float[Array, "B L D"]) -> Array:
        """Re(C h) + D ⊙ x."""
        planes = jnp.concatenate([h.real, h.imag], axis=-1).astype(self.dtype)
        C = jnp.concatenate([self.C_re[...], -self.C_im[...]], axis=1).astype(self.dtype)
        return jnp.einsum("BLN,DN->BLD", planes, C) + self.D[...].astype(self.dtype) * x
