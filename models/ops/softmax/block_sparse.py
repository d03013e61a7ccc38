"""Softmax attention that makes only the blocks of scores that a pattern asks for.

Rows are in blocks (`packed_blocks.py`); for each block of queries a table names the
blocks of keys, which are gathered. What several calls see of one softmax is joined at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.ops.layout import sequence_parallel
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.sequence_parallel import by_blocks, neighbours, repeat
from seqzoo.models.ops.layout.sharding import SEQUENCE_AXIS, axis_size
from seqzoo.models.ops.softmax.masks import LOW
from seqzoo.models.ops.softmax.packed_blocks import SegmentBlocks

GROUP = 4096  # queries whose scores exist at a time, so that memory is linear in L

# (numbers of blocks [..., N], blocks of their segments) -> numbers of the key blocks [..., N, n],
# where those out of range and all but the first of equal ones are left out
Table = Callable[[Int[Array, "*B N"], Int[Array, "*B N"]], Int[Array, "*B N n"]]
Sees = Callable[[Int[Array, "..."], Int[Array, "..."]], Bool[Array, "..."]]  # of two positions


class Part(NamedTuple):
    """Σ e^(s - top) v and Σ e^(s - top) over some of a query's keys; `top` is LOW without any."""

    weighted: Float[Array, "*B H V"]
    total: Float[Array, "*B H"]
    top: Float[Array, "*B H"]


def join(parts: Sequence[Part]) -> Float[Array, "*B H V"]:
    """The softmax over the keys of all parts; 0 for queries without keys."""
    top = parts[0].top
    for part in parts[1:]:
        top = jnp.maximum(top, part.top)
    factors = [jnp.exp(part.top - top) for part in parts]
    total = sum(f * part.total for f, part in zip(factors, parts, strict=True))
    o = sum(f[..., None] * part.weighted for f, part in zip(factors, parts, strict=True))
    return o / jnp.where(total > 0, total, 1)[..., None]


def attend(
    q: Float[Array, "*B C H K"],
    k: Float[Array, "*B S H K"],
    v: Float[Array, "*B S H V"],
    seen: Bool[Array, "*#B C S"],
    scale: float,
) -> Part:
    """All of C queries' scores of S keys, in at least float32."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    s = jnp.einsum("...chk,...shk->...hcs", q * scale, k, preferred_element_type=wide)
    seen = seen[..., None, :, :]
    s = jnp.where(seen, s, LOW)
    top = jax.lax.stop_gradient(s.max(-1))
    p = jnp.where(seen, jnp.exp(s - top[..., None]), 0)
    weighted = jnp.einsum("...hcs,...shv->...chv", p, v.astype(wide))
    return Part(weighted, *(x.swapaxes(-1, -2) for x in (p.sum(-1), top)))


@op(rows="q")
def attend_blocks(
    q: Float[Array, "B N C H K"],
    k: Float[Array, "B N C H K"],
    v: Float[Array, "B N C H V"],
    blocks: SegmentBlocks,
    table: Table,
    sees: Sees,
    scale: float,
    *,
    near: tuple[int, int] | None = None,
) -> Part:
    """Each block of queries attends to the blocks of its segment that `table` names.

    Of these a query sees the keys of its own segment that `sees` allows. Cost: O(L n C K) per head.

    `near`: how many blocks before and behind a block `table` names at most; None for any. Devices
    that divide a row send each other only those; else all keys.
    """
    numbers = table(blocks.number, blocks.count)
    index = jnp.where(_named(numbers, blocks.count), blocks.first[..., None] + numbers, -1)
    queries, keys = (q, blocks.tag, blocks.position, index), (k, v, blocks.tag, blocks.position)
    devices, (rows, length) = axis_size(SEQUENCE_AXIS), q.shape[:2]
    own = -(-length // devices)
    run = functools.partial(_attend_named, sees=sees, scale=scale)
    if devices == 1 or near is None or max(near) > own:
        return by_groups(run, *queries, whole=keys)
    *queries, index = _shared(queries, rows, devices)
    keys = (neighbours(x, devices, *near) for x in _shared(keys, rows, devices))
    start = (jnp.arange(index.shape[0]) // rows * own - near[0])[:, None, None]
    queries = (*queries, jnp.where(index >= 0, index - start, -1))
    return _returned(_by_groups(run, queries, tuple(keys), None), devices, length)


def _attend_named(q, tag, position, index, k, v, k_tags, k_positions, *, sees: Sees, scale: float):
    """Queries [B, N, C, ...], numbers [B, N, n] of blocks of keys, and all keys [B, M, C, ...]."""
    named = (index >= 0)[..., None]
    k_tag, k_position = (gather(x, index) for x in (k_tags, k_positions))
    k_tag = jnp.where(named, k_tag, 0).reshape(*index.shape[:2], 1, -1)
    k_position = k_position.reshape(k_tag.shape)
    seen = (tag[..., None] == k_tag) & (k_tag > 0) & sees(position[..., None], k_position)
    return attend(q, _rows(k, index), _rows(v, index), seen, scale)


def by_groups(
    run: Callable[..., Part], *args: Array, whole: tuple[Array, ...] = (), most: int | None = None
) -> Part:
    """`run(*args, *whole)` for blocks [B, N, C, ...], of at most `most` (GROUP) queries at a time.

    Devices that divide rows share the N blocks; what is `whole` [B, ...] all of them have.
    """
    devices, (rows, count) = axis_size(SEQUENCE_AXIS), args[0].shape[:2]
    if devices == 1:
        return _by_groups(run, args, whole, most)
    whole = tuple(repeat(jnp.broadcast_to(x, (rows, *x.shape[1:])), devices) for x in whole)
    return _returned(_by_groups(run, _shared(args, rows, devices), whole, most), devices, count)


def _by_groups(run: Callable[..., Part], args: tuple, whole: tuple, most: int | None) -> Part:
    count, size = args[0].shape[1:3]
    some = max(1, (most or GROUP) // size)
    if count <= some:
        return jax.checkpoint(run)(*args, *whole)
    spare = -count % some

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, spare), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, some, *x.shape[2:]), 1, 0)

    body = jax.checkpoint(lambda group: run(*group, *whole), prevent_cse=False)
    parts = jax.lax.map(body, tuple(cut(x) for x in args))

    def paste(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :count]

    return jax.tree.map(paste, parts)


def _shared(args: Sequence[Array], rows: int, devices: int) -> tuple[Array, ...]:
    """The blocks of each device as rows of their own."""
    return tuple(by_blocks(jnp.broadcast_to(x, (rows, *x.shape[1:])), devices) for x in args)


def _returned(part: Part, devices: int, count: int) -> Part:
    return jax.tree.map(lambda x: sequence_parallel.join(x, devices)[:, :count], part)


@op(rows="q")
def attend_from(
    index: Int[Array, "#B N G"],
    found: Bool[Array, "#B N G"],
    q: Float[Array, "B N C H K"],
    k: Float[Array, "B N C H K"],
    v: Float[Array, "B N C H V"],
    blocks: SegmentBlocks,
    scale: float,
) -> Part:
    """Few queries per segment, which see all of its keys: [B, N, G, H, ...].

    `index` has for every block the slots of its segment's queries, the same for all blocks of a
    segment. Each block of keys is attended to once, and the parts of a segment are added.
    """
    slots = (q.shape[0], -1, *q.shape[3:])
    index = jnp.broadcast_to(index, (q.shape[0], *index.shape[1:]))
    asked = gather(q.reshape(slots), index)
    seen = found[..., None] & (blocks.tag > 0)[..., None, :]
    part = attend(asked, k, v, seen, scale)
    first = jnp.broadcast_to(blocks.first, q.shape[:2])

    def top_of(top: Array, first: Array) -> Array:
        return jax.ops.segment_max(top, first, q.shape[1])

    def sum_of(x: Array, first: Array) -> Array:
        return jax.ops.segment_sum(x, first, q.shape[1])

    top = jax.vmap(top_of)(part.top, first)
    top = jnp.maximum(gather(top, first), LOW)
    factor = jnp.exp(part.top - top)
    weighted = jax.vmap(sum_of)(part.weighted * factor[..., None], first)
    total = jax.vmap(sum_of)(part.total * factor, first)
    return Part(gather(weighted, first), gather(total, first), top)


def gather(x: Array, index: Int[Array, "B ..."]) -> Array:
    """x[b, index[b]], where a batch axis of 1 serves all rows; negative indices give the first."""
    index = jnp.maximum(index, 0)
    if index.shape[0] == 1:
        return x[:, index[0]]
    x = jnp.broadcast_to(x, (index.shape[0], *x.shape[1:]))
    return jax.vmap(lambda x, i: x[i])(x, index)


def _named(numbers: Int[Array, "*B n"], count: Int[Array, "*B"]) -> Bool[Array, "*B n"]:
    inside = (numbers >= 0) & (numbers < count[..., None])
    same = numbers[..., :, None] == numbers[..., None, :]
    return inside & ~jnp.tril(same, -1).any(-1)


def _rows(x: Float[Array, "B N C H K"], index: Int[Array, "#B G n"]) -> Array:
    """The tokens of the blocks `index`: [B, G, n C, H, K]."""
    x = gather(x, index)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])
