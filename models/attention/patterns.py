"""Which keys a sparse pattern lets a query see, counted in positions of its segment.

A pattern says it twice: in blocks, for whole rows (`table`, `sees`), and key by key for one query
(`keys`), for streams, which keep a token in the slot that `place` names.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockPattern:
    """A query's block, blocks beside it, perhaps the first block and some at random.

    Block b sees b - back .. b (both ways: .. b + back). Random blocks are drawn, one by one and
    alike in all heads, from those that it does not see anyway (causal: from those before), by a
    hash of `seed` and b. `pinned`: positions that a stream always keeps and shows.
    """

    size: int
    back: int
    causal: bool = True
    reach: int | None = None  # distance from which on keys of those blocks are not seen
    first: bool = False
    num_random: int = 0
    seed: int = 0
    pinned: tuple[int, ...] = ()
    max_length: int | None = None  # where every token must be kept

    def table(self, number: Int[Array, "*B"], count: Int[Array, "*B"]) -> Int[Array, "*B n"]:
        """Numbers of the key blocks of block `number` of a segment of `count` blocks."""
        beside = jnp.arange(-self.back, 1 if self.causal else self.back + 1)
        columns = [number[..., None] + beside]
        if self.first:
            columns.append(jnp.zeros_like(number)[..., None])
        if self.num_random:
            columns.append(self._random(number, count))
        return jnp.concatenate(columns, axis=-1)

    @property
    def near(self) -> tuple[int, int] | None:
        """How many blocks before and behind its own a block sees at most; None for any."""
        anywhere = self.first or self.num_random
        return None if anywhere else (self.back, 0 if self.causal else self.back)

    def _random(self, number: Int[Array, "*B"], count: Int[Array, "*B"]) -> Int[Array, "*B n"]:
        low = jnp.maximum(number - self.back, 1)  # blocks from here on are seen anyway
        high = number if self.causal else jnp.minimum(number + self.back, count - 1)
        seen = jnp.maximum(high - low + 1, 0)
        free = (number if self.causal else count - 1) - seen
        drawn = hashed(number[..., None], jnp.arange(self.num_random), self.seed)
        drawn = 1 + (drawn % jnp.maximum(free, 1)[..., None].astype(jnp.uint32)).astype(jnp.int32)
        drawn = jnp.where(drawn >= low[..., None], drawn + seen[..., None], drawn)
        return jnp.where(free[..., None] > 0, drawn, -1)

    def sees(self, query: Int[Array, "..."], key: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Whether the query at one position sees the key at another, if its block is named."""
        far = query - key
        seen = jnp.ones(far.shape, bool)
        if self.causal:
            seen = far >= 0
        if self.reach is not None:
            seen = seen & (jnp.abs(far) < self.reach)
        return seen

    def keys(self, position: Int[Array, "*B"]) -> tuple[Int[Array, "*B n"], Bool[Array, "*B n"]]:
        """Positions of the keys that a query sees (causal), and which of them count."""
        if self.reach is None:
            number = position // self.size
            blocks = self.table(number, number + 1)
            same = blocks[..., :, None] == blocks[..., None, :]
            fine = (blocks >= 0) & ~jnp.tril(same, -1).any(-1)
            key = blocks[..., None] * self.size + jnp.arange(self.size)
            fine = fine[..., None] & (key <= position[..., None, None])
            return _flat(key), _flat(fine)
        near = position[..., None] - jnp.arange(self.reach)
        pinned = jnp.broadcast_to(jnp.array(self.pinned, jnp.int32), (*position.shape, self.kept))
        beyond = position[..., None] - pinned >= self.reach
        return jnp.concatenate([near, pinned], -1), jnp.concatenate([near >= 0, beyond], -1)

    @property
    def kept(self) -> int:
        """Slots of a stream that stay."""
        return self.size if self.first else len(self.pinned)

    @property
    def slots(self) -> int:
        """How many tokens a stream keeps."""
        if self.max_length is not None:
            return self.max_length
        return self.kept + self._ring

    @property
    def _ring(self) -> int:
        return (self.back + 1) * self.size if self.reach is None else self.reach

    def place(self, position: Int[Array, "..."], length: Int[Array, "..."]) -> Int[Array, "..."]:
        """The slot of a token in a segment of `length`, `slots` if it is not kept."""
        if self.max_length is not None:
            return jnp.minimum(position, self.slots)
        recent = self.kept + position % self._ring
        slot = jnp.where(position >= length - self._ring, recent, self.slots)
        if self.first:
            return jnp.where(position < self.size, position, slot)
        for i, pinned in enumerate(self.pinned):
            slot = jnp.where(position == pinned, i, slot)
        return slot


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-2], -1)


def hashed(a: Int[Array, "..."], b: Int[Array, "..."], seed: int) -> Int[Array, "..."]:
    """32 well-mixed bits of two numbers and a seed (the finaliser of MurmurHash3)."""
    mixed = a.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + b.astype(jnp.uint32)
    mixed = mixed + jnp.uint32(seed % 2**32) * jnp.uint32(0x85EBCA77)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return mixed ^ (mixed >> 16)
