"""Reformer: attention among keys of one's own hash bucket (Kitaev et al. 2020, arXiv:2001.04451).

    o_t = Σ_r Σ_s softmax_{r,s}(q_t·k_s / √K) v_s,   k = q / |q|,   b_r(q) = argmax [q R_r; -q R_r]

In each of `rounds`, with random R_r, the tokens of a segment with the same b_r are taken in order,
in blocks of C = `block_size`; a query sees the keys of its block and of the one before it (s < t if
causal, both ways also of the one after), and itself where it sees nothing else. R_r are drawn once.

Where ours differs: the published code cuts the row, sorted by bucket, into chunks, so that how many
tokens the future sends to a bucket decides what the past sees. Here blocks are counted in their
bucket, which is causal, and knows no neighbouring bucket.

Cost of L tokens: at most O(rounds L 4 C K) per head, both ways 6 C. State: rounds buckets
(4 C d_model + H) elements, the last two blocks of every bucket, and counts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.attention.patterns import BlockPattern
from seqzoo.models.attention.sparse_parts import heads, only_real
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Constant, Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.softmax.block_sparse import Part, attend, attend_blocks, join
from seqzoo.models.ops.softmax.local_blocks import run_tags
from seqzoo.models.ops.softmax.packed_blocks import blocks_by_tag


@stream_state
class Buckets(NamedTuple):
    """Rings of the latest tokens of every bucket of every round R."""

    k: Float[Array, "B H R N S K"]
    v: Float[Array, "B H R N S K"]
    count: Int[Array, "B H R N"]


class Reformer(Mixer):
    """Attention in buckets of hashes; see the module docstring."""

    looks_both_ways = True
    state_growth = "window"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_buckets: int = 16,
        rounds: int = 2,
        block_size: int = 64,
        use_bias: bool = False,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for widths that do not divide and an odd number of buckets."""
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
        if num_buckets < 2 or num_buckets % 2:
            raise ValueError(f"hashes have an even number of buckets; got {num_buckets=}")
        if rounds < 1 or block_size < 1:
            raise ValueError(f"rounds and block_size are at least 1; got {rounds=}, {block_size=}")
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, d_model, **options)  # to queries, and so keys
        self.v_proj = Linear(d_model, d_model, **options)
        self.out_proj = Linear(d_model, d_model, **options)
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.num_buckets, self.rounds, self.causal = num_buckets, rounds, causal
        shape = (rounds, self.d_head, num_buckets // 2)
        self.projection = Constant(jax.random.normal(rngs.params(), shape, param_dtype))
        self.pattern = BlockPattern(size=block_size, back=1, causal=causal)

    def _initial(self, batch_size: int) -> Buckets:
        shape = (batch_size, self.num_heads, self.rounds, self.num_buckets)
        ring = jnp.zeros((*shape, 2 * self.pattern.size, self.d_head), self.kept)
        return Buckets(ring, ring, jnp.zeros(shape, jnp.int32))

    def state_size(self) -> int:
        """rounds num_buckets (4 C d_model + H)."""
        each = 4 * self.pattern.size * self.d_head + 1
        return self.rounds * self.num_buckets * self.num_heads * each

    def _mix(self, x: Float[Array, "B L D"], inner: Buckets | None, ctx: Context):
        layout = ctx.segments
        q, v = (heads(p(x), self.num_heads) for p in (self.q_proj, self.v_proj))
        q, v = only_real(layout, q, v)
        wide = q.astype(jnp.promote_types(q.dtype, jnp.float32))
        k = wide * jax.lax.rsqrt(jnp.square(wide).sum(-1, keepdims=True) + 1e-6)
        bucket = self._hash(wide)
        if inner is None:
            o = self._parallel(q, k.astype(q.dtype), v, bucket, layout)
        else:
            o, inner = self._stream(q, k.astype(q.dtype), v, bucket, inner, layout)
        return self.out_proj(o.reshape(x.shape)), inner

    def _hash(self, q: Float[Array, "B L H K"]) -> Int[Array, "B H R L"]:
        turned = jnp.einsum("BLHK,RKN->BHRLN", q, self.projection[...].astype(q.dtype))
        turned = jax.lax.stop_gradient(turned)
        return jnp.argmax(jnp.concatenate([turned, -turned], -1), -1).astype(jnp.int32)

    def _parallel(self, q, k, v, bucket: Array, layout: Segments) -> Float[Array, "B L H K"]:
        batch, length = q.shape[:2]
        apart = (batch, self.num_heads, self.rounds)
        tags = run_tags(layout, batch, length)[:, None, None]
        tags = jnp.where(tags > 0, (tags - 1) * self.num_buckets + bucket + 1, 0)
        blocks = blocks_by_tag(tags.reshape(-1, length), self.pattern.size)

        def pack(x: Float[Array, "B L H K"]) -> Array:
            x = jnp.broadcast_to(x.swapaxes(1, 2)[:, :, None], (*apart, length, self.d_head))
            return blocks.pack(x.reshape(-1, length, 1, self.d_head))

        def sees(query: Array, key: Array) -> Array:
            return self.pattern.sees(query, key) & (query != key)

        rows = (pack(x) for x in (q, k, v))
        part = attend_blocks(
            *rows, blocks, self.pattern.table, sees, self.d_head**-0.5, near=self.pattern.near
        )

        def unpack(x: Array) -> Array:
            x = blocks.unpack(x, length)[:, :, 0]
            return jnp.moveaxis(x.reshape(*apart, *x.shape[1:]), 1, 3)  # [B, R, L, H, ...]

        return _over_rounds(Part(*(unpack(x) for x in part)), v, self.rounds)

    def _stream(self, q, k, v, bucket: Array, state: Buckets, layout: Segments):
        batch, length = q.shape[:2]
        valid = jnp.ones((batch, length), bool)
        starts = jnp.zeros((batch, length), bool)
        if layout.masked:
            valid, starts = layout.valid, layout.starts
        by_token = (q, k, v, jnp.moveaxis(bucket, 3, 1), valid, starts)
        xs = tuple(jnp.moveaxis(x, 1, 0) for x in by_token)
        state, o = jax.lax.scan(lambda state, x: self._step(state, *x), state, xs)
        return jnp.moveaxis(o, 0, 1), state

    def _step(
        self,
        state: Buckets,
        q: Float[Array, "B H K"],
        k: Float[Array, "B H K"],
        v: Float[Array, "B H K"],
        bucket: Int[Array, "B H R"],
        valid: Bool[Array, "B"],
        starts: Bool[Array, "B"],
    ) -> tuple[Buckets, Float[Array, "B H K"]]:
        size, slots = self.pattern.size, 2 * self.pattern.size
        counts = jnp.where(starts[:, None, None, None], 0, state.count)
        at = bucket[..., None]
        rank = jnp.take_along_axis(counts, at, axis=3)
        last = rank - 1
        held = last - (last - jnp.arange(slots)) % slots  # the rank in each slot
        seen = (held >= 0) & (held // size >= rank // size - 1)
        ks, vs = (
            jnp.take_along_axis(x, at[..., None, None], axis=3)[:, :, :, 0].swapaxes(1, 2)
            for x in (state.k, state.v)
        )  # [B, R, H, S, K]
        seen = seen.swapaxes(1, 2)[..., None, :]
        asked = jnp.broadcast_to(q[:, None, :, None, None], (*ks.shape[:3], 1, 1, q.shape[-1]))
        part = attend(asked, ks[..., None, :], vs[..., None, :], seen, self.d_head**-0.5)
        part = Part(*(x[:, :, :, 0, 0][:, :, None] for x in part))  # [B, R, 1, H, ...]
        o = _over_rounds(part, v[:, None], self.rounds)[:, 0]
        grid = jnp.meshgrid(*map(jnp.arange, bucket.shape), indexing="ij")
        slot = jnp.where(valid[:, None, None], rank[..., 0] % slots, slots)  # out of range: dropped

        def put(x: Array, new: Array) -> Array:
            new = jnp.broadcast_to(new[:, :, None], (*bucket.shape, new.shape[-1]))
            return x.at[(*grid, bucket, slot)].set(new.astype(x.dtype), mode="drop")

        one = valid[:, None, None].astype(counts.dtype)
        counts = counts.at[(*grid, bucket)].add(one)
        return Buckets(put(state.k, k), put(state.v, v), counts), o


def _over_rounds(part: Part, v: Float[Array, "B L H K"], rounds: int) -> Float[Array, "B L H K"]:
    """One softmax over all rounds [B, R, L, H, ...]; the token itself where it sees no other."""
    o = join([Part(*(x[:, r] for x in part)) for r in range(rounds)])
    lonely = (part.total.sum(1) == 0)[..., None]
    return jnp.where(lonely, v.astype(o.dtype), o)
