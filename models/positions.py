"""Encodings of position: rotary (on queries and keys) and sinusoidal (added to the input)."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Float, Int

from seqzoo.models.ops.rope import angles, rope

__all__ = ["rope", "sinusoidal"]


def sinusoidal(
    positions: Int[Array, "*shape"],
    d_model: int,
    *,
    base: float = 10000.0,
    layout: Literal["interleaved", "halves"] = "interleaved",
    dtype: jnp.dtype = jnp.float32,
) -> Float[Array, "*shape d_model"]:
    """Sines and cosines of position · base^(-2i/d_model), i < d_model/2.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5: sines on even, cosines on odd channels;
    `layout="halves"` puts all sines before all cosines, the order of tensor2tensor.

    Raises:
        ValueError: d_model is odd, or the layout is unknown.
    """
    if d_model % 2:
        raise ValueError(
            f"sinusoidal pairs sines with cosines: d_model must be even, got {d_model}"
        )
    if layout not in ("interleaved", "halves"):
        raise ValueError(f"sinusoidal: layout must be 'interleaved' or 'halves'; got {layout!r}")
    angle = angles(positions, d_model, base, jnp.promote_types(dtype, jnp.float32))
    both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1 if layout == "interleaved" else -2)
    return both.reshape(*angle.shape[:-1], d_model).astype(dtype)
