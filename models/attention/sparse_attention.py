"""Sparse factorised attention (Child et al. 2019, arXiv:1904.10509): strided and fixed patterns.

    o_t = Σ_s softmax_s(q_t·k_s / √K) v_s

strided (eq. 3): the keys s at a distance of at most l = `stride`, and every l-th one before them.
fixed (eq. 4): the keys of t's block of l, and the last c = `summary` tokens of all other blocks.
Causal, all of them at s <= t; both ways, on either side. Positions are counted from the start of
the segment. The two sets are merged in one softmax (section 4.3's "merged head"), in every head.

Cost of L tokens: O(L (l + L / l) K) per head strided, both ways O(L (2 l + L / l) K); fixed
O(L (l + c L / l) K). It is L^1.5 where l is about √L. Causal, the later half of the columns or
summaries is masked, not skipped. With padding or borders at most twice the blocks.
State: 2 S d_model + 1 elements,
S = max_length strided, S = l - c + c ceil(max_length / l) fixed.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.attention.cache import KVCache
from seqzoo.models.attention.patterns import BlockPattern
from seqzoo.models.attention.sparse_parts import (
    PositionKind,
    attend_stream,
    empty_cache,
    heads,
    only_real,
    projections,
    turner,
)
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax.block_sparse import Part, attend, attend_blocks, by_groups, join
from seqzoo.models.ops.softmax.packed_blocks import SegmentBlocks, segment_blocks


@dataclasses.dataclass(frozen=True)
class Strided:
    """What a stream shows and keeps: a window, and every `stride`-th token before it."""

    stride: int
    max_length: int

    @property
    def slots(self) -> int:
        """How many tokens are kept."""
        return self.max_length

    def keys(self, position: Int[Array, "*B"]) -> tuple[Int[Array, "*B n"], Bool[Array, "*B n"]]:
        """Positions of the keys of a query, and which of them exist."""
        column = self.stride * jnp.arange(2, -(-self.max_length // self.stride))
        back = jnp.concatenate([jnp.arange(self.stride + 1), column])
        key = position[..., None] - back
        return key, key >= 0

    def place(self, position: Int[Array, "..."], length: Int[Array, "..."]) -> Int[Array, "..."]:
        """The slot of a token."""
        return jnp.minimum(position, self.slots)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """What a stream shows and keeps: the current block, and the last tokens of all others."""

    stride: int
    summary: int
    max_length: int

    @property
    def slots(self) -> int:
        """How many tokens are kept."""
        return self.stride - self.summary + self.summary * self._blocks

    @property
    def _blocks(self) -> int:
        return -(-self.max_length // self.stride)

    def keys(self, position: Int[Array, "*B"]) -> tuple[Int[Array, "*B n"], Bool[Array, "*B n"]]:
        """Positions of the keys of a query, and which of them count."""
        start = (position // self.stride * self.stride)[..., None]
        near = start + jnp.arange(self.stride)
        tail = jnp.arange(self.stride - self.summary, self.stride)
        far = (self.stride * jnp.arange(self._blocks)[:, None] + tail).reshape(-1)
        far = jnp.broadcast_to(far, (*position.shape, far.size))
        fine = jnp.concatenate([near <= position[..., None], far < start], -1)
        return jnp.concatenate([near, far], -1), fine

    def place(self, position: Int[Array, "..."], length: Int[Array, "..."]) -> Int[Array, "..."]:
        """The slot of a token, `slots` where it is neither in the last block nor in a tail."""
        free = self.stride - self.summary
        block, at = position // self.stride, position % self.stride
        now = jnp.where(block == (length - 1) // self.stride, at, self.slots)
        kept = jnp.minimum(free + block * self.summary + at - free, self.slots)
        return jnp.where(at < free, now, kept)


class SparseAttention(Mixer):
    """Attention by a strided or a fixed pattern; see the module docstring."""

    looks_both_ways = True
    state_growth = "linear"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        pattern: Literal["strided", "fixed"] = "strided",
        stride: int = 32,
        summary: int = 4,
        positions: PositionKind = "rope",
        use_bias: bool = False,
        max_length: int = 2048,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`summary`: of the fixed pattern; `max_length`: most tokens of a segment, if causal.

        Raises ValueError for unknown patterns, widths that do not divide, and a summary larger than
        its block.
        """
        if pattern not in ("strided", "fixed"):
            raise ValueError(f"unknown {pattern=}; known: strided, fixed")
        if stride < 1 or not 1 <= summary <= stride:
            raise ValueError(
                "stride is a number of tokens, and summary one of at most stride; got "
                f"{stride=}, {summary=}"
            )
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.turn = turner(positions, self.d_head)
        self.stride, self.summary, self.causal = stride, summary, causal
        self.parts = next(
            p for p in range(8, 0, -1) if stride % p == 0
        )  # finer blocks of the window
        self.strided, self.max_length = pattern == "strided", max_length if causal else None
        fixed = Fixed(stride, summary, max_length)
        self.stream = Strided(stride, max_length) if self.strided else fixed

    def _initial(self, batch_size: int) -> KVCache:
        return empty_cache(batch_size, self.stream.slots, self.num_heads, self.d_head, self.kept)

    def state_size(self) -> int:
        """2 S d_model + 1, S by the module docstring."""
        return 2 * self.stream.slots * self.num_heads * self.d_head + 1

    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        layout = ctx.segments
        q, k, v = (heads(p(x), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (self.turn(a, layout.position) for a in (q, k))
        k, v = only_real(layout, k, v)
        if inner is None:
            o = self._parallel(q, k, v, layout)
        else:
            o, inner = attend_stream(q, k, v, inner, layout, self.stream, self.d_head**-0.5)
        return self.out_proj(o.reshape(x.shape)), inner

    def _parallel(self, q: Array, k: Array, v: Array, layout: Segments) -> Array:
        blocks = segment_blocks(layout, *q.shape[:2], self.stride)
        rows = tuple(blocks.pack(a) for a in (q, k, v))
        if self.strided:
            parts = [self._window(rows, blocks), self._columns(rows, blocks)]
        else:
            parts = [self._block(rows, blocks), self._tails(rows, blocks)]
        return blocks.unpack(join(parts), q.shape[1])

    def _window(self, rows: tuple, blocks: SegmentBlocks) -> Part:
        near = BlockPattern(
            size=self.stride // self.parts,
            back=self.parts,
            causal=self.causal,
            reach=self.stride + 1,
        )
        shape = blocks.tag.shape[1:]
        rows = (a.reshape(a.shape[0], -1, near.size, *a.shape[3:]) for a in rows)
        fine = blocks.split(self.parts)
        part = attend_blocks(*rows, fine, near.table, near.sees, self.d_head**-0.5, near=near.near)
        return Part(*(a.reshape(a.shape[0], *shape, *a.shape[3:]) for a in part))

    def _columns(self, rows: tuple, blocks: SegmentBlocks) -> Part:
        """Keys at the same place of blocks that are at least two away, all blocks at once."""
        q, k, v = (a.swapaxes(1, 2) for a in rows)
        tag, index = blocks.tag.swapaxes(1, 2), jnp.arange(blocks.tag.shape[1])
        away = index[:, None] - index
        away = away if self.causal else jnp.abs(away)
        seen = (tag[..., None] == tag[..., None, :]) & (tag > 0)[..., None, :] & (away >= 2)
        part = by_groups(lambda *a: attend(*a, self.d_head**-0.5), q, k, v, seen)
        return Part(*(a.swapaxes(1, 2) for a in part))

    def _block(self, rows: tuple, blocks: SegmentBlocks) -> Part:
        own = BlockPattern(size=self.stride, back=0, causal=self.causal)
        return attend_blocks(*rows, blocks, own.table, own.sees, self.d_head**-0.5, near=own.near)

    def _tails(self, rows: tuple, blocks: SegmentBlocks) -> Part:
        """The last tokens of other blocks, those of the whole row in one line."""
        q, k, v = rows
        k, v, k_tag = (
            a[:, :, -self.summary :].reshape(a.shape[0], -1, *a.shape[3:])
            for a in (k, v, blocks.tag)
        )
        count = blocks.tag.shape[1]
        of = jnp.arange(count * self.summary) // self.summary

        def run(q: Array, tag: Array, index: Array, k: Array, v: Array, k_tag: Array) -> Part:
            seen = (tag[..., None] == k_tag[:, None, None]) & (k_tag > 0)[:, None, None]
            other = index > of if self.causal else index != of
            return attend(q, k[:, None], v[:, None], seen & other[:, :, None], self.d_head**-0.5)

        index = jnp.arange(count)[None, :, None]
        return by_groups(run, q, blocks.tag, index, whole=(k, v, k_tag))
