"""Terms of attention's scores that depend on the distance of query and key.

A bias of [B, H, L, S] would take quadratic memory. Instead attention calls a `Relative` with one
block of queries and keys at a time, forward and backward, and it makes the term of that block from
what is linear in the length: a table, and one row of numbers for every query or key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

# (shared, by_query [B, H, b, M], by_key [B, H, c, M], query minus key position [#B, b, c])
# -> what is added to the scaled scores [#B, #H, b, c]. Hashable: it is a static argument.
Term = Callable[[PyTree, Any, Any, Array], Array]


class Terms(NamedTuple):
    """What a `Term` is made of, differentiable; each may be None."""

    shared: PyTree = None
    by_query: Float[Array, "B L H M"] | None = None
    by_key: Float[Array, "B S H M"] | None = None


class Relative(NamedTuple):
    """A term of the scores and what it is made of."""

    term: Term
    terms: Terms = Terms()


@dataclasses.dataclass(frozen=True)
class Slopes:
    """-slope_h · |distance| (ALiBi; Press et al. 2021, arXiv:2108.12409). Takes no arrays."""

    slopes: tuple[float, ...]  # [H]

    def __call__(self, shared: None, by_query: None, by_key: None, ahead: Int[Array, "B b c"]):
        """The term of one block."""
        dtype = jnp.result_type(float)
        return -jnp.asarray(self.slopes, dtype)[:, None, None] * jnp.abs(ahead)[:, None]


@dataclasses.dataclass(frozen=True)
class Lookup:
    """table[h, r] + by_query[t, h, r] + by_key[s, h, r], r the row of the distance t - s.

    The shared array is `table` [H, M] or None. Distances below `first` have the row of `first`,
    those past the end that of the last.
    """

    first: int  # distance, query minus key, of rows[0]
    rows: tuple[int, ...]  # in 0 .. M - 1

    @classmethod
    def of(cls, first: int, rows: np.ndarray) -> Lookup:
        """From an array of rows."""
        return cls(first, tuple(int(row) for row in rows))

    def row(self, ahead: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        """The row of each distance."""
        rows = jnp.asarray(self.rows, jnp.int32)
        return rows[jnp.clip(ahead - self.first, 0, len(self.rows) - 1)]

    def __call__(
        self,
        table: Float[Array, "H M"] | None,
        by_query: Float[Array, "B H b M"] | None,
        by_key: Float[Array, "B H c M"] | None,
        ahead: Int[Array, "#B b c"],
    ) -> Float[Array, "#B H b c"]:
        """The term of one block."""
        row = self.row(ahead)
        added = []
        if table is not None:
            added.append(jnp.moveaxis(table[:, row], 0, 1))
        if by_query is not None:
            added.append(jnp.take_along_axis(by_query, row[:, None], axis=-1))
        if by_key is not None:
            turned = jnp.take_along_axis(by_key, row.swapaxes(-1, -2)[:, None], axis=-1)
            added.append(turned.swapaxes(-1, -2))
        return sum(added[1:], start=added[0])


def pull_back(term: Term, terms: tuple, ahead: Array, cotangent: Float[Array, "B H b c"]) -> tuple:
    """The gradients of one block's `terms` from that of its scores."""
    value, pull = jax.vjp(lambda *t: term(*t, ahead), *terms)
    axes = tuple(a for a in range(4) if value.shape[a] == 1 and cotangent.shape[a] > 1)
    return pull(cotangent.sum(axes, keepdims=True).astype(value.dtype))
