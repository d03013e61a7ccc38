"""Segments: the one description of padding and packing that every op and mixer shares.

`segment_ids` [B, L] holds 0 at padding and a positive id elsewhere. With padding taken out, a
segment is a maximal run of one id: `1 1 2 2 1 1` is three segments, `1 1 0 0 1 1` is one.
`Segments` is what the ops need to know of it, computed once per call.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from seqzoo.models.ops.layout.sequence_parallel import carried_over, cut, parts, running


class Segments(NamedTuple):
    """The layout of a batch of rows; `valid` and `run` are None if all is real and of one run.

    Run 0 is the segment that a carried state belongs to: the first real token of a row is always in
    run 0, so whoever carries a state resets it first where that token begins another segment.
    """

    position: Int[Array, "#B L"]  # of a real token in its segment, carried tokens counted
    valid: Bool[Array, "B L"] | None = None  # real tokens
    run: Int[Array, "B L"] | None = (
        None  # number of the segment in its row; padding repeats the last
    )

    @property
    def masked(self) -> bool:
        """Whether padding or borders may be present (known while tracing)."""
        return self.valid is not None

    @property
    def starts(self) -> Bool[Array, "B L"]:
        """Real tokens at which a carried state must be forgotten (never the first real one)."""
        before = jnp.pad(self.run[:, :-1], ((0, 0), (1, 0)))
        return self.run != before

    def in_parts(self, batch: int, count: int) -> Segments:
        """The layout of `count` parts of each of `batch` rows; run 0 is that of a carried state."""
        each = (jnp.broadcast_to(x, (batch, x.shape[1])) for x in self if x is not None)
        position, *masks = (cut(x, count) for x in each)
        if not self.masked:
            return Segments(position)
        valid, run = masks
        ends = run[:, -1].reshape(count, batch)
        before = jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]]).reshape(-1, 1)
        return Segments(position, valid, run - before)

    def flip(self) -> Segments:
        """The layout of the reversed rows, for a fresh state."""
        if not self.masked:
            return self
        return segments(jnp.where(self.valid, self.run + 1, 0)[:, ::-1])


def all_real(length: int, offset: Int[Array, "B"] | None = None) -> Segments:
    """The layout of rows without padding or borders that continue at position `offset`."""
    position = jnp.arange(length)[None]
    return Segments(position if offset is None else position + offset[:, None])


def segments(
    segment_ids: Int[Array, "B L"],
    last_id: Int[Array, "B"] | None = None,
    offset: Int[Array, "B"] | None = None,
) -> Segments:
    """Reads `segment_ids`; `last_id` and `offset` describe the segment that a row continues.

    A row continues its carried segment if its first real token has the id `last_id`; then positions
    go on from `offset`, otherwise from 0. Without `last_id` every row is fresh.
    """
    valid = segment_ids > 0
    previous_id = jnp.pad(_latest_ids(segment_ids)[:, :-1], ((0, 0), (1, 0)))
    starts = valid & (previous_id > 0) & (segment_ids != previous_id)
    run = running(jnp.cumsum, jnp.add, starts, 0)
    count = running(jnp.cumsum, jnp.add, valid, 0) - 1  # real tokens before this one
    origin = running(jax.lax.cummax, jnp.maximum, jnp.where(starts, count, 0), 0)
    position = jnp.maximum(count - origin, 0)
    if last_id is not None:
        continues = first_id(segment_ids) == last_id
        carried = jnp.where(continues, offset, 0)[:, None]
        position = position + jnp.where(run == 0, carried, 0)
    return Segments(position, valid, run)


def ids_from_resets(
    resets: Bool[Array, "B L"], last_id: Int[Array, "B"] | None = None
) -> Int[Array, "B L"]:
    """Segment ids of rows of real tokens in which a segment begins wherever `resets` is true.

    `last_id`, as a state keeps it, is that of the segment which goes on until the first of them.
    """
    before = jnp.ones(resets.shape[0], jnp.int32) if last_id is None else jnp.maximum(last_id, 1)
    return before[:, None] + running(jnp.cumsum, jnp.add, resets.astype(jnp.int32), 0)


def _latest_ids(segment_ids: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """The id of the last real token up to each, 0 for none."""

    def own(ids: Array) -> Array:
        index = jnp.where(ids > 0, jnp.arange(ids.shape[1]), 0)
        return jnp.take_along_axis(ids, jax.lax.cummax(index, axis=1), axis=1)

    def run(ids: Array, before: Array) -> tuple[Array, Array]:
        ids = latest(own(ids), before[:, None])
        return ids, ids[:, -1]

    def latest(own: Array, before: Array) -> Array:
        return jnp.where(own > 0, own, before)

    count = parts(segment_ids.shape[1])
    segment_ids = jnp.maximum(segment_ids, 0)
    if count == 1:
        return own(segment_ids)
    return carried_over(
        run,
        lambda ids: ((), own(ids)[:, -1]),
        lambda _, own, before: latest(own, before),
        cut(segment_ids, count),
        jnp.zeros_like(segment_ids[:, 0]),
        count,
    )[0]


def first_id(segment_ids: Int[Array, "B L"]) -> Int[Array, "B"]:
    """The id of each row's first real token, 0 for a row of padding."""
    first = jnp.argmax(segment_ids > 0, axis=1)
    return jnp.take_along_axis(segment_ids, first[:, None], axis=1)[:, 0]


def last_real(valid: Bool[Array, "B L"]) -> Int[Array, "B"]:
    """The index of each row's last real token, -1 for a row of padding."""
    return jnp.max(jnp.where(valid, jnp.arange(valid.shape[1]), -1), axis=1)


def as_segments(segment_ids: Int[Array, "B L"] | Segments | None, length: int) -> Segments:
    """The layout for an op's optional `segment_ids` argument: ids, a layout, or None."""
    if segment_ids is None:
        return all_real(length)
    return segment_ids if isinstance(segment_ids, Segments) else segments(segment_ids)


class Compaction(NamedTuple):
    """A stable partition of each row, real tokens first: for ops that cannot skip padding."""

    order: Int[Array, "B L"]  # order[b, i] is where the i-th token of the compact row stands
    inverse: Int[Array, "B L"]
    segments: Segments  # the layout of the compact rows

    def pack(self, x: Array) -> Array:
        """Moves x [B, L, ...] to compact rows."""
        return _take(x, self.order)

    def unpack(self, x: Array) -> Array:
        """Moves compact rows back to where they came from."""
        return _take(x, self.inverse)


def compact(layout: Segments) -> Compaction:
    """Real tokens first in every row, order kept; padding follows."""
    order = jnp.argsort(~layout.valid, axis=1, stable=True)
    inverse = jnp.argsort(order, axis=1)
    moved = Segments(*(_take(jnp.broadcast_to(a, order.shape), order) for a in layout))
    return Compaction(order, inverse, moved._replace(run=jax.lax.cummax(moved.run, axis=1)))


def _take(x: Array, order: Int[Array, "B L"]) -> Array:
    return jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)
