"""Inverses of unit lower triangular matrices by blocks."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from seqzoo.models.ops.matrix.on_chip import SUBLANES

BLOCK = 16  # side of the blocks inverted with masks instead of slices; the tile of matrix units

Inverse = Callable[[Float[Array, "... C C"]], Float[Array, "... C C"]]


def _with_derivative(f: Inverse) -> Inverse:
    inverse_of = jax.custom_jvp(f)

    @inverse_of.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        inverse = inverse_of(*primals)
        return inverse, _matmul(_matmul(inverse, tangents[0]), inverse)

    return inverse_of


@_with_derivative
def unit_inverse(p: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
    """(I - p)^-1 for strictly lower triangular p; fastest for C a power of two.

    Neighbouring diagonal blocks, already inverted, are joined by
    [[A, 0], [-P, B]]^-1 = [[A^-1, 0], [B^-1 P A^-1, B^-1]], which is forward substitution by blocks
    and, unlike the product of (I + p^(2^i)), forms no power of p that could outgrow the result.
    """
    side = p.shape[-1]
    if side <= BLOCK or side % 2:
        return _unit_inverse_block(p)
    half = side // 2
    diagonal = jnp.stack([p[..., :half, :half], p[..., half:, half:]], axis=-3)
    inverse = unit_inverse(diagonal)
    first, second = inverse[..., 0, :, :], inverse[..., 1, :, :]
    corner = _matmul(_matmul(second, p[..., half:, :half]), first)
    top = jnp.concatenate([first, jnp.zeros_like(corner)], -1)
    return jnp.concatenate([top, jnp.concatenate([corner, second], -1)], -2)


@_with_derivative
def inverse_on_chip(p: Float[Array, "C C"]) -> Float[Array, "C C"]:
    """The same of one matrix, C a power of two, in a kernel for TPUs.

    Blocks are inverted row after row by vector units: for a v5e half the bundles of products, which
    take six passes of matrix units to round nothing to bfloat16.
    """
    size = len(p)
    if size <= BLOCK:
        return _by_rows(p)
    half = size // 2
    first, second = inverse_on_chip(p[:half, :half]), inverse_on_chip(p[half:, half:])
    corner = _matmul(_matmul(second, p[half:, :half]), first)
    top = jnp.concatenate([first, jnp.zeros_like(corner)], 1)
    return jnp.concatenate([top, jnp.concatenate([corner, second], 1)])


def _by_rows(p: Float[Array, "C C"]) -> Float[Array, "C C"]:
    """By forward substitution; rows that are done are put aside, a vector's at a time."""
    row, column = (lax.broadcasted_iota(jnp.int32, p.shape, axis) for axis in (0, 1))
    rest, done = (row == column).astype(p.dtype), []
    for j in range(len(p) - 1):
        if j and j % SUBLANES == 0:
            done.append(rest[:SUBLANES])
            rest, p = rest[SUBLANES:], p[SUBLANES:]
        own = j % SUBLANES
        rest = rest + p[:, j : j + 1] * rest[own : own + 1]
    return jnp.concatenate([*done, rest])


def _unit_inverse_block(p: Array) -> Array:
    side = p.shape[-1]
    inverse = jnp.broadcast_to(jnp.eye(side, dtype=p.dtype), p.shape)
    width = 1
    while width < side:
        corners = jnp.where(_corners(side, width), p, 0)
        if width > 1:
            corners = _matmul(_matmul(inverse, corners), inverse)
        inverse = inverse + corners
        width *= 2
    return inverse


def _corners(side: int, width: int) -> np.ndarray:
    """Where the lower left blocks of that width stand in the diagonal blocks twice as wide."""
    row, column = np.indices((side, side)) // width
    return (row % 2 == 1) & (column == row - 1)


def _matmul(a: Array, b: Array) -> Array:
    # Rounding to bfloat16, the default of matrix units, would be amplified by substitution.
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
