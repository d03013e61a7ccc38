"""A ring of the keys and values of a row's segment, for attention that streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
    cache: KVCache,
    k: Float[Array, "B C H K"],
    v: Float[Array, "B C H V"],
    position: Int[Array, "B C"],
    tags: Int[Array, "B C"],
    place: Place | None = None,
) -> KVCache:
    """Puts the tokens of each row's last segment where `place` says, by default into a ring."""
    slots = cache.k.shape[1]
    end = last_real(tags > 0)
    at = jnp.maximum(end, 0)[:, None]
    last_tag = jnp.take_along_axis(tags, at, 1)
    length = jnp.where(end >= 0, jnp.take_along_axis(position, at, 1)[:, 0] + 1, cache.length)
    slot = (place or ring(slots))(position, length[:, None])
    slot = jnp.where((tags > 0) & (tags == last_tag), slot, slots)  # out of range: dropped
    rows = jnp.arange(slot.shape[0])[:, None]
    return KVCache(
        cache.k.at[rows, slot].set(k.astype(cache.k.dtype), mode="drop"),
        cache.v.at[rows, slot].set(v.astype(cache.v.dtype), mode="drop"),
        length.astype(cache.length.dtype),
    )
