"""Scores by distance, read as scores by key."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.backends import run
from seqzoo.models.ops.layout.derivatives import with_backward


def by_slots(
    x: Float[Array, "*B C R"], count: int, beyond: float = 0, ahead: float = 0
) -> Float[Array, "*B C S"]:
    """y[c, s] = x[c, d] at distance d = c - s + S - C; R <= S = count.

    `ahead` where d is negative, and `beyond` where it is R or more. Row c of x backwards, with
    those around it, is read from its own start. On a CPU that takes half of the time of rows laid
    one slot short of each other, and a scatter of gradients many times as long; chips have no fast
    gather.
    """
    forms = {"rows": _read_rows, "layout": _laid}
    forms = {name: functools.partial(form, count, beyond, ahead) for name, form in forms.items()}
    return run("skew", forms, x[..., ::-1])


class _Read(NamedTuple):
    """What is static of how rows are read."""

    count: int  # S
    distances: int  # R
    beyond: float
    ahead: float


def _read(how: _Read, x: Float[Array, "*B C R"]) -> Float[Array, "*B C S"]:
    size = x.shape[-2]
    rows = _around(x, how.count - how.distances, size, how.beyond, how.ahead)
    return _slices(rows, size - 1 - jnp.arange(size), how.count)


def _read_tangent(how: _Read, kept: tuple, tangents: tuple[Array]) -> Array:
    return _read(how._replace(beyond=0, ahead=0), *tangents)


def _read_backward(how: _Read, kept: tuple, g: Array) -> tuple[Array]:
    size = g.shape[-2]
    starts = how.count - how.distances + 1 + jnp.arange(size)
    return (_slices(_around(g, size, size), starts, how.distances),)


_reading = with_backward(_read, lambda how, x: (_read(how, x), ()), _read_backward, _read_tangent)


def _read_rows(
    count: int, beyond: float, ahead: float, x: Float[Array, "*B C R"]
) -> Float[Array, "*B C S"]:
    return _reading(_Read(count, x.shape[-1], beyond, ahead), x)


def _around(x: Array, before: int, behind: int, first: float = 0, last: float = 0) -> Array:
    """Rows with that many numbers before and behind them."""
    sides = [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, [*sides, (before, 0)], constant_values=first)
    return jnp.pad(x, [*sides, (0, behind)], constant_values=last)


def _slices(x: Array, starts: Int[Array, "C"], width: int) -> Array:
    """Row c from starts[c] on, `width` numbers."""
    rows = x.reshape(-1, *x.shape[-2:])
    read = jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), (width,)))
    return jax.vmap(read, (0, None))(rows, starts).reshape(*x.shape[:-1], width)


def _laid(
    count: int, beyond: float, ahead: float, x: Float[Array, "*B C R"]
) -> Float[Array, "*B C S"]:
    *batch, size, distances = x.shape
    x = _around(x, count - distances, size, beyond, ahead)
    width = count + size - 1
    x = x.reshape(*batch, -1)[..., size - 1 : size - 1 + size * width]
    return x.reshape(*batch, size, width)[..., :count]
