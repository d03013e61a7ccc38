"""Mamba-2 (Dao and Gu 2024, arXiv:2405.21060): state-space duality, "SSD".

    [z | x | B | C | dt] = W_in u,   [x | B | C] = silu(conv([x | B | C])),   dt = softplus(dt + b)
    S_t = exp(dt_t A) S_{t-1} + B_t (dt_t x_t)^T,   y_t = S_t^T C_t + D x_t      per head, A < 0
    out = W_out (rms(y * silu(z)) * scale)

(section 7 and figure 6). Heads of `d_head` channels share a decay, groups of heads share B and C.
The norm is over each group's channels; with `norm_before_gate` it is rms(y) * scale * silu(z),
without `norm` y * silu(z). The recurrence is `gated_linear_attention` of q, k, v = C, B, dt x.

With `levels` M it is log-linear (Guo et al. 2025, arXiv:2506.04761): S is a state for each power of
two of the past, and y_t weighs what they hold, each level by a number of its own
(`linear_attention/levels.py`).

With E = expand d_model and N = d_state: cost of L tokens in chunks of T O(L E (d_model + T + N));
state E N + (d_conv - 1) (E + 2 num_groups N) elements per sequence. With levels N is M N in the
last term of the cost and the first of the state.
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
from seqzoo.models.linear_attention.levels import LevelWeights
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention
from seqzoo.models.ops.matrix.log_linear import log_linear_attention
from seqzoo.models.ssm.mamba import dt_bias_init


@stream_state
class Mamba2State(NamedTuple):
    """The last inputs of the convolution and the state of every head."""

    window: Float[Array, "B W-1 E+2GN"]
    s: Float[Array, "B H N P"]  # with levels [B, H, M, N, P]


def ssd(
    x: Float[Array, "B L H P"],
    dt: Float[Array, "B L H"],
    A: Float[Array, "H"],
    B: Float[Array, "B L G N"],
    C: Float[Array, "B L G N"],
    D: Float[Array, "H"] | None = None,
    s0: Float[Array, "B H N P"] | None = None,
    *,
    levels: Float[Array, "B L H M+1"] | None = None,
    segment_ids: Segments | None = None,
    chunk_size: int | None = None,
) -> tuple[Float[Array, "B L H P"], Float[Array, "B H N P"] | None]:
    """Outputs and last state; dt is positive already, head h reads group h // (H / G).

    `levels`: the weights of log-linear attention, which has M states for one.
    """
    v = (dt[..., None] * x).astype(x.dtype)
    options = {"segment_ids": segment_ids, "chunk_size": chunk_size}
    decay = (dt * A)[..., None]
    if levels is None:
        y, s = gated_linear_attention(C, B, v, decay, s0, **options)
    else:
        y, s = log_linear_attention(C, B, v, levels, decay, s0, **options)
    return y if D is None else y + (D[:, None] * x).astype(y.dtype), s


class GatedNorm(nnx.Module):
    """RMS norm over groups of channels, together with a SiLU gate."""

    def __init__(
        self,
        width: int,
        groups: int,
        *,
        before_gate: bool = False,
        eps: float = 1e-5,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.groups, self.before_gate, self.eps = groups, before_gate, eps
        self.scale = nnx.Param(jnp.ones(width, param_dtype))

    def __call__(self, y: Float[Array, "B L E"], z: Float[Array, "B L E"]) -> Array:
        """rms(y silu(z)) scale, or rms(y) scale silu(z); in y's dtype, computed in float32."""
        wide = jnp.promote_types(y.dtype, jnp.float32)
        scale, gate = self.scale[...].astype(wide), jax.nn.silu(z.astype(wide))
        x = y.astype(wide) if self.before_gate else y.astype(wide) * gate
        grouped = x.reshape(*x.shape[:-1], self.groups, -1)
        power = jnp.mean(grouped**2, axis=-1, keepdims=True)
        x = (grouped * jax.lax.rsqrt(power + self.eps)).reshape(x.shape) * scale
        return (x * gate if self.before_gate else x).astype(y.dtype)


class Mamba2(Mixer):
    """The SSD mixer with its convolution and gated norm; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        expand: int = 2,
        d_head: int | None = None,
        num_groups: int = 1,
        d_conv: int = 4,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_limit: tuple[float, float] | None = None,
        norm: bool = True,
        norm_before_gate: bool = False,
        norm_eps: float = 1e-5,
        use_bias: bool = False,
        conv_bias: bool = True,
        levels: int = 0,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_head`: channels of a head P, by default 64 or the inner width if that is smaller.

        `dt_limit`: between which dt is kept, after softplus. `levels`: M, 0 for one state; 15 as
        published, for 32,768 tokens.

        Raises ValueError for sizes below 1, heads that do not divide the inner width and groups
        that do not divide the heads.
        """
        inner = expand * d_model
        d_head = min(64, inner) if d_head is None else d_head
        if min(d_state, expand, d_head, num_groups) < 1:
            raise ValueError(
                f"sizes must be at least 1; got {d_state=}, {expand=}, {d_head=}, {num_groups=}"
            )
        if inner % d_head or (inner // d_head) % num_groups:
            raise ValueError(
                "d_head must divide expand * d_model, and num_groups the number of heads; got "
                f"{d_head=}, {num_groups=} for an inner width of {inner}"
            )
        self.d_inner, self.d_state, self.num_groups = inner, d_state, num_groups
        self.dt_limit = None if dt_limit is None else tuple(dt_limit)
        self.num_heads, self.d_head = inner // d_head, d_head
        self.chunk_size = chunk_size
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        mixed = inner + 2 * num_groups * d_state
        self.borders = (inner, inner + mixed)  # of z, [x | B | C] and dt
        width = inner + mixed + self.num_heads
        self.in_proj = Linear(d_model, width, use_bias=use_bias, **options)
        self.conv = DepthwiseConv(mixed, d_conv, use_bias=conv_bias, **options)
        heads = (self.num_heads,)
        bias = dt_bias_init(rngs.params(), heads, dt_min, dt_max, param_dtype)
        self.dt_bias = nnx.Param(bias, group="dynamics")
        rates = jax.random.uniform(rngs.params(), heads, param_dtype, 1.0, 16.0)  # as published
        self.A_log = nnx.Param(jnp.log(rates), group="dynamics")
        self.D = nnx.Param(jnp.ones(heads, param_dtype), group="dynamics")
        norm_options = {"before_gate": norm_before_gate, "eps": norm_eps}
        self.norm = (
            GatedNorm(inner, num_groups, param_dtype=param_dtype, **norm_options) if norm else None
        )
        self.out_proj = Linear(inner, d_model, use_bias=use_bias, **options)
        weights = LevelWeights(d_model, self.num_heads, levels, **options) if levels else None
        self.levels, self.states = nnx.data(weights), (levels,) if levels else ()

    def _initial(self, batch_size: int) -> Mamba2State:
        shape = (self.num_heads, *self.states, self.d_state, self.d_head)
        return Mamba2State(
            self.conv.initial(batch_size), jnp.zeros((batch_size, *shape), self.wide)
        )

    def state_size(self) -> int:
        """E M N + (d_conv - 1) (E + 2 num_groups N), E = expand d_model, N = d_state, or M = 1."""
        return self.d_inner * math.prod(self.states) * self.d_state + self.conv.state_size()

    @jax.named_scope("mamba2")
    def _mix(self, x: Float[Array, "B L D"], inner: Mamba2State | None, ctx: Context):
        layout = ctx.segments
        window, s = (None, None) if inner is None else inner
        z, mixed, dt = jnp.split(self.in_proj(x), self.borders, axis=-1)
        mixed, window = self.conv(mixed, window, layout)
        states = self.num_groups * self.d_state
        u, B, C = jnp.split(jax.nn.silu(mixed), [self.d_inner, self.d_inner + states], axis=-1)
        dt = jax.nn.softplus(dt.astype(self.wide) + self.dt_bias[...].astype(self.wide))
        dt = dt if self.dt_limit is None else jnp.clip(dt, *self.dt_limit)
        y, s = ssd(
            _split(u, self.num_heads),
            dt,
            -jnp.exp(self.A_log[...].astype(self.wide)),
            _split(B, self.num_groups),
            _split(C, self.num_groups),
            self.D[...].astype(self.wide),
            s,
            levels=None if self.levels is None else self.levels(x),
            segment_ids=layout,
            chunk_size=self.chunk_size,
        )
        y = y.reshape(u.shape)
        y = y * jax.nn.silu(z) if self.norm is None else self.norm(y, z)
        return self.out_proj(y), Mamba2State(window, s)


def _split(x: Float[Array, "B L E"], parts: int) -> Float[Array, "B L H P"]:
    return x.reshape(*x.shape[:2], parts, -1)
