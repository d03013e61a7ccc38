"""Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236).

    S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t)          (their eq. 16, 17)
    o_t = phi(q_t)^T S_t / (phi(q_t) . z_t + eps)                       (eq. 18)

phi(x) = elu(x) + 1. With `normalize=False` the denominator is left out and q is scaled by
1/sqrt(K). With `positions="rope"` queries and keys are rotated after phi in the numerator only,
since a rotated normaliser could vanish (Su et al. 2021, eq. 19). With `causal=False` the sums run
over the whole segment. Cost of L tokens in chunks of C: O(L C (K + V) + L K V) per head. State:
H K (K + 1) elements with the normaliser, H K K without, K = d_model / H.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.mixer import Context, Mixer, config_of
from seqzoo.models.ops.gated_linear_attention import gated_linear_attention
from seqzoo.models.positions import rope


class LinearAttentionState(NamedTuple):
    """Sums over the segment so far."""

    s: Float[Array, "B H K V"]
    z: Float[Array, "B H K 1"] | None  # None without a normaliser


class LinearAttention(Mixer):
    """Linear attention with the feature map elu + 1; see the module docstring."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        normalize: bool = True,
        positions: Literal["none", "rope"] = "none",
        rope_base: float = 10000.0,
        eps: float = 1e-6,
        chunk_size: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError where num_heads does not divide d_model."""
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
        if positions not in ("rope", "none"):
            raise ValueError(f"unknown positions={positions!r}; known: none, rope")
        if positions == "rope" and (d_model // num_heads) % 2:
            raise ValueError(f"RoPE needs an even head width; got {d_model // num_heads}")
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.normalize, self.positions, self.rope_base = normalize, positions, rope_base
        self.eps, self.chunk_size, self.causal, self.dtype = eps, chunk_size, causal, dtype
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = nnx.Linear(d_model, d_model, **options)
        self.k_proj = nnx.Linear(d_model, d_model, **options)
        self.v_proj = nnx.Linear(d_model, d_model, **options)
        self.out_proj = nnx.Linear(d_model, d_model, **options)

    def _initial(self, batch_size: int) -> LinearAttentionState:
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        s = jnp.zeros((batch_size, self.num_heads, self.d_head, self.d_head), dtype)
        return LinearAttentionState(s, s[..., :1] if self.normalize else None)

    def state_size(self) -> int:
        """H K (K + 1) with the normaliser, H K K without."""
        return self.num_heads * self.d_head * (self.d_head + int(self.normalize))

    def _mix(self, x: Float[Array, "B L D"], inner: LinearAttentionState | None, ctx: Context):
        q, k, v = (
            p(x).reshape(*x.shape[:2], self.num_heads, self.d_head)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _elu1(q), _elu1(k)
        rotated = None
        if self.positions == "rope":
            position = ctx.segments.position
            rotated = tuple(rope(a, position, base=self.rope_base) for a in (q, k))
        o, state = self._attend((q, k), rotated, v, inner, ctx)
        o = o.reshape(*x.shape[:2], -1).astype(x.dtype)
        return self.out_proj(o), state

    def _attend(self, plain, rotated, v, inner: LinearAttentionState | None, ctx: Context):
        """Outputs and sums; `rotated` queries and keys, if any, serve the numerator."""
        s0, z0 = (None, None) if inner is None else inner
        if not self.normalize:
            o, s = self._sum(*(rotated or plain), v, s0, ctx)
            return o * self.d_head**-0.5, LinearAttentionState(s, None)
        ones = jnp.ones_like(v[..., :1])
        if rotated is None:  # the normaliser is one more column of v
            s0 = None if inner is None else jnp.concatenate([s0, z0], -1)
            both, s = self._sum(*plain, jnp.concatenate([v, ones], -1), s0, ctx)
            o, total = both[..., :-1], both[..., -1:]
            s, z = (None, None) if s is None else (s[..., :-1], s[..., -1:])
        else:
            o, s = self._sum(*rotated, v, s0, ctx)
            total, z = self._sum(*plain, ones, z0, ctx)
        return o / (total + self.eps), LinearAttentionState(s, z)

    def _sum(self, q, k, v, s0, ctx: Context):
        """q_t . sum_s k_s v_s^T over the segment, up to t if causal."""
        layout = ctx.segments
        options = {"segment_ids": layout if layout.masked else None, "chunk_size": self.chunk_size}
        if self.causal:
            return gated_linear_attention(q, k, v, None, s0, **options)
        if not layout.masked:
            return jnp.einsum("BLHK,BHKV->BLHV", q, jnp.einsum("BSHK,BSHV->BHKV", k, v)), None
        ahead = gated_linear_attention(q, k, v, **options)[0]
        options["segment_ids"] = layout.flip()
        q, k, v = (jnp.flip(a, 1) for a in (q, k, v))
        behind = gated_linear_attention(q, k, v, read_before=True, **options)[0]
        return ahead + jnp.flip(behind, 1), None


LinearAttentionConfig = config_of(LinearAttention)


def _elu1(x: Array) -> Array:
    return jax.nn.elu(x) + 1
