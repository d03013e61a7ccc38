"""NormAttention: a norm instead of linear attention's denominator (TransNormer: 2210.10340).

    o_t = norm(Σ_s (φ(q_t)·φ(k_s)) v_s),   s <= t if causal                (their eq. 11, 12)

The norm is over all heads together. The denominator of linear attention makes its gradients
unbounded (their section 3.1): they grow as a row's sum of weights goes to 0; the norm bounds them
by its own constant. φ is 1 + elu (their T2) or elu (T1). `positions="lrpe"`: a Householder
reflection of each head's channels by a fixed direction, then rotations by learned frequencies (Qin
et al. 2023, arXiv:2307.09270, the form of their code), on φ(q) and φ(k). Where ours differs: the
positions are an option of every layer, and the norm's kind is one too.

Cost of L tokens in chunks of C: O(L C K + L K²) per head. State: H K K elements, K = d_model / H.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Constant, Context, Mixer
from seqzoo.models.ops.matrix.feature_maps import ELEMENTWISE
from seqzoo.models.ops.matrix.kernel_attention import kernel_sums

FEATURE_MAPS = {**ELEMENTWISE, "elu": jax.nn.elu}
NormKind = Literal["srms", "rms", "gated_rms", "layer"]


class NormAttention(Mixer):
    """Linear attention with a norm in place of its denominator; see the module docstring."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        feature_map: Literal["elu+1", "elu", "relu", "squared_relu"] = "elu+1",
        norm: NormKind = "srms",
        norm_eps: float = 1e-6,
        positions: Literal["none", "lrpe"] = "none",
        use_bias: bool = True,
        chunk_size: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for widths that do not divide and for unknown options."""
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
        if feature_map not in FEATURE_MAPS:
            raise ValueError(f"unknown {feature_map=}; known: {', '.join(FEATURE_MAPS)}")
        if positions not in ("none", "lrpe"):
            raise ValueError(f"unknown {positions=}; known: none, lrpe")
        self.num_heads, self.d_head, self.chunk_size = num_heads, d_model // num_heads, chunk_size
        self.feature_map, self.causal = feature_map, causal
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, d_model, **options)
        self.k_proj = Linear(d_model, d_model, **options)
        self.v_proj = Linear(d_model, d_model, **options)
        self.out_proj = Linear(d_model, d_model, **options)
        self.norm = OutputNorm(norm, d_model, eps=norm_eps, param_dtype=param_dtype, rngs=rngs)
        turn = (
            LRPE(self.d_head, param_dtype=param_dtype, rngs=rngs) if positions == "lrpe" else None
        )
        self.positions = nnx.data(turn)

    def _initial(self, batch_size: int) -> Float[Array, "B H K V"]:
        return jnp.zeros((batch_size, self.num_heads, self.d_head, self.d_head), self.wide)

    def state_size(self) -> int:
        """H K K."""
        return self.num_heads * self.d_head**2

    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        q, k, v = (
            p(x).reshape(*x.shape[:2], self.num_heads, self.d_head)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        phi = FEATURE_MAPS[self.feature_map]
        q, k = phi(q), phi(k)
        if self.positions is not None:
            q, k = (self.positions(a, ctx.segments.position) for a in (q, k))
        wide = jnp.promote_types(q.dtype, jnp.float32)  # a sum of L terms
        q, k, v = (a.astype(wide) for a in (q, k, v))
        options = {"causal": self.causal, "chunk_size": self.chunk_size}
        o, s = kernel_sums(q, k, v, inner, segment_ids=ctx.segments, **options)
        o = self.norm(o.reshape(*x.shape[:2], -1))
        return self.out_proj(o), s


class OutputNorm(nnx.Module):
    """Norms of TransNormer, eps added to the root mean square r rather than under the root.

    srms: x / (r + eps); rms: that times a gain; gated_rms: and times σ(gate x); layer: LayerNorm,
    its eps 1e-5 under the root.
    """

    def __init__(
        self,
        kind: NormKind,
        width: int,
        *,
        eps: float = 1e-6,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for an unknown kind."""
        if kind not in ("srms", "rms", "gated_rms", "layer"):
            raise ValueError(f"unknown norm {kind!r}; known: srms, rms, gated_rms, layer")
        self.kind, self.eps = kind, eps
        if kind != "srms":
            self.scale = nnx.Param(jnp.ones(width, param_dtype))
        if kind == "layer":
            self.bias = nnx.Param(jnp.zeros(width, param_dtype))
        if kind == "gated_rms":
            self.gate_scale = nnx.Param(jnp.ones(width, param_dtype))

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Normalises every token, in the dtype of x."""
        if self.kind == "layer":
            x = x - x.mean(-1, keepdims=True)
            x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5)
            return x * self.scale[...] + self.bias[...]
        square = jnp.mean(jnp.square(x), -1, keepdims=True)
        some = square > 0  # the root has no derivative at 0
        y = x / (jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0) + self.eps)
        if self.kind == "srms":
            return y
        y = y * self.scale[...]
        return y if self.kind == "rms" else y * jax.nn.sigmoid(self.gate_scale[...] * x)


class LRPE(nnx.Module):
    """A reflection x - 2 (x·u) u and rotations of channel pairs (2i, 2i + 1) by position θ_i."""

    def __init__(
        self, d_head: int, *, base: float = 10000.0, param_dtype: DTypeLike = jnp.float32, rngs
    ):
        """θ starts at base^(-2i/K) and stays positive. Raises ValueError for odd widths."""
        if d_head % 2:
            raise ValueError(f"LRPE rotates pairs and needs an even head width; got {d_head=}")
        theta_log = -np.log(base) * np.arange(0, d_head, 2) / d_head
        self.theta_log = nnx.Param(jnp.asarray(theta_log, param_dtype), group="dynamics")
        u = jax.random.normal(rngs.params(), (d_head,), param_dtype)
        self.direction = Constant(u / jnp.linalg.norm(u))

    def __call__(
        self, x: Float[Array, "B L H K"], positions: Int[Array, "#B L"]
    ) -> Float[Array, "B L H K"]:
        """Reflects and rotates every head, in at least float32."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        x, u = x.astype(dtype), self.direction[...].astype(dtype)
        x = x - 2 * jnp.sum(x * u, -1, keepdims=True) * u
        angle = positions[..., None].astype(dtype) * jnp.exp(self.theta_log[...].astype(dtype))
        cos, sin = jnp.cos(angle)[..., None, :], jnp.sin(angle)[..., None, :]
        a, b = x[..., ::2], x[..., 1::2]
        return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)
