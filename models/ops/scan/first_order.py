"""h_t = a_t h_{t-1} + b_t for any product of a_t and h: its two forms and its derivatives.

A loop over time reads and writes each array once; a parallel prefix (Martin and Cundy 2018,
arXiv:1709.04057) has log2(L) passes. `forms.py` says which runs where. Both derivatives are again
such recurrences and need only a and h:

    h'_t = a_t h'_{t-1} + (a'_t h_{t-1} + b'_t)
    λ_t = g_t + a_{t+1}ᵀ λ_{t+1},   ∂b_t = λ_t,   ∂a_t = λ_t h_{t-1}ᵀ,   ∂h_0 = a_1ᵀ λ_1,

the second against time, with g the cotangent of h. They are written as calls of the same function,
so that derivatives of derivatives exist and memory stays linear in L whichever form runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.derivatives import with_backward


class Product(NamedTuple):
    """What a recurrence does with a_t."""

    op: str  # whose form the table names
    moved: Callable[[Array, Array], Array]  # a_t h
    turned: Callable[[Array], Array]  # aᵀ
    outer: Callable[[Array, Array, Array], Array]  # λ and h_{t-1} -> the cotangent of a, like a
    prefix: Callable[[bool, Array, Array], Array]  # reverse, a and b -> all h from zero


Static = tuple[Product, bool]  # and whether time runs backwards


def scan(product: Product, reverse: bool, a: Array, b: Array, h0: Array) -> Array:
    """All h along axis 1 of b, of one dtype with a and h0; a has 1 step or as many as b."""
    return _scan((product, reverse), a, b, h0)


def _either_form(static: Static, a: Array, b: Array, h0: Array) -> Array:
    table = {
        "sequential": functools.partial(_sequential, static),
        "associative": functools.partial(_associative, static),
    }
    return forms.run(static[0].op, table, a, b, h0)


def _forward(static: Static, a: Array, b: Array, h0: Array):
    h = _scan(static, a, b, h0)
    return h, (a, h0, h)


def _backward(static: Static, kept: tuple[Array, Array, Array], g: Array):
    (product, reverse), (a, h0, h) = static, kept
    back = product.turned(a)
    # a_{t+1} at every t; the last is multiplied by nothing.
    after = back if a.shape[1] == 1 else jnp.roll(back, 1 if reverse else -1, axis=1)
    adjoint = _scan((product, not reverse), after, g, jnp.zeros_like(h0))
    a_grad = product.outer(adjoint, _before(h, h0, reverse), a)
    first = -1 if reverse else 0
    return a_grad, adjoint, product.moved(back[:, first], adjoint[:, first])


def _tangent(static: Static, kept: tuple[Array, Array, Array], tangents: tuple) -> Array:
    (product, reverse), (a, h0, h), (da, db, dh0) = static, kept, tangents
    return _scan(static, a, product.moved(da, _before(h, h0, reverse)) + db, dh0)


_scan = with_backward(_either_form, _forward, _backward, _tangent)


def _before(h: Array, h0: Array, reverse: bool) -> Array:
    """h_{t-1} at every t."""
    h0 = h0[:, None]
    return jnp.concatenate([h[:, 1:], h0] if reverse else [h0, h[:, :-1]], axis=1)


def _sequential(static: Static, a: Array, b: Array, h0: Array) -> Array:
    """A loop that replaces the inputs by the states, slice by slice, in place.

    A slice along axis 1 of the arrays as they are costs no transpose, unlike `lax.scan`; unrolling
    makes XLA compute the early steps of a body again for each later one.
    """
    (product, reverse), length = static, b.shape[1]

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h, out = carry
        t = length - 1 - i if reverse else i
        a_t = a[:, 0] if a.shape[1] == 1 else lax.dynamic_index_in_dim(a, t, 1, keepdims=False)
        h = product.moved(a_t, h) + lax.dynamic_index_in_dim(out, t, 1, keepdims=False)
        return h, lax.dynamic_update_index_in_dim(out, h, t, 1)

    return lax.fori_loop(0, length, step, (h0, b))[1]


def _associative(static: Static, a: Array, b: Array, h0: Array) -> Array:
    (product, reverse), first = static, -1 if static[1] else 0
    return product.prefix(reverse, a, b.at[:, first].add(product.moved(a[:, first], h0)))
