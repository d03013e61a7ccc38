"""What the recurrent networks share: initial matrices, widths, the way out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.ops.matrix.orthogonal import orthogonal


def orthogonal_gates(
    key: Array, rows: int, columns: int, gates: int, dtype: DTypeLike
) -> Float[Array, "rows gates*columns"]:
    """A recurrent kernel whose block for each gate is orthogonal (Saxe et al. 2014)."""
    blocks = [orthogonal(k, (rows, columns), dtype) for k in jax.random.split(key, gates)]
    return jnp.concatenate(blocks, axis=1)


def hidden_width(d_hidden: int | None, d_model: int) -> int:
    """`d_hidden`, by default d_model. Raises ValueError below 1."""
    width = d_model if d_hidden is None else d_hidden
    if width < 1:
        raise ValueError(f"d_hidden must be at least 1; got {d_hidden=}")
    return width


def way_out(
    width: int, d_model: int, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs
) -> Linear | None:
    """A projection from `width` to `d_model` where they differ, else None: states are outputs."""
    if width == d_model:
        return None
    return Linear(width, d_model, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def wide(x: Array) -> Array:
    """x in at least float32, in which recurrences run."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def lower_bound_of(lower_bound: float | None, layer: Any, dtype: DTypeLike) -> Float[Array, ""]:
    """A layer's least decay: `lower_bound`, else l / N for layer (l, N), else 0.

    l / N is where the published bounds start, sums of the softmax of equal weights. Raises
    ValueError outside [0, 1).
    """
    if lower_bound is None:
        index, depth = (0, 1) if layer is None else layer
        return jnp.asarray(index / depth, dtype)
    if not 0 <= lower_bound < 1:
        raise ValueError(f"lower_bound is a decay in [0, 1); got {lower_bound=}")
    return jnp.asarray(lower_bound, dtype)
