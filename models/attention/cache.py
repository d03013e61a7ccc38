"""A ring of the keys and values of a row's segment, for attention that streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.segments import last_real
from seqzoo.models.ops.layout.states import stream_state


@stream_state
class KVCache(NamedTuple):
    """Position p of a row's segment is kept in slot p mod S."""

    k: Float[Array, "B S H K"]
    v: Float[Array, "B S H V"]
    length: Int[Array, "B"]  # tokens of the segment so far


class MarkedCache(NamedTuple):
    """A `KVCache` that keeps more numbers of each token."""

    k: Float[Array, "B S H K"]
    v: Float[Array, "B S H V"]
    length: Int[Array, "B"]
    marks: Float[Array, "B S M"]

    def newest(self) -> Float[Array, "B M"]:
        """The marks of the last token in the ring; 0 where there is none."""
        at = jnp.maximum(self.length - 1, 0) % self.marks.shape[1]
        last = jnp.take_along_axis(self.marks, at[:, None, None], 1)[:, 0]
        return jnp.where(self.length[:, None] > 0, last, 0)


Cache = TypeVar("Cache", KVCache, MarkedCache)


def slot_positions(length: Int[Array, "B"], slots: int) -> Int[Array, "B S"]:
    """The position that each slot of the ring holds; negative where it holds none."""
    last = length[:, None] - 1
    return last - (last - jnp.arange(slots)) % slots


# (positions, length of the segment) -> slots; out of range for what is not kept
Place = Callable[[Int[Array, "B C"], Int[Array, "B 1"]], Int[Array, "B C"]]


def ring(slots: int) -> Place:
    """The last `slots` tokens are kept, position p in slot p mod S."""

    def place(position: Int[Array, "B C"], length: Int[Array, "B 1"]) -> Int[Array, "B C"]:
        return jnp.where(position >= length - slots, position % slots, slots)

    return place


def write(
    cache: Cache,
    k: Float[Array, "B C H K"],
    v: Float[Array, "B C H V"],
    position: Int[Array, "B C"],
    tags: Int[Array, "B C"],
    place: Place | None = None,
    marks: Float[Array, "B C M"] | None = None,
) -> Cache:
    """Puts the tokens of each row's last segment where `place` says, by default into a ring."""
    slots = cache.k.shape[1]
    end = last_real(tags > 0)
    at = jnp.maximum(end, 0)[:, None]
    last_tag = jnp.take_along_axis(tags, at, 1)
    length = jnp.where(end >= 0, jnp.take_along_axis(position, at, 1)[:, 0] + 1, cache.length)
    slot = (place or ring(slots))(position, length[:, None])
    slot = jnp.where((tags > 0) & (tags == last_tag), slot, slots)  # out of range: dropped
    rows = jnp.arange(slot.shape[0])[:, None]

    def put(kept: Array, new: Array) -> Array:
        return kept.at[rows, slot].set(new.astype(kept.dtype), mode="drop")

    more = {} if marks is None else {"marks": put(cache.marks, marks)}
    length = length.astype(cache.length.dtype)
    return cache._replace(k=put(cache.k, k), v=put(cache.v, v), length=length, **more)
