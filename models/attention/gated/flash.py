"""Mixed chunk attention, FLASH: gated units in linear time (Hua et al. 2022, arXiv:2202.10447).

    o = W_out (g ⊙ Σ_s w_ts v_s),   v, g = silu(W x),   z = silu(W_qk x),   q, k = γ ⊙ z + β

It weighs within blocks of C tokens by relu(q·k / C + √K b)², with T5 buckets b of the distance, and
blocks that are complete by a product of other scalings of the same z: q'·k' / C; both ways, all
tokens of the segment, or with `far="block"` only those of the block, by q'·k' / n. Blocks are
counted from the start of the segment. GAU, which is quadratic, is in `gau.py`.

Cost of L tokens: O(L C (K + E) + L K E), E = expansion d_model. State: C (2 K + E) + 1 + K E
elements, and d_model / 2 with `shift`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.attention.gated.unit import GatedUnit
from seqzoo.models.linear_attention.token_shift import token_before
from seqzoo.models.mixer import Context
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
    block_tags,
    continued_blocks,
    forget,
    latest,
    parallel_blocks,
    run_tags,
    weights,
)


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
