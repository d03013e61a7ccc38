"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): "MLA".

    [c | k_r] = W_in x,   c = rms(c) scale,   [k_n | v] = W_kv c,   [q_n | q_r] = W_q x
    o_t = Σ_s softmax_s((q_n . k_n,s + rot(q_r) . rot(k_r,s)) / sqrt(N + R)) v_s   (eq. 9 to 19)

per head, but for k_r, which all heads share. With `q_rank` queries come through a norm of their own
rank too (eq. 12 to 13). Without `rotary` nothing turns (Kimi Linear, arXiv:2510.26692).

A stream keeps c and rot(k_r) alone. W_kv then acts on queries and on outputs in place of keys and
values (its appendix C), so that a token costs O(S H (r + R)) for S tokens kept and nothing is made
anew from what is kept. Cost of L tokens at once: O(L^2 H (N + R + V)). State: S (r + R) + 1
elements per sequence, r = kv_rank, R = d_rope, S = max_length.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.attention.cache import KVCache, slot_positions, write
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.models.ops.softmax.local_blocks import run_tags
from seqzoo.models.ops.softmax.rope import rope


class LatentAttention(Mixer):
    """Softmax attention whose keys and values are kept as one narrow vector a token.

    See the module docstring.
    """

    looks_both_ways = True
    state_growth = "linear"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        kv_rank: int | None = None,
        q_rank: int | None = None,
        d_nope: int | None = None,
        d_rope: int | None = None,
        d_value: int | None = None,
        rotary: bool = True,
        rope_base: float = 10000.0,
        rope_interleaved: bool = True,
        norm_eps: float = 1e-6,
        max_length: int = 2048,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`kv_rank`: width of c, by default d_model / 2; `d_nope` and `d_value` (N, V) are by
        default d_model / num_heads, `d_rope` (R) half of it; `max_length`: most tokens of a
        segment, where it is causal.

        Raises ValueError for sizes below 1, an odd d_rope, and heads that do not divide d_model
        where a width is not given.
        """
        if num_heads < 1 or (d_model % num_heads and None in (d_nope, d_rope, d_value)):
            raise ValueError(
                "num_heads must divide d_model, or give d_nope, d_rope and d_value; got "
                f"{num_heads=}, {d_model=}"
            )
        share = d_model // num_heads
        d_rope = (share + 3) // 4 * 2 if d_rope is None else d_rope
        d_nope, d_value = (share if d is None else d for d in (d_nope, d_value))
        kv_rank = max(1, d_model // 2) if kv_rank is None else kv_rank
        sizes = {"kv_rank": kv_rank, "d_nope": d_nope, "d_rope": d_rope, "d_value": d_value}
        for name, size in {**sizes, "q_rank": 1 if q_rank is None else q_rank}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {name}={size}")
        if rotary and d_rope % 2:
            raise ValueError(f"d_rope turns in pairs and must be even; got {d_rope=}")
        self.num_heads, self.kv_rank, self.causal = num_heads, kv_rank, causal
        self.d_nope, self.d_rope, self.d_value = d_nope, d_rope, d_value
        self.rotary, self.base, self.interleaved = rotary, rope_base, rope_interleaved
        self.slots, self.max_length = max_length, max_length if causal else None
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        norms = {"epsilon": norm_eps, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        first, width = None, d_model
        if q_rank is not None:
            first, width = Linear(d_model, q_rank, **options), q_rank
        self.q_in_proj = nnx.data(first)
        self.q_norm = nnx.data(None if q_rank is None else nnx.RMSNorm(q_rank, **norms))
        self.q_proj = Linear(width, num_heads * (d_nope + d_rope), **options)
        self.in_proj = Linear(d_model, kv_rank + d_rope, **options)
        self.norm = nnx.RMSNorm(kv_rank, **norms)
        self.kv_proj = Linear(kv_rank, num_heads * (d_nope + d_value), **options)
        self.out_proj = Linear(num_heads * d_value, d_model, **options)

    def _initial(self, batch_size: int) -> KVCache:
        kept = jnp.zeros((batch_size, self.slots, 1, self.kv_rank + self.d_rope), self.kept)
        return KVCache(kept, kept[..., :0], jnp.zeros(batch_size, jnp.int32))

    def state_size(self) -> int:
        """S (r + R) + 1."""
        return self.slots * (self.kv_rank + self.d_rope) + 1

    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        layout = ctx.segments
        q = x if self.q_in_proj is None else self.q_norm(self.q_in_proj(x))
        q = self.q_proj(q).reshape(*x.shape[:2], self.num_heads, -1)
        q, q_turned = jnp.split(q, [self.d_nope], axis=-1)
        c, k_turned = jnp.split(self.in_proj(x), [self.kv_rank], axis=-1)
        q_turned = self._turn(q_turned, layout)
        k_turned = self._turn(k_turned[:, :, None], layout)
        c = self.norm(c)
        if inner is None:
            o = self._parallel(q, q_turned, c, k_turned, layout)
        else:
            o, inner = self._cached(q, q_turned, c, k_turned, inner, layout)
        return self.out_proj(o.reshape(*x.shape[:2], -1).astype(x.dtype)), inner

    def _turn(self, x: Float[Array, "B L H R"], layout: Segments) -> Array:
        if not self.rotary:
            return x
        return rope(x, layout.position, base=self.base, interleaved=self.interleaved)

    def _parallel(self, q, q_turned, c, k_turned, layout: Segments) -> Array:
        kv = self.kv_proj(c).reshape(*c.shape[:2], self.num_heads, -1)
        k, v = jnp.split(kv, [self.d_nope], axis=-1)
        k_turned = jnp.broadcast_to(k_turned, (*k.shape[:3], self.d_rope))
        q, k = (jnp.concatenate(both, -1) for both in ((q, q_turned), (k, k_turned)))
        return attention(q, k, v, causal=self.causal, segment_ids=layout)

    def _cached(self, q, q_turned, c, k_turned, cache: KVCache, layout: Segments):
        batch, chunk = q.shape[:2]
        position = jnp.broadcast_to(layout.position, (batch, chunk))
        tags = run_tags(layout, batch, chunk)
        held = slot_positions(cache.length, self.slots)
        kernel = self.kv_proj.matrix().astype(q.dtype)
        kernel = kernel.reshape(self.kv_rank, self.num_heads, -1)
        to_k, to_v = jnp.split(kernel, [self.d_nope], axis=-1)
        k = jnp.concatenate([c[:, :, None], k_turned], -1)
        keys = jnp.concatenate([cache.k.astype(k.dtype), k], 1)
        o = attention(
            jnp.concatenate([jnp.einsum("BLHN,RHN->BLHR", q, to_k), q_turned], -1),
            keys,
            keys[..., : self.kv_rank],
            causal=True,
            scale=(self.d_nope + self.d_rope) ** -0.5,
            q_positions=position,
            k_positions=jnp.concatenate([held, position], 1),
            segment_ids=tags,
            k_segment_ids=jnp.concatenate([(held >= 0).astype(tags.dtype), tags], 1),
        )
        o = jnp.einsum("BLHR,RHV->BLHV", o.astype(q.dtype), to_v)
        return o, write(cache, k, k[..., :0], position, tags)
