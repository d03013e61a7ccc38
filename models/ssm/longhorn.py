"""Longhorn (Liu et al. 2024, arXiv:2407.14207): a state space that solves online regression.

    [x | z] = W_in u,   x = silu(conv(x)),   [r | k | q] = W_x x,   β = σ(W_β r + b)
    Δ_t = β_t / (1 + β_t |k_t|²),   h_t = (1 - Δ_t k_t²) h_{t-1} + Δ_t k_t x_t
    y_t = q_t . h_t + D x_t,   out = W_out (y * silu(z))

(equations 6 to 8, algorithm 1), h in R^N for each channel. h_t is where the loss |h - h_{t-1}|² +
β |h . k - x|² is least, with the matrix of its exact step replaced by its diagonal; so there is no
decay to choose. The rest is Mamba's block. Where ours differs: σ(b) starts log-uniform in
[beta_min, beta_max].
Cost of L tokens with E = expand d_model: O(L E (d_model + N)). State: E (d_conv - 1 + N) elements
per sequence, the convolution's window and h.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.scan.selective import selective_scan
from seqzoo.models.ssm.mamba import MambaState


class Longhorn(Mixer):
    """An online learner's state in Mamba's block; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        dt_rank: int | None = None,
        beta_min: float = 1e-3,
        beta_max: float = 0.1,
        use_bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`dt_rank`: width of r, by default d_model / 16 rounded up; `d_state`: N.

        Raises ValueError for sizes below 1 and rates of learning that are no range in (0, 1).
        """
        dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        for name, size in {"d_state": d_state, "expand": expand, "dt_rank": dt_rank}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {name}={size}")
        if not 0 < beta_min <= beta_max < 1:
            raise ValueError(
                f"rates must keep 0 < beta_min <= beta_max < 1; got {beta_min=}, {beta_max=}"
            )
        inner = expand * d_model
        self.chunk_size = chunk_size
        self.d_inner, self.d_state, self.dt_rank = inner, d_state, dt_rank
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, 2 * inner, use_bias=use_bias, **options)
        self.conv = DepthwiseConv(inner, d_conv, use_bias=conv_bias, **options)
        self.x_proj = Linear(inner, dt_rank + 2 * d_state, use_bias=False, **options)
        self.dt_proj = Linear(dt_rank, inner, use_bias=False, **options)
        bounds = (math.log(beta_min), math.log(beta_max))
        beta = jnp.exp(jax.random.uniform(rngs.params(), (inner,), param_dtype, *bounds))
        self.dt_bias = nnx.Param(jnp.log(beta) - jnp.log1p(-beta), group="dynamics")
        self.D = nnx.Param(jnp.ones(inner, param_dtype), group="dynamics")
        self.out_proj = Linear(inner, d_model, use_bias=use_bias, **options)

    def _initial(self, batch_size: int) -> MambaState:
        h = jnp.zeros((batch_size, self.d_inner, self.d_state), self.wide)
        return MambaState(self.conv.initial(batch_size), h)

    def state_size(self) -> int:
        """expand d_model (d_conv - 1 + d_state)."""
        return self.conv.state_size() + self.d_inner * self.d_state

    @jax.named_scope("longhorn")
    def _mix(self, x: Float[Array, "B L D"], inner: MambaState | None, ctx: Context):
        window, h = (None, None) if inner is None else inner
        u, z = jnp.split(self.in_proj(x), 2, axis=-1)
        u, window = self.conv(u, window, ctx.segments)
        u = jax.nn.silu(u)
        r, k, q = jnp.split(self.x_proj(u), [self.dt_rank, self.dt_rank + self.d_state], axis=-1)
        k = k.astype(self.wide)
        beta = jax.nn.sigmoid(self.dt_proj(r).astype(self.wide) + self._own(self.dt_bias))
        share = beta / (1 + beta * jnp.sum(k**2, -1, keepdims=True))  # Δ
        options = {"segment_ids": ctx.segments, "chunk_size": self.chunk_size}
        y, h = selective_scan(u, share, None, k, q, self._own(self.D), h, **options)
        return self.out_proj(y * jax.nn.silu(z)), MambaState(window, h)

    def _own(self, parameter: nnx.Param) -> Array:
        return parameter[...].astype(self.wide)
