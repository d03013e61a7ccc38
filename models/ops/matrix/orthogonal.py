"""Random orthogonal matrices, one decomposition at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from seqzoo.models.ops.layout.cpu import one_by_one


def orthogonal(
    key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike = jnp.float32, scale: float = 1.0
) -> Float[Array, "M N"]:
    """`scale` times orthonormal rows or columns (Saxe et al. 2014, arXiv:1312.6120)."""
    draw, wide = jax.nn.initializers.orthogonal(scale), jnp.promote_types(dtype, jnp.float32)
    return one_by_one(lambda key: draw(key, shape, wide).astype(dtype))(key)


def haar(key: Key[Array, ""], width: int, dtype: DTypeLike) -> Float[Array, "K K"]:
    """The transposed Q of a Gaussian matrix."""

    wide = jnp.promote_types(dtype, jnp.float32)  # there is no decomposition in less

    def draw(key: Array) -> Array:
        return jnp.linalg.qr(jax.random.normal(key, (width, width), wide))[0].T.astype(dtype)

    return one_by_one(draw)(key)
