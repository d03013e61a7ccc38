"""What a chunk of Transformer-VQ's queries sees: keys one by one, and groups of older ones."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.attention.transformer_vq import codebook
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.softmax.skew import by_slots


@stream_state
class Groups(NamedTuple):
    """How many keys of each code there were, and the sums of their values."""

    count: Float[Array, "B H N"]
    total: Float[Array, "B H N V"]


def no_groups(shape: tuple[int, int, int, int], dtype: DTypeLike) -> Groups:
    """Groups [B, H, N, V] without a key."""
    return Groups(jnp.zeros(shape[:3], dtype), jnp.zeros(shape, dtype))


class View(NamedTuple):
    """What a chunk of queries sees; r, u and w times K^(-1/4), for all rows or one each."""

    book: Float[Array, "H N K"]  # without gradients
    r: Float[Array, "#B R H K"]  # of the distances up to `memory`
    u: Float[Array, "#B H K"]
    w: Float[Array, "#B H K"]
    block_size: int
    memory: int
    compressive: bool

    def start(self, groups: Groups | None) -> tuple | None:
        """What lies behind the chunks in view, and the run it belongs to."""
        if groups is None or not self.compressive:
            return None
        return groups, jnp.ones((groups.count.shape[0], 1), jnp.int32)

    def summary(self, keys: tuple) -> tuple[tuple, tuple]:
        """What keys of rows without borders make of no groups."""
        v, runs = keys[1], keys[3]
        nothing = no_groups((len(v), *self.book.shape[:2], v.shape[-1]), v.dtype)
        run = jnp.ones((len(v), 1), jnp.int32)
        return (), (self.grouped(nothing, run[:, 0] > 0, keys, runs == run), run)

    @staticmethod
    def joined(_: tuple, own: tuple, before: tuple) -> tuple:
        """Groups of what lies behind, those of `summary` among them."""
        (more, run), (groups, _) = own, before
        return jax.tree.map(jnp.add, groups, more), run

    def grouped(self, groups: Groups, stays: Array, rows: tuple, which: Array) -> Groups:
        """The groups, forgotten where they do not stay, and some more tokens in them."""
        _, v, codes = rows[:3]
        hot = codebook.one_hot(jnp.where(which[..., None], codes, -1), self.book.shape[1], v.dtype)
        count, total = (jnp.where(stays.reshape(-1, *(1,) * (a.ndim - 1)), a, 0) for a in groups)
        return Groups(
            count + hot.sum(-1).astype(count.dtype), total + jnp.einsum("BHNS,BSHV->BHNV", hot, v)
        )

    def step(self, carry: tuple | None, queries: tuple, keys: tuple):
        """Outputs of one chunk, and the groups with the first chunk in view added."""
        return self._step(carry, queries, keys, in_order=False)

    def packed_step(self, carry: tuple | None, queries: tuple, keys: tuple):
        """`step` where the tokens of a segment lie side by side, queries being the last keys."""
        return self._step(carry, queries, keys, in_order=True)

    def aligned_step(self, carry: tuple | None, queries: tuple, keys: tuple):
        """`packed_step` where blocks are chunks."""
        return self._step(carry, queries, keys, in_order=True, aligned=True)

    def early(self, queries: tuple, keys: tuple) -> Array:
        """Outputs of `aligned_step` where nothing lies behind the keys."""
        return self.aligned_step(None, queries, keys)[1]

    def _step(self, carry, queries: tuple, keys: tuple, *, in_order: bool, aligned: bool = False):
        size, count = queries[0].shape[1], keys[0].shape[1]
        part = codebook.QUERIES if in_order else size
        outputs = []
        for start in range(0, size, part):
            end = min(start + part, size)
            mine = tuple(a[:, start:end] for a in queries)
            seen = tuple(a[:, : count - size + end] if in_order else a for a in keys)
            outputs.append(self._outputs(carry, mine, seen, in_order, aligned))
        if carry is not None:
            carry = self.moved(*carry, keys, size)
        return carry, jnp.concatenate(outputs, axis=1)

    def _outputs(self, carry, queries: tuple, keys: tuple, in_order: bool, aligned: bool):
        """Outputs [B, C, H, V] of some queries, the last of the keys if they are `in_order`."""
        (q, runs, place), (k, v, _, k_runs, k_place) = queries, keys
        count, single = k.shape[1], None
        if not aligned or self.memory % self.block_size:  # else no key in view is grouped
            start = (place - place % self.block_size)[:, :, None]
            single = (k_place[:, None] >= start - self.memory)[:, None]
        content, beyond = self._content(q, k, single), 0 if self.compressive else -jnp.inf
        if aligned:  # what cannot be seen is so by its distance, or not there at all
            s = content + self._by_slots(q, count, beyond, -jnp.inf) + _unless(k_runs > 0)
        else:
            ahead = place[:, :, None] - k_place[:, None]
            near = self._by_slots(q, count, 0, 0) if in_order else self._by_distance(q, ahead)
            seen = (runs[:, :, None] == k_runs[:, None]) & (k_runs[:, None] > 0) & (ahead >= 0)
            seen = seen if self.compressive else seen & (ahead <= self.memory)
            s = jnp.where(seen[:, None], content + near, -jnp.inf)
        top = s.max(-1, keepdims=True)
        if carry is not None:
            groups, run = carry
            far = _shared(q + self.u, self.book)
            far = jnp.where(groups.count[:, :, None] > 0, far, -jnp.inf)
            if not aligned:
                far = jnp.where((runs == run)[:, None, :, None], far, -jnp.inf)
            top = jnp.maximum(top, far.max(-1, keepdims=True))
        top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
        p = jnp.exp(s - top)
        o, total = jnp.einsum("BHCS,BSHV->BHCV", p, v), p.sum(-1, keepdims=True)
        if carry is not None:
            p = jnp.exp(far - top)
            o = o + p @ groups.total
            total = total + p @ groups.count[..., None]
        o = o / jnp.where(total > 0, total, 1)
        return jnp.moveaxis(o, 1, 2)

    def _content(self, q: Array, k: Array, single: Bool[Array, "B 1 C S"] | None) -> Array:
        """(q + u)·k, without gradients to keys that are grouped."""
        content = jnp.einsum("BCHK,BSHK->BHCS", q + self.u, k)
        if single is None:
            return content
        fixed = jnp.einsum("BCHK,BSHK->BHCS", q + self.u, jax.lax.stop_gradient(k))
        return jnp.where(single, content, fixed)

    def _by_slots(self, q: Array, count: int, beyond: float, ahead: float) -> Array:
        """(q + w)·r where the queries are the last of `count` keys."""
        return by_slots(self._by_row_of_r(q, count), count, beyond, ahead)

    def _by_distance(self, q: Array, ahead: Int[Array, "B C S"]) -> Array:
        """(q + w)·r up to the distance `memory`, and then 0."""
        by_distance = self._by_row_of_r(q, self.r.shape[1])
        row = jnp.clip(ahead, 0, self.memory)[:, None]
        near = (ahead <= self.memory)[:, None]
        return jnp.where(near, jnp.take_along_axis(by_distance, row, axis=-1), 0)

    def _by_row_of_r(self, q: Array, count: int) -> Float[Array, "B H C R"]:
        """(q + w)·r for the distances below `count`."""
        r, q = self.r[:, :count], q + self.w
        if len(r) == 1:
            return _shared(q, jnp.moveaxis(r[0], 1, 0))
        return jnp.einsum("BCHK,BRHK->BHCR", q, r)

    def moved(self, groups: Groups, run: Array, keys: tuple, size: int) -> tuple:
        """The groups with the first `size` keys added, and their run."""
        first = tuple(a[:, :size] for a in keys[:4])
        now = jnp.maximum(run, first[3].max(1, keepdims=True))
        return self.grouped(groups, (now == run)[:, 0], first, first[3] == now), now


def _shared(q: Float[Array, "B C H K"], k: Float[Array, "H S K"]) -> Float[Array, "B H C S"]:
    """q·k for keys that all rows share. As an einsum, the products of a query would lie apart."""
    products = jax.lax.dot_general(q, k, (((3,), (2,)), ((2,), (0,))))
    return jnp.moveaxis(products, 0, 1)


def _unless(there: Bool[Array, "B S"]) -> Float[Array, "B 1 1 S"]:
    return jnp.where(there, 0, -jnp.inf)[:, None, None]
