"""Mamba (Gu and Dao 2023, arXiv:2312.00752), the selective state-space model "S6".

    [x | z] = W_in u,   x = silu(conv(x)),   [r | B | C] = W_x x,   dt = softplus(W_dt r + b)
    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t,   y_t = C_t . h_t + D x_t,   A = -exp(A_log)
    out = W_out (y * silu(z))

(algorithm 2 and figure 3). A starts at -1, ..., -N in every channel (S4D-Real), b such that dt is
log-uniform in [dt_min, dt_max], both as published; with `inner_norm` r, B and C pass RMS norms,
without weights (Falcon Mamba) or with (`inner_scale`; Jamba, arXiv:2403.19887). Cost of L tokens
with E = expand d_model: O(L E (d_model + N)). State: E (d_conv - 1 + N) elements per sequence, the
convolution's window and h.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.scan.selective import selective_scan


@stream_state
class MambaState(NamedTuple):
    """The last inputs of the convolution and the state of the recurrence."""

    window: Float[Array, "B W-1 E"]
    h: Float[Array, "B E N"]


def dt_bias_init(
    key: Array, shape: tuple[int, ...], dt_min: float, dt_max: float, dtype: DTypeLike
) -> Array:
    """b with softplus(b) log-uniform in [dt_min, dt_max] and at least 1e-4.

    Raises ValueError unless 0 < dt_min <= dt_max.
    """
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"step sizes must keep 0 < dt_min <= dt_max; got {dt_min=}, {dt_max=}")
    log_dt = jax.random.uniform(key, shape, dtype, math.log(dt_min), math.log(dt_max))
    dt = jnp.maximum(jnp.exp(log_dt), 1e-4)
    return dt + jnp.log(-jnp.expm1(-dt))


class Mamba(Mixer):
    """The selective state-space mixer with its convolution and gate; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        use_bias: bool = False,
        conv_bias: bool = True,
        inner_norm: bool = False,
        inner_scale: bool = False,
        norm_eps: float = 1e-6,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`dt_rank`: width of r, by default d_model / 16 rounded up; `d_state`: N.

        Raises ValueError for sizes below 1 and step sizes that are no range.
        """
        dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        for name, size in {"d_state": d_state, "expand": expand, "dt_rank": dt_rank}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {name}={size}")
        inner = expand * d_model
        self.d_inner, self.d_state, self.dt_rank = inner, d_state, dt_rank
        self.inner_norm, self.norm_eps = inner_norm, norm_eps
        self.chunk_size = chunk_size
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, 2 * inner, use_bias=use_bias, **options)
        self.conv = DepthwiseConv(inner, d_conv, use_bias=conv_bias, **options)
        self.x_proj = Linear(inner, dt_rank + 2 * d_state, use_bias=False, **options)
        uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # +-dt_rank^-1/2
        norms = None
        if inner_scale:
            widths = (dt_rank, d_state, d_state)
            norms = nnx.List([nnx.RMSNorm(n, epsilon=norm_eps, **options) for n in widths])
        self.inner_norms = nnx.data(norms)  # of r, B and C
        self.dt_proj = Linear(dt_rank, inner, use_bias=False, kernel_init=uniform, **options)
        bias = dt_bias_init(rngs.params(), (inner,), dt_min, dt_max, param_dtype)
        self.dt_bias = nnx.Param(bias, group="dynamics")
        rates = jnp.log(jnp.arange(1, d_state + 1, dtype=param_dtype))
        self.A_log = nnx.Param(jnp.tile(rates, (inner, 1)), group="dynamics")
        self.D = nnx.Param(jnp.ones(inner, param_dtype), group="dynamics")
        self.out_proj = Linear(inner, d_model, use_bias=use_bias, **options)

    def _initial(self, batch_size: int) -> MambaState:
        h = jnp.zeros((batch_size, self.d_inner, self.d_state), self.wide)
        return MambaState(self.conv.initial(batch_size), h)

    def state_size(self) -> int:
        """expand d_model (d_conv - 1 + d_state)."""
        return self.conv.state_size() + self.d_inner * self.d_state

    @jax.named_scope("mamba")
    def _mix(self, x: Float[Array, "B L D"], inner: MambaState | None, ctx: Context):
        layout = ctx.segments
        window, h = (None, None) if inner is None else inner
        u, z = jnp.split(self.in_proj(x), 2, axis=-1)
        u, window = self.conv(u, window, layout)
        u = jax.nn.silu(u)
        dt, B, C = self._selection(u)
        A = -jnp.exp(self.A_log[...].astype(dt.dtype))
        D = self.D[...].astype(dt.dtype)
        options = {"segment_ids": layout, "chunk_size": self.chunk_size}
        y, h = selective_scan(u, dt, A, B, C, D, h, **options)
        return self.out_proj(y * jax.nn.silu(z)), MambaState(window, h)

    def _selection(self, u: Float[Array, "B L E"]) -> tuple[Array, Array, Array]:
        """dt, B and C; dt in at least float32, since decays near 1 are lost in bfloat16."""
        parts = jnp.split(self.x_proj(u), [self.dt_rank, self.dt_rank + self.d_state], axis=-1)
        if self.inner_norms is not None:
            parts = [norm(p) for norm, p in zip(self.inner_norms, parts, strict=True)]
        elif self.inner_norm:
            parts = [_unit_rms(p, self.norm_eps) for p in parts]
        r, B, C = parts
        dt = jax.nn.softplus(
            self.dt_proj(r).astype(self.wide) + self.dt_bias[...].astype(self.wide)
        )
        return dt, B, C


def _unit_rms(x: Array, eps: float) -> Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + eps)).astype(x.dtype)
