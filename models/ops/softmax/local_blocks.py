"""Attention within blocks that are fixed in position: blocks of scores only where they are needed.

A row of real tokens (padding moved behind them) is cut into chunks of C, the size of a block. Where
blocks begin at multiples of C, a query's block is its chunk; where segments begin anywhere, or a
stream continues, a block lies in two neighbouring chunks and tags tell which keys are seen. While
streaming, the tokens of the block that is not complete are carried as a `Recent`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, compact
from seqzoo.models.ops.layout.sequence_parallel import (
    by_parts,
    by_whole_rows,
    carried_over,
    cut,
    join,
    neighbours,
    parts,
    repeat,
)
from seqzoo.models.ops.layout.states import stream_state

WeightKind = Literal["softmax", "relu", "squared_relu", "laplace"]


def weights(
    scores: Float[Array, "*B C S"], seen: Bool[Array, "*B C S"], kind: WeightKind
) -> Float[Array, "*B C S"]:
    """What attention multiplies values by; 0 where a key is not seen.

    softmax; relu; relu² (Hua et al. 2022, arXiv:2202.10447); or its smooth stand-in of Ma et al.
    2022 (arXiv:2209.10655, eq. 16), (1 + erf((s - μ) / (σ √2))) / 2, μ = √(1/2), σ = √(1/(4π)).
    """
    if kind == "softmax":
        low = jnp.finfo(scores.dtype).min / 2
        scores = jnp.where(seen, scores, low)
        top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
        p = jnp.where(seen, jnp.exp(scores - top), 0)
        total = p.sum(-1, keepdims=True)
        return p / jnp.where(total > 0, total, 1)
    if kind == "laplace":
        deviation = jnp.pi**-0.5 / 2
        w = 0.5 * (1 + jax.scipy.special.erf((scores - 0.5**0.5) / (deviation * 2**0.5)))
    else:
        w = jax.nn.relu(scores)
        w = jnp.square(w) if kind == "squared_relu" else w
    return jnp.where(seen, w, 0)


def check_kind(kind: str) -> None:
    """Raises ValueError for an unknown kind of weights."""
    if kind not in get_args(WeightKind):
        raise ValueError(
            f"unknown kind={kind!r} of weights; known: {', '.join(get_args(WeightKind))}"
        )


# (carry, queries [B, C, ...], keys [B, (1 + back + ahead) C, ...]) -> (carry, outputs [B, C, ...])
Step = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Array]]
# (queries [B, C, ...], keys [B, n C, ...]) -> outputs; as a step, without a carry
Early = Callable[[PyTree, PyTree], Array]


class Handover(NamedTuple):
    """What a carry becomes where any number of keys leave the view, as `carried_over` asks."""

    summarize: Callable[[PyTree], tuple[PyTree, PyTree]]
    compose: Callable[[PyTree, PyTree, PyTree], PyTree]


@op(rows="queries")
def near_blocks(
    step: Step,
    carry: PyTree,
    queries: PyTree,
    keys: PyTree,
    *,
    size: int,
    back: int = 1,
    ahead: bool = False,
    early: Early | None = None,
    handover: Handover | None = None,
) -> tuple[PyTree, Float[Array, "B L ..."]]:
    """Runs `step` over the chunks of `size` tokens of rows [B, L, ...].

    It sees the keys of its own chunk, of the `back` before it, and of the next with `ahead`, in
    order. Rows are filled up with zeros, so a tag of 0 must mean that a key is not seen. What
    happens within a step is computed again in the backward pass: memory is linear in L.

    The first 1 + back chunks, which see all there is before them, are left to `early` if it is
    given, with only the keys that exist. A `carry` then needs a `handover`, which takes it past the
    keys that leave the view meanwhile.

    Rows divided over devices stay so if their parts are of whole chunks, and if nothing is carried
    or there is a `handover`, of which the carry of each part is made; else whole rows are divided.
    """
    length = jax.tree.leaves(queries)[0].shape[1]
    count = 1
    if carry is None or handover is not None:
        count = chunk_parts(length, size, back, ahead)
    if count > 1:
        queries = jax.tree.map(lambda x: cut(x, count), queries)
        halo = (count, back * size, ahead * size)
        keys = jax.tree.map(lambda x: neighbours(cut(x, count), *halo), keys)
        return _parts(step, carry, queries, keys, size, back + ahead, handover, count)
    options = {"size": size, "back": back, "ahead": ahead}
    return _whole_rows(step, carry, queries, keys, early=early, handover=handover, **options)


def chunk_parts(length: int, size: int, back: int, ahead: bool = False) -> int:
    """Into how many parts `near_blocks` cuts rows that it need not have whole."""
    count = parts(length)
    own = length // count
    return count if own % size == 0 and max(back, ahead) * size <= own else 1


def _parts(
    step: Step,
    carry: PyTree,
    queries: PyTree,
    keys: PyTree,
    size: int,
    more: int,
    handover: Handover | None,
    count: int,
) -> tuple[PyTree, Array]:
    """`near_blocks` of rows already cut, keys with those of their neighbours."""

    def run(rows: tuple, carry: PyTree) -> tuple[Array, PyTree]:
        queries, keys = rows
        keys = jax.tree.map(lambda x: _cut(x, size), keys)
        return _scan(step, carry, queries, keys, size, more)[::-1]

    if carry is None:
        return None, join(run((queries, keys), None)[0], count)

    def summarize(rows: tuple) -> tuple[PyTree, PyTree]:
        queries, keys = rows  # as many leave the view as there are queries
        own = jax.tree.leaves(queries)[0].shape[1]
        return handover.summarize(jax.tree.map(lambda x: x[:, :own], keys))

    o, carry = carried_over(run, summarize, handover.compose, (queries, keys), carry, count)
    return carry, o


def _whole_rows(
    step: Step,
    carry: PyTree,
    queries: PyTree,
    keys: PyTree,
    *,
    size: int,
    back: int,
    ahead: bool = False,
    early: Early | None = None,
    handover: Handover | None = None,
) -> tuple[PyTree, Array]:
    queries, keys = jax.tree.map(by_whole_rows, (queries, keys))
    length = jax.tree.leaves(queries)[0].shape[1]
    if length <= size:  # one chunk, with nothing before or after
        size, back, ahead = length, 0, False
    outputs, done = [], 0
    while early is not None and done <= back and done * size < length:
        start, end = done * size, min((done + 1) * size, length)
        mine = jax.tree.map(lambda x, a=start, b=end: x[:, a:b], queries)
        seen = jax.tree.map(lambda x, b=end: x[:, :b], keys)
        outputs.append(early(mine, seen))
        done += 1

    def filled(x: Array) -> Array:
        x = _cut(x, size)[max(0, done - back) :]
        return jnp.pad(x, ((max(0, back - done), int(ahead)), *((0, 0),) * (x.ndim - 1)))

    if done * size < length:
        queries = jax.tree.map(lambda x: x[:, done * size :], queries)
        if carry is not None and done > back:
            gone = jax.tree.map(lambda x: x[:, : (done - back) * size], keys)
            carry = handover.compose(*handover.summarize(gone), carry)
        carry, o = _scan(step, carry, queries, jax.tree.map(filled, keys), size, back + ahead)
        outputs.append(o)
    return carry, by_parts(jnp.concatenate(outputs, axis=1))


def _scan(
    step: Step, carry: PyTree, queries: PyTree, keys: PyTree, size: int, more: int
) -> tuple[PyTree, Array]:
    """All chunks of `queries`; `keys` in chunks [n, B, C, ...], `more` of them than of queries."""
    length = jax.tree.leaves(queries)[0].shape[1]

    def window(x: Array) -> Array:
        count = x.shape[0] - more
        return jnp.concatenate([x[i : i + count] for i in range(more + 1)], axis=2)

    xs = (jax.tree.map(lambda x: _cut(x, size), queries), jax.tree.map(window, keys))
    body = jax.checkpoint(lambda carry, x: step(carry, *x), prevent_cse=False)
    carry, o = jax.lax.scan(body, carry, xs)
    return carry, jnp.moveaxis(o, 0, 1).reshape(o.shape[1], -1, *o.shape[3:])[:, :length]


def _cut(x: Array, size: int) -> Array:
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)


@op(rows="queries")
def parallel_blocks(
    step: Step,
    carry: PyTree,
    queries: PyTree,
    keys: PyTree,
    layout: Segments,
    *,
    size: int,
    back: int = 0,
    ahead: bool = False,
    early: Early | None = None,
    handover: Handover | None = None,
) -> Float[Array, "B L ..."]:
    """`near_blocks` over whole rows, where queries see `back` blocks before their own.

    `ahead`: and later keys of their own block. `early` and `handover` are for blocks that are
    chunks alone.
    """
    if not layout.masked:  # blocks are chunks
        options = {"size": size, "back": back, "early": early, "handover": handover}
        return near_blocks(step, carry, queries, keys, **options)[1]
    rows = compact(layout)
    queries, keys = jax.tree.map(lambda x: rows.pack(by_whole_rows(x)), (queries, keys))
    options = {"size": size, "back": back + 1, "ahead": ahead}  # a block lies in two chunks
    return rows.unpack(_whole_rows(step, carry, queries, keys, **options)[1])


@op(rows="queries")
def continued_blocks(
    step: Step,
    carry: PyTree,
    queries: PyTree,
    keys: PyTree,
    valid: Bool[Array, "B S"],
    *,
    size: int,
    back: int = 0,
) -> Float[Array, "B C ..."]:
    """`near_blocks` for queries that are the last C tokens of rows of S keys."""
    count = jax.tree.leaves(queries)[0].shape[1]
    if count <= size:
        return step(carry, queries, keys)[1]
    before = valid.shape[1] - count
    order = jnp.argsort(~valid, axis=1, stable=True)
    inverse = jnp.argsort(order, axis=1)[:, before:]

    def front(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (before, 0), *((0, 0),) * (x.ndim - 2)))

    rows = jax.tree.map(lambda x: _take(x, order), (jax.tree.map(front, queries), keys))
    return _take(near_blocks(step, carry, *rows, size=size, back=back + 1)[1], inverse)


@op(rows="queries")
def all_blocks(
    run: Callable[[PyTree, PyTree], Array],
    queries: PyTree,
    keys: PyTree,
    *,
    size: int,
    causal: bool,
) -> Float[Array, "B L ..."]:
    """`run(queries, keys)` with `size` queries at a time, so that memory is linear in L.

    With `causal`, where queries and keys are the same tokens in order, an eighth of the row sees
    no keys behind its own end: 9/16 of the products instead of all.
    """
    length = jax.tree.leaves(queries)[0].shape[1]
    if (count := parts(length)) > 1:  # each part of the queries with all keys
        queries = jax.tree.map(lambda x: cut(x, count), queries)
        keys = jax.tree.map(lambda x: repeat(x, count), keys)
        return join(_all_blocks(run, queries, keys, size, False), count)
    return _all_blocks(run, queries, keys, size, causal)


def _all_blocks(
    run: Callable[[PyTree, PyTree], Array], queries: PyTree, keys: PyTree, size: int, causal: bool
) -> Array:
    length = jax.tree.leaves(queries)[0].shape[1]
    if length <= size:
        return run(queries, keys)
    part = -(-length // (8 if causal else 1) // size) * size
    body = jax.checkpoint(run, prevent_cse=False)
    parts = []
    for start in range(0, length, part):
        end = min(start + part, length)
        mine = jax.tree.map(lambda x, a=start, b=end: _cut(x[:, a:b], size), queries)
        seen = jax.tree.map(lambda x, b=end: x[:, :b] if causal else x, keys)
        o = jax.lax.map(lambda q, seen=seen: body(q, seen), mine)
        o = jnp.moveaxis(o, 0, 1)
        parts.append(o.reshape(o.shape[0], -1, *o.shape[3:])[:, : end - start])
    return jnp.concatenate(parts, axis=1)


def _take(x: Array, order: Int[Array, "B L"]) -> Array:
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)


# Tags, and what a stream carries


def block_tags(layout: Segments, batch: int, length: int, size: int) -> Int[Array, "B L"]:
    """1 for tokens of the block that a row continues, one more for each later one, 0 at padding."""
    position = jnp.broadcast_to(layout.position, (batch, length))
    starts = position % size == 0
    if layout.masked:
        starts = starts & layout.valid
    tags = jnp.cumsum(starts, axis=1) + 1
    return jnp.where(layout.valid, tags, 0) if layout.masked else tags


def run_tags(layout: Segments, batch: int, length: int) -> Int[Array, "B L"]:
    """1 for tokens of the segment that a row continues, then one more for each, 0 at padding."""
    if not layout.masked:
        return jnp.ones((batch, length), jnp.int32)
    return jnp.where(layout.valid, layout.run + 1, 0).astype(jnp.int32)


def latest(tags: Int[Array, "B S"]) -> Bool[Array, "B S"]:
    """The tokens with the tag of the last real one."""
    return tags == jnp.maximum(tags.max(1, keepdims=True), 1)


@stream_state
class Recent(NamedTuple):
    """The latest tokens of a row that are still needed, newest last; slots before them are 0."""

    items: PyTree  # leaves [B, S, ...]
    count: Int[Array, "B"]

    @property
    def size(self) -> int:
        """How many tokens there is room for."""
        return jax.tree.leaves(self.items)[0].shape[1]

    @property
    def valid(self) -> Bool[Array, "B S"]:
        """Which slots hold a token."""
        return jnp.arange(self.size) >= self.size - self.count[:, None]

    def before(self, items: PyTree) -> PyTree:
        """Rows [B, S + C, ...] of the remembered tokens and then `items`."""

        def join(old: Array, new: Array) -> Array:
            return jnp.concatenate([old.astype(new.dtype), new], axis=1)

        return jax.tree.map(join, self.items, items)

    def tagged(self, tags: Int[Array, "B C"]) -> Int[Array, "B S+C"]:
        """Tags of those rows: remembered tokens have 1, empty slots 0."""
        return jnp.concatenate([self.valid.astype(tags.dtype), tags], axis=1)

    def after(self, items: PyTree, kept: Bool[Array, "B S+C"]) -> Recent:
        """Remembers the tokens of those rows that are `kept`, at most S."""
        rows = self.before(items)
        order = jnp.argsort(kept, axis=1, stable=True)[:, kept.shape[1] - self.size :]
        held = jnp.take_along_axis(kept, order, axis=1)

        def take(x: Array, like: Array) -> Array:
            x = _take(x, order)
            return jnp.where(held.reshape(*held.shape, *(1,) * (x.ndim - 2)), x, 0).astype(
                like.dtype
            )

        count = held.sum(1).astype(self.count.dtype)
        return Recent(jax.tree.map(take, rows, self.items), count)


def forget(token: PyTree, batch: int, slots: int) -> Recent:
    """A `Recent` of no tokens; `token` has `jax.ShapeDtypeStruct`s of one token as leaves."""
    zeros = jax.tree.map(lambda t: jnp.zeros((batch, slots, *t.shape), t.dtype), token)
    return Recent(zeros, jnp.zeros(batch, jnp.int32))
