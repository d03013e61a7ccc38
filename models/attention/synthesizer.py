"""Synthesizer: attention weights without keys (Tay et al. 2020, arXiv:2005.00743).

    o_t = Σ_s softmax_s(R_ts) v_s

dense: R_ts = a_s·relu(W x_t), from the token and a learned a for each position s (section 3.1);
random: R is learned as it stands (3.2); factorized: R_ts = a_t·b_s, of `rank` (3.2). Each head has
its own; positions count the tokens of the segment, up to `max_length`. Causal, s <= t.

Cost of L tokens: O(L² K) per head, as of attention. State: max_length d_model + 1 elements, values.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.attention.cache import KVCache, slot_positions, write
from seqzoo.models.attention.sparse_parts import heads, only_real
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.sharding import by_rows
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.models.ops.softmax.local_blocks import run_tags


class Synthesizer(Mixer):
    """Attention with synthesised weights; see the module docstring."""

    looks_both_ways = True
    state_growth = "linear"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        kind: Literal["dense", "random", "factorized"] = "dense",
        rank: int = 8,
        use_bias: bool = False,
        max_length: int = 2048,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`max_length`: most tokens of a segment. `rank`: of the factorized kind.

        Raises ValueError for unknown kinds and widths that do not divide.
        """
        if kind not in ("dense", "random", "factorized"):
            raise ValueError(f"unknown {kind=}; known: dense, random, factorized")
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
        if rank < 1 or max_length < 1:
            raise ValueError(f"rank and max_length are at least 1; got {rank=}, {max_length=}")
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.kind, self.max_length, self.causal = kind, max_length, causal
        width = {"dense": self.d_head, "random": max_length, "factorized": rank}[kind]

        def table(scale: float) -> nnx.Embed:
            draw = jax.nn.initializers.normal(scale)
            return nnx.Embed(max_length, num_heads * width, embedding_init=draw, **dtypes)

        if kind == "dense":
            self.q_proj = Linear(d_model, d_model, use_bias=use_bias, **dtypes)
        else:
            self.q_embed = table(1.0 if kind == "random" else width**-0.25)
        if kind != "random":
            self.k_embed = table(width**-0.5 if kind == "dense" else width**-0.25)
        self.v_proj = Linear(d_model, d_model, use_bias=use_bias, **dtypes)
        self.out_proj = Linear(d_model, d_model, use_bias=use_bias, **dtypes)

    def _initial(self, batch_size: int) -> KVCache:
        shape = (batch_size, self.max_length, self.num_heads)
        none = jnp.zeros((*shape, 0), self.kept)
        count = jnp.zeros(batch_size, jnp.int32)
        return KVCache(none, jnp.zeros((*shape, self.d_head), self.kept), count)

    def state_size(self) -> int:
        """max_length d_model + 1."""
        return self.max_length * self.num_heads * self.d_head + 1

    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        layout = ctx.segments
        (v,) = only_real(layout, heads(self.v_proj(x), self.num_heads))
        if inner is None:
            options = {"causal": self.causal, "segment_ids": layout}
            o = self._attend(x, v, layout.position, layout.position, **options)
        else:
            o, inner = self._cached(x, v, inner, layout)
        return self.out_proj(o.reshape(x.shape)), inner

    def _cached(self, x: Array, v: Array, cache: KVCache, layout: Segments):
        position = jnp.broadcast_to(layout.position, x.shape[:2])
        tags = run_tags(layout, *x.shape[:2])
        slots = slot_positions(cache.length, self.max_length)
        k_position = jnp.concatenate([slots, position], 1)
        o = self._attend(
            x,
            jnp.concatenate([cache.v.astype(v.dtype), v], 1),
            position,
            k_position,
            causal=True,
            q_positions=position,
            k_positions=k_position,
            segment_ids=tags,
            k_segment_ids=jnp.concatenate([(slots >= 0).astype(tags.dtype), tags], 1),
        )
        none = jnp.zeros((*v.shape[:3], 0), v.dtype)
        return o, write(cache, none, v, position, tags)

    def _attend(
        self,
        x: Float[Array, "B L D"],
        v: Float[Array, "B S H V"],
        position: Int[Array, "#B L"],
        k_position: Int[Array, "#B S"],
        **options,
    ) -> Float[Array, "B L H V"]:
        """Attention with q_t·k_s = R_ts."""
        if self.kind == "random":
            rows = self._table(self.q_embed, position)  # [#B, L, H, max_length]
            at = jnp.clip(k_position, 0, self.max_length - 1)[:, None, None]
            bias = jnp.take_along_axis(rows.swapaxes(1, 2), at, axis=3)
            zeros = jnp.zeros((*v.shape[:3], 1), v.dtype)
            q = jnp.zeros((*x.shape[:2], self.num_heads, 1), v.dtype)
            return attention(q, zeros, v, bias=bias, scale=1.0, **options)
        if self.kind == "dense":
            q = jax.nn.relu(heads(self.q_proj(x), self.num_heads))
        else:
            q = self._table(self.q_embed, position)
        k = self._table(self.k_embed, k_position)
        q, k = (by_rows(jnp.broadcast_to(a, (x.shape[0], *a.shape[1:]))) for a in (q, k))
        return attention(q.astype(v.dtype), k.astype(v.dtype), v, scale=1.0, **options)

    def _table(self, embed: nnx.Embed, position: Int[Array, "#B L"]) -> Float[Array, "#B L H E"]:
        rows = embed.embedding[...][jnp.clip(position, 0, self.max_length - 1)]
        return heads(rows, self.num_heads)
