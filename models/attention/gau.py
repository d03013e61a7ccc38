"""Gated attention units: GAU and FLASH (Hua et al. 2022, arXiv:2202.10447).

    o = W_out (g ⊙ Σ_s w_ts v_s),   v, g = silu(W x),   z = silu(W_qk x),   q, k = γ ⊙ z + β

One head with wide values and narrow keys. GAU's weights are relu(s / n)², the Laplace function of
s / n, or softmax(s); s_ts = q_t·k_s + √D b_(t-s) with T5 buckets b. The authors' n is the length of
the row. Here it is how many tokens the query sees, so that a stream and a packed row mean the same,
or the option `length`.

FLASH weighs within blocks of C tokens by relu(q·k / C + √K b)², and blocks that are complete by a
product of other scalings of the same z: q'·k' / C; both ways, all tokens of the segment, or with
`far="block"` only those of the block, by q'·k' / n. Blocks are counted from the start of the
segment. It is linear in L.

Cost of L tokens: GAU O(L² (K + E)), FLASH O(L C (K + E) + L K E), E = expansion d_model. State: GAU
M (K + E) + 1 elements, M = max_length; FLASH C (2 K + E) + 1 + K E, and d_model / 2 with `shift`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.attention.cache import KVCache, slot_positions, write
from seqzoo.models.attention.positions.encodings import Sizes
from seqzoo.models.attention.positions.relative import T5
from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.token_shift import token_before
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.sequence_parallel import (
    by_parts,
    by_whole_rows,
    carried_over,
    cut,
    parts,
)
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.matrix.kernel_attention import kernel_sums
from seqzoo.models.ops.softmax.local_blocks import (
    Recent,
    WeightKind,
    all_blocks,
    block_tags,
    check_kind,
    continued_blocks,
    forget,
    latest,
    parallel_blocks,
    run_tags,
    weights,
)
from seqzoo.models.ops.softmax.rope import rope

QUERIES = 256  # at a time, so that scores are never all there

# The backward pass makes sigmoids again; kept, they would be a sixth of all that is.
silu = jax.checkpoint(jax.nn.silu)
_gated = jax.checkpoint(lambda o, gate: o * jax.nn.silu(gate))


def joined(keys: tuple, cache: KVCache) -> tuple[tuple, KVCache]:
    """The cached keys, values, tags and positions before the new ones, and the cache after them."""
    k, v, tags, place = keys
    slots = slot_positions(cache.length, cache.k.shape[1])
    old = cache.k[:, :, 0], cache.v[:, :, 0], (slots >= 0).astype(tags.dtype), slots
    both = tuple(jnp.concatenate([a.astype(b.dtype), b], 1) for a, b in zip(old, keys, strict=True))
    return both, write(cache, k[:, :, None], v[:, :, None], place, tags)


class GatedUnit(Mixer):
    """The projections that GAU and FLASH share."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        d_qk: int,
        expansion: float,
        num_scalings: int,
        *,
        kind: WeightKind,
        rotary: bool,
        relative_bias: bool,
        length: int | None,
        causal: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for sizes below 1, unknown weights and an odd d_qk to be rotated."""
        check_kind(kind)
        if d_qk < 1 or expansion * d_model < 1 or (length is not None and length < 1):
            raise ValueError(
                f"d_qk, expansion * d_model and length are at least 1; got {d_qk=}, {expansion=}, "
                f"{length=}"
            )
        if rotary and d_qk % 2:
            raise ValueError(f"rotary positions need an even width; got {d_qk=}")
        self.d_qk, self.d_value = d_qk, round(expansion * d_model)
        self.kind, self.rotary, self.length = kind, rotary, length
        self.causal = causal
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.v_proj = Linear(d_model, self.d_value, **options)
        self.gate_proj = Linear(d_model, self.d_value, **options)
        self.qk_proj = Linear(d_model, d_qk, **options)
        self.out_proj = Linear(self.d_value, d_model, **options)
        noise = jax.random.normal(rngs.params(), (num_scalings, d_qk), param_dtype)
        self.scale = nnx.Param(1 + 0.02 * noise)
        self.bias = nnx.Param(jnp.zeros((num_scalings, d_qk), param_dtype))
        table = None
        if relative_bias:
            heads = {"num_heads": 1, "num_kv_heads": 1, "d_head": d_qk}
            sizes = Sizes(d_model=d_model, **heads, causal=causal, param_dtype=param_dtype)
            table = T5().plug_in(sizes, rngs)
        self.positions = nnx.data(table)

    def _project(self, x: Array) -> tuple[Array, Array, Array]:
        """z, values, and gates before their silu."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        z, v = (silu(p(x)).astype(wide) for p in (self.qk_proj, self.v_proj))
        return z, v, self.gate_proj(x)

    def _scaled(self, z: Float[Array, "B L K"], positions: Int[Array, "#B L"]) -> list[Array]:
        """Queries and keys made of z."""
        items = [z * a + b for a, b in zip(self.scale[...], self.bias[...], strict=True)]
        if not self.rotary:
            return items
        return [rope(a[:, :, None], positions, interleaved=True)[:, :, 0] for a in items]

    def _zeroed(self, items: list[Array], layout: Segments) -> list[Array]:
        """0 at padding."""
        if not layout.masked:
            return items
        return [jnp.where(layout.valid[..., None], a, 0) for a in items]

    def _bias(self, positions: Int[Array, "#B C"], k_positions: Int[Array, "#B S"], factor: float):
        """The bias of each distance, or 0."""
        if self.positions is None:
            return 0.0
        table = self.positions.embed[...].T
        ahead = positions[:, :, None] - k_positions[:, None]
        return factor**0.5 * self.positions.term(table, None, None, ahead)[:, 0]

    def _out(self, o: Array, gate: Array, x: Array) -> Array:
        return self.out_proj(_gated(o.astype(x.dtype), gate))

    def _seen_tokens(self, layout: Segments, length: int) -> Float[Array, "#B L"]:
        """n: the tokens that each query may see, or the option."""
        if self.length is not None:
            return jnp.full((1, length), self.length, self.wide)
        if not self.causal and not layout.masked:
            return jnp.full((1, length), length, self.wide)
        count = layout.position + 1
        if not self.causal:
            count = count + jnp.flip(layout.flip().position, 1)
        return count.astype(self.wide)


class GAU(GatedUnit):
    """Gated attention unit with quadratic attention; see the module docstring."""

    state_growth = "linear"

    def __init__(
        self,
        d_model: int,
        *,
        d_qk: int = 128,
        expansion: float = 2.0,
        kind: WeightKind = "squared_relu",
        rotary: bool = False,
        relative_bias: bool = True,
        length: int | None = None,
        max_length: int = 2048,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`length`: what scores are divided by; None for how many tokens a query sees.

        `max_length`: most tokens of a segment, if causal. Raises ValueError for what cannot
        be.
        """
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        flags = {"kind": kind, "rotary": rotary, "relative_bias": relative_bias}
        super().__init__(
            d_model, d_qk, expansion, 2, **flags, length=length, causal=causal, **dtypes
        )
        if max_length < 1:
            raise ValueError(f"max_length counts tokens, at least 1; got {max_length=}")
        self.slots, self.max_length = max_length, max_length if causal else None

    def _initial(self, batch_size: int) -> KVCache:
        k, v = (
            jnp.zeros((batch_size, self.slots, 1, n), self.kept) for n in (self.d_qk, self.d_value)
        )
        return KVCache(k, v, jnp.zeros(batch_size, jnp.int32))

    def state_size(self) -> int:
        """M (K + E) + 1."""
        return self.slots * (self.d_qk + self.d_value) + 1

    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        layout, (batch, length) = ctx.segments, x.shape[:2]
        z, v, gate = self._project(x)
        q, k, v = self._zeroed([*self._scaled(z, layout.position), v], layout)
        tags = run_tags(layout, batch, length)
        place = jnp.broadcast_to(layout.position, tags.shape)
        n = jnp.broadcast_to(self._seen_tokens(layout, length), tags.shape)
        queries, keys = (q, tags, place, n), (k, v, tags, place)
        in_order = inner is None
        if inner is not None:
            keys, inner = joined(keys, inner)
        options = {"size": QUERIES, "causal": in_order and self.causal}
        o = all_blocks(self._weigh, queries, keys, **options)
        return self._out(o, gate, x), inner

    def _weigh(self, queries: tuple, keys: tuple) -> Float[Array, "B C E"]:
        (q, tags, place, n), (k, v, k_tags, k_place) = queries, keys
        seen = (tags[:, :, None] == k_tags[:, None]) & (k_tags[:, None] > 0)
        if self.causal:
            seen = seen & (place[:, :, None] >= k_place[:, None])
        s = jnp.einsum("BCK,BSK->BCS", q, k)
        if self.kind == "softmax":
            s = s * self.d_qk**-0.5 + self._bias(place, k_place, self.d_model)
        else:
            n = jnp.maximum(n, 1)[..., None]  # 0 where a block is filled up
            s = (s + self._bias(place, k_place, self.d_model)) / n.astype(s.dtype)
        return weights(s, seen, self.kind) @ v


@stream_state
class FlashState(NamedTuple):
    """The tokens of the block that is not complete, and Σ k' vᵀ / C of those that are."""

    block: Recent
    s: Float[Array, "B K E"]
    before: Float[Array, "B 1 D/2"] | None  # with `shift`: half of the last token


class Flash(GatedUnit):
    """Mixed chunk attention; see the module docstring."""

    state_growth = "window"

    def __init__(
        self,
        d_model: int,
        *,
        d_qk: int = 128,
        expansion: float = 2.0,
        block_size: int = 256,
        kind: Literal["squared_relu", "laplace"] = "squared_relu",
        rotary: bool = True,
        relative_bias: bool = True,
        shift: bool = False,
        far: Literal["segment", "block"] = "segment",
        length: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`shift`: half of the channels are those of the token before. `length`: n, as in GAU.

        `far`: what the linear part of a layer that looks both ways sums over.

        Raises ValueError for what cannot be.
        """
        if kind not in ("squared_relu", "laplace"):
            raise ValueError(f"unknown {kind=}; known: squared_relu, laplace")
        if block_size < 1:
            raise ValueError(f"a block holds at least 1 token; got {block_size=}")
        if far not in ("segment", "block") or (causal and far == "block"):
            raise ValueError(
                f"far is 'segment', or with causal=False also 'block'; got {far=}, {causal=}"
            )
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        flags = {"kind": kind, "rotary": rotary, "relative_bias": relative_bias}
        super().__init__(
            d_model, d_qk, expansion, 4, **flags, length=length, causal=causal, **dtypes
        )
        self.block_size, self.shifted = block_size, d_model // 2 if shift else 0
        self.far = far

    def _initial(self, batch_size: int) -> FlashState:
        token = [
            jax.ShapeDtypeStruct((n,), self.kept) for n in (self.d_qk, self.d_qk, self.d_value)
        ]
        block = forget(tuple(token), batch_size, self.block_size)
        s = jnp.zeros((batch_size, self.d_qk, self.d_value), self.wide)
        before = jnp.zeros((batch_size, 1, self.shifted), self.wide) if self.shifted else None
        return FlashState(block, s, before)

    def state_size(self) -> int:
        """C (2 K + E) + 1 + K E, and d_model / 2 with `shift`."""
        block = self.block_size * (2 * self.d_qk + self.d_value) + 1
        return block + self.d_qk * self.d_value + self.shifted

    def _mix(self, x: Float[Array, "B L D"], inner: FlashState | None, ctx: Context):
        layout, before = ctx.segments, None
        h = x
        if self.shifted:
            old = None if inner is None else inner.before
            half, before = token_before(x[..., : self.shifted], old, layout)
            h = jnp.concatenate([half.astype(x.dtype), x[..., self.shifted :]], -1)
        z, v, gate = self._project(h)
        if inner is None and self.causal and not layout.masked:
            return self._out(self._aligned(z, v, layout), gate, x), None
        q, q_far, k, k_far, v = self._zeroed([*self._scaled(z, layout.position), v], layout)
        tags = block_tags(layout, *x.shape[:2], self.block_size)
        runs = run_tags(layout, *x.shape[:2])
        place = jnp.broadcast_to(layout.position % self.block_size, tags.shape)
        queries, keys = (q, q_far, tags, runs, place), (k, k_far, v, tags, runs, place)
        if inner is None:
            o = self._parallel(queries, keys, layout)
        else:
            o, inner = self._continued(queries, keys, inner)
            before = None if before is None else before.astype(inner.s.dtype)
            inner = inner._replace(before=before)
        return self._out(o, gate, x), inner

    def _parallel(self, queries: tuple, keys: tuple, layout: Segments) -> Float[Array, "B L E"]:
        options = {"size": self.block_size, "ahead": not self.causal}
        (q, q_far, *where), (_, k_far, v, *_) = queries, keys
        if not self.causal:
            n = jnp.broadcast_to(self._seen_tokens(layout, v.shape[1]), v.shape[:2])
            q_far = q_far / n[..., None].astype(v.dtype)
        queries = (q, q_far, *where)
        o = parallel_blocks(self._step, self._carry(v), queries, keys, layout, **options)
        if self.causal or self.far == "block":
            return o
        far = (a[:, :, None] for a in (q_far, k_far, v))
        return o + kernel_sums(*far, causal=False, segment_ids=layout)[0][:, :, 0]

    def _aligned(self, z: Array, v: Array, layout: Segments) -> Float[Array, "B L E"]:
        """Where blocks are chunks, and those of a device's part are whole."""
        length, count = z.shape[1], parts(z.shape[1])
        start = self._carry(v)[0]
        if count == 1:
            return self._all_blocks((z, v, layout.position), start)[0]
        place = jnp.broadcast_to(layout.position, z.shape[:2])
        if length // count % self.block_size:
            inputs = jax.tree.map(by_whole_rows, (z, v, place))
            return by_parts(self._all_blocks(inputs, start)[0])
        inputs = tuple(cut(a, count) for a in (z, v, place))
        return carried_over(self._all_blocks, self._summary, _added, inputs, start, count)[0]

    def _summary(self, inputs: tuple) -> tuple[tuple, Float[Array, "B K E"]]:
        """What a part adds to Σ k' vᵀ / C."""
        z, v, place = inputs
        k_far = self._scaled(z, place)[3]
        return (), jnp.einsum("BSK,BSE->BKE", k_far / self.block_size, v)

    def _all_blocks(self, inputs: tuple, behind: Array) -> tuple[Float[Array, "B L E"], Array]:
        """All at once, as there are about as many scores as values; and Σ k' vᵀ / C after them."""
        length, size = inputs[0].shape[1], min(self.block_size, inputs[0].shape[1])
        fill = -length % size
        z, v, place = (jnp.pad(a, ((0, 0), (0, fill)) + ((0, 0),) * (a.ndim - 2)) for a in inputs)
        items = *self._scaled(z, place), v
        q, q_far, k, k_far, v = (a.reshape(a.shape[0], -1, size, a.shape[-1]) for a in items)
        index, seen = jnp.arange(size)[None], jnp.tril(jnp.ones((size, size), bool))
        s = jnp.einsum("BNCK,BNSK->BNCS", q / self.block_size, k)
        if self.positions is not None:
            bias = self._bias(index, index, self.d_qk)
            # As a product: its gradient sums over blocks faster than that of a broadcast.
            s = s + jnp.einsum("BN,OCS->BNCS", jnp.ones(v.shape[:2], z.dtype), bias)
        now = jnp.swapaxes(k_far / self.block_size, -1, -2) @ v
        last, behind = jax.lax.scan(lambda s, x: (s + x, s), behind, jnp.moveaxis(now, 1, 0))
        o = weights(s, seen, self.kind) @ v + q_far @ jnp.moveaxis(behind, 0, 1)
        return o.reshape(o.shape[0], -1, o.shape[-1])[:, :length], last

    def _carry(self, v: Array, s: Array | None = None) -> tuple | None:
        """Σ k' vᵀ / C of what lies behind the chunks in view, and the run it belongs to."""
        if not self.causal:
            return None
        s = jnp.zeros((v.shape[0], self.d_qk, self.d_value), v.dtype) if s is None else s
        return s, jnp.ones((v.shape[0], 1), jnp.int32)

    def _continued(self, queries: tuple, keys: tuple, state: FlashState):
        *old, tags, runs, place = keys
        held = state.block.valid
        tags, runs = (state.block.tagged(a) for a in (tags, runs))
        place = jnp.concatenate([jnp.cumsum(held, axis=1) - 1, place], 1)
        rows = state.block.before(tuple(old))
        carry = self._carry(rows[2], state.s)
        o = continued_blocks(
            self._step, carry, queries, (*rows, tags, runs, place), tags > 0, size=self.block_size
        )
        run = jnp.maximum(runs.max(1, keepdims=True), 1)
        done = (runs == run) & ~latest(tags)
        s = jnp.where((run == 1)[..., None], state.s, 0) + self._sum(rows, done)
        block = state.block.after(tuple(old), latest(tags))
        return o, FlashState(block, s.astype(state.s.dtype), None)

    def _sum(self, rows: tuple, which: Array) -> Float[Array, "B K E"]:
        """Σ k' vᵀ / C over some tokens."""
        far = jnp.where(which[..., None], rows[1], 0) / self.block_size
        return jnp.einsum("BSK,BSE->BKE", far, rows[2])

    def _step(self, carry: tuple | None, queries: tuple, keys: tuple):
        q, q_far, tags, runs, place = queries
        k, k_far, v, k_tags, k_runs, k_place = keys
        tags, k_tags, real = tags[:, :, None], k_tags[:, None], k_tags[:, None] > 0
        seen = (tags == k_tags) & real
        if self.causal:
            seen = seen & (place[:, :, None] >= k_place[:, None])
        s = jnp.einsum("BCK,BSK->BCS", q, k) / self.block_size
        w = weights(s + self._bias(place, k_place, self.d_qk), seen, self.kind)
        if not self.causal:
            if self.far == "block":
                w = w + jnp.where(seen, jnp.einsum("BCK,BSK->BCS", q_far, k_far), 0)
            return carry, w @ v
        earlier = (runs[:, :, None] == k_runs[:, None]) & (k_tags < tags) & real
        far = jnp.einsum("BCK,BSK->BCS", q_far, k_far) / self.block_size
        o = (w + jnp.where(earlier, far, 0)) @ v
        behind, run = carry
        o = o + jnp.where((runs == run)[..., None], q_far @ behind, 0)
        # The first chunk in view will lie behind the next ones.
        first = tuple(a[:, : q.shape[1]] for a in (k, k_far, v))
        now = jnp.maximum(run, k_runs[:, : q.shape[1]].max(1, keepdims=True))
        behind = jnp.where((now == run)[..., None], behind, 0)
        return (behind + self._sum(first, k_runs[:, : q.shape[1]] == now), now), o


def _added(_: tuple, own: Array, before: Array) -> Array:
    """How `carried_over` takes a sum past a part."""
    return before + own
