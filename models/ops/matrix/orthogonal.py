"""Random orthogonal matrices, one decomposition at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key


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


def one_by_one(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Under `vmap` (over seeds, say) a loop over its calls.

    jaxlib's LAPACK calls give the matrices of a batch to XLA's threads and wait for them, on such a
    thread: as many batches at once as there are threads wait for ever. Seen on 2 cores, where two
    of an LSTM's gates met; a batch of one matrix is worked on at once.
    """
    return jax.custom_batching.sequential_vmap(f)
