"""Rows without padding: the real tokens of a batch moved into fewer rows, and back.

A batch of N rows [N, L] of one segment each becomes R rows [R, M] of several. Where its tokens
stand is decided on the host; what is here only moves numbers, so that whatever reads rows (pooling,
heads, losses) never knows. On a mesh each device of the batch axes packs the rows that it holds:
rows are numbered within such a group, and nothing is sent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.layout.sharding import BATCH_AXES, axis_size, by_rows


class Packed(NamedTuple):
    """Two inverse tables; tokens of a group are numbered through its rows, -1 stands for none."""

    tokens: Int[Array, "R M"]  # which token of the rows stands at a place of the packed rows
    places: Int[Array, "N L"]  # where a token of the rows stands in the packed rows

    def pack(self, x: Shaped[Array, "N L ..."]) -> Shaped[Array, "R M ..."]:
        """The real tokens of x in packed rows, 0 at padding."""
        return by_rows(_moved(x, self.tokens, self.places))

    def unpack(self, h: Shaped[Array, "R M ..."]) -> Shaped[Array, "N L ..."]:
        """Packed rows in rows as they were, 0 at padding."""
        return by_rows(_moved(h, self.places, self.tokens))

    def segment_ids(self) -> Int[Array, "R M"]:
        """Those of the packed rows: the number of the row in its group, from 1."""
        row = self.tokens // self.places.shape[1] + 1
        return jnp.where(self.tokens >= 0, row, 0)


def _moved(x: Array, to: Array, back: Array) -> Array:
    groups = math.prod(map(axis_size, BATCH_AXES))
    if any(n % groups for n in (x.shape[0], to.shape[0])):
        groups = 1
    flat = x.reshape(groups, -1, *x.shape[2:])
    made = _take(None, flat, to.reshape(groups, -1), back.reshape(groups, -1))
    return made.reshape(*to.shape, *x.shape[2:])


def _taken(_: None, x: Array, to: Array, back: Array) -> Array:
    index = to.reshape(*to.shape, *(1,) * (x.ndim - 2))
    made = jnp.take_along_axis(x, jnp.maximum(index, 0), axis=1)
    return jnp.where(index >= 0, made, 0)


# The transpose of a move is the move back, which reads where a scatter would add up.
_take = with_backward(
    _taken,
    lambda _, x, to, back: (_taken(_, x, to, back), (to, back)),
    lambda _, kept, g: (_taken(_, g, *kept[::-1]), None, None),
    lambda _, kept, moved: _taken(_, moved[0], *kept),
)
