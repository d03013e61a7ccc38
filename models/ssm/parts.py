"""What the convolutional state-space layers share: step sizes and the gate behind the system."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear


def check_steps(dt_min: float, dt_max: float, step_rescale: float) -> None:
    """Raises ValueError for step sizes that cannot be."""
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"steps must keep 0 < dt_min <= dt_max; got {dt_min=}, {dt_max=}")
    if step_rescale <= 0:
        raise ValueError(
            f"step_rescale must be positive, 0.5 for inputs at twice the rate; got {step_rescale=}"
        )


def check_chunk(chunk_size: int) -> None:
    """Raises ValueError for a chunk size that is no power of two."""
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"chunk_size must be a power of two; got {chunk_size=}")


def log_steps(
    rngs: nnx.Rngs, count: int, dt_min: float, dt_max: float, dtype: DTypeLike
) -> Float[Array, "D"]:
    """Logarithms of step sizes, uniform between those of the bounds."""
    return jax.random.uniform(rngs.params(), (count,), dtype, np.log(dt_min), np.log(dt_max))


def gelu_glu(y: Float[Array, "B L D"], out_proj: Linear | None) -> Float[Array, "B L D"]:
    """S4's way out: exact GELU, then a linear GLU across channels (or y itself, without one)."""
    if out_proj is None:
        return y
    value, gate = jnp.split(out_proj(jax.nn.gelu(y, approximate=False)), 2, axis=-1)
    return value * jax.nn.sigmoid(gate)


def wide_complex(re: nnx.Param, im: nnx.Param, dtype: DTypeLike) -> Array:
    """A complex parameter from its planes, of at least complex64."""
    wide = jnp.promote_types(dtype, jnp.float32)
    return jax.lax.complex(re[...].astype(wide), im[...].astype(wide))
