"""Rows laid out in blocks that begin where segments begin.

Every segment is cut into blocks of C tokens from its start. Without padding and borders these are
the chunks of the row. Else tokens move: a segment of l > C // 2 tokens gets ceil(l / C) blocks of
its own; of the shorter ones 2^j share a block, where j is the largest with l <= C // 2^j. So at
most 2 L / C + log2 C blocks are needed, whatever the segments are: about twice those of a full row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.sequence_parallel import along, gathered
from seqzoo.models.ops.softmax.local_blocks import run_tags


class SegmentBlocks(NamedTuple):
    """N blocks of C slots; batch axes of 1 where all rows are alike.

    The block of number j of a block's segment is the row's block `first + j`.
    """

    source: Int[Array, "B M"] | None  # the token in each slot, L where there is none
    place: Int[Array, "B L"] | None  # the slot of each real token
    tag: Int[Array, "#B N C"]  # the segment of a slot's token, from 1; 0 where there is none
    position: Int[Array, "#B N C"]  # of that token in its segment
    number: Int[Array, "#B N"]  # of the block in its segment
    first: Int[Array, "#B N"]
    count: Int[Array, "#B N"]  # blocks of the segment, 1 where several share one

    def pack(self, x: Array) -> Array:
        """Moves x [B, L, ...] to blocks [B, N, C, ...], zeros where there is no token."""
        blocks = self.tag.shape[1:]
        if self.source is None:
            spare = blocks[0] * blocks[1] - x.shape[1]
            x = jnp.pad(x, ((0, 0), (0, spare), *((0, 0),) * (x.ndim - 2)))
        else:
            x = jnp.pad(gathered(x), ((0, 0), (0, 1), *((0, 0),) * (x.ndim - 2)))
            x = _take(x, self.source)
        return x.reshape(x.shape[0], *blocks, *x.shape[2:])

    def unpack(self, y: Array, length: int) -> Array:
        """Moves y [B, N, C, ...] back to [B, L, ...]."""
        y = y.reshape(y.shape[0], -1, *y.shape[3:])
        return y[:, :length] if self.place is None else along(_take(gathered(y), self.place))

    def split(self, parts: int) -> SegmentBlocks:
        """The same slots in blocks of C / parts."""

        def cut(x: Array) -> Array:
            return x.reshape(x.shape[0], -1, x.shape[2] // parts)

        def fine(x: Array, step: int) -> Array:
            return (x[:, :, None] * parts + step * jnp.arange(parts)).reshape(x.shape[0], -1)

        numbers = fine(self.number, 1), fine(self.first, 0), fine(self.count, 0)
        return SegmentBlocks(self.source, self.place, cut(self.tag), cut(self.position), *numbers)


def segment_blocks(layout: Segments, batch: int, length: int, size: int) -> SegmentBlocks:
    """The blocks of `size` tokens of every segment of a batch of rows."""
    if layout.masked:
        return blocks_by_tag(run_tags(layout, batch, length), size)
    count = -(-length // size)
    slot = jnp.arange(count * size).reshape(1, count, size)
    number = jnp.arange(count)[None]
    tag = (slot < length).astype(jnp.int32)
    same = jnp.zeros_like(number)
    return SegmentBlocks(None, None, tag, slot, number, same, same + count)


def blocks_by_tag(tags: Int[Array, "B L"], size: int) -> SegmentBlocks:
    """The tokens of equal tag, in their order, as a segment; 0 is padding."""
    batch, length = tags.shape
    levels = size.bit_length() - 1
    blocks = min(length, 2 * length // size + levels)
    order = jnp.argsort(jnp.where(tags > 0, tags, jnp.iinfo(tags.dtype).max), axis=1, stable=True)
    tags = jnp.take_along_axis(tags, order, axis=1)
    starts, rank, size_of = _runs(tags)
    slot, number, count = _slots(tags > 0, starts, rank, size_of, size, levels)
    slot = jnp.where(tags > 0, slot, blocks * size)  # out of range: dropped
    rows = jnp.arange(batch)[:, None]

    def scatter(shape: int, index: Array, values: Array, fill: int = 0) -> Array:
        empty = jnp.full((batch, shape), fill, jnp.int32)
        return empty.at[rows, index].set(values.astype(jnp.int32), mode="drop")

    block = slot // size
    number, count = (scatter(blocks, block, x) for x in (number, count))
    tag, position = (
        scatter(blocks * size, slot, x).reshape(batch, blocks, size) for x in (tags, rank)
    )
    source = scatter(blocks * size, slot, order, fill=length)
    place = jnp.where(tags > 0, slot, 0).astype(jnp.int32)
    place = jnp.zeros((batch, length), jnp.int32).at[rows, order].set(place)
    first = jnp.arange(blocks) - number
    return SegmentBlocks(source, place, tag, position, number, first, jnp.maximum(count, 1))


def _runs(tags: Int[Array, "B L"]) -> tuple[Bool[Array, "B L"], Array, Array]:
    """Where sorted tags begin anew, and for each token its rank in its run and the run's length."""
    index = jnp.arange(tags.shape[1])
    change = tags[:, 1:] != tags[:, :-1]
    ones = jnp.ones_like(change[:, :1], shape=(tags.shape[0], 1))
    starts = jnp.concatenate([ones, change], 1)
    ends = jnp.concatenate([change, ones], 1)
    start = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    end = jax.lax.cummin(jnp.where(ends, index, tags.shape[1]), axis=1, reverse=True)
    return starts & (tags > 0), (index - start).astype(jnp.int32), end - start + 1


def _slots(valid: Array, starts: Array, rank: Array, lengths: Array, size: int, levels: int):
    """Of each token: its slot, its block's number in the segment, and the segment's blocks."""
    level = sum((lengths <= size >> j).astype(jnp.int32) for j in range(1, levels + 1))
    level = jnp.zeros_like(rank) + level
    own = -(-lengths // size)
    slot = number = jnp.zeros_like(rank)
    base = 0  # blocks of the levels before
    for j in range(levels + 1):
        mine = valid & (level == j)
        each = own if j == 0 else 1
        upto = jnp.cumsum(jnp.where(starts & mine, each, 0), axis=1)
        before = upto - each
        room = size >> j
        at = (base + (before >> j)) * size + (before & ((1 << j) - 1)) * room + rank
        slot = jnp.where(mine, at, slot)
        base = base + -(-upto[:, -1:] // (1 << j))
    number = jnp.where(level == 0, rank // size, 0)
    return slot.astype(jnp.int32), number, jnp.where(level == 0, own, 1).astype(jnp.int32)


def _take(x: Array, order: Int[Array, "B L"]) -> Array:
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)
