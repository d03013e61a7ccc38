"""Rotary positions (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def rope(
    x: Float[Array, "B L H K"],
    positions: Int[Array, "#B L"] | Int[Array, "L"],
    *,
    base: float = 10000.0,
    interleaved: bool = False,
) -> Float[Array, "B L H K"]:
    """Rotates pair i of the K channels by the angle position · base^(-2i/K).

    Su et al. 2021, RoFormer (arXiv:2104.09864), eq. 15: scores of rotated queries and keys depend
    on the difference of their positions only. Pairs are (i, i + K/2), or (2i, 2i + 1) as in the
    paper when `interleaved`. Angles are at least float32; the result has the dtype of x.

    Raises:
        ValueError: K is odd, or positions do not fit x.
    """
    width = x.shape[-1]
    if width % 2:
        raise ValueError(f"rope rotates pairs of channels, so K must be even; got K={width}")
    if positions.shape[-1:] != x.shape[1:2] or positions.ndim > 2:
        raise ValueError(
            f"rope: positions must be [B, L] or [L] with L={x.shape[1]} of x; got {positions.shape}"
        )
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    angle = angles(positions, width, base, dtype)[..., None, :]  # [#B, L, 1, K/2]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    pairs = x.astype(dtype).reshape(*x.shape[:-1], *((-1, 2) if interleaved else (2, -1)))
    axis = -1 if interleaved else -2
    first, second = jnp.take(pairs, 0, axis), jnp.take(pairs, 1, axis)
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis)
    return turned.reshape(x.shape).astype(x.dtype)


def angles(positions: Array, width: int, base: float, dtype: jnp.dtype) -> Array:
    """positions · base^(-2i/width) for i < width/2, on a new last axis."""
    frequency = base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    return positions[..., None].astype(dtype) * jnp.asarray(frequency, dtype)
