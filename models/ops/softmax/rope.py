"""Rotary positions (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.backends import run
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.cpu import cos_sin_apart


@op(rows="x")
def rope(
    x: Float[Array, "B L H K"],
    positions: Int[Array, "#B L"] | Int[Array, "L"],
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    frequencies: Sequence[float] | np.ndarray | None = None,
    magnitude: float = 1.0,
) -> Float[Array, "B L H K"]:
    """Rotates pair i of the K channels by the angle position · base^(-2i/K).

    Su et al. 2021, RoFormer (arXiv:2104.09864), eq. 15: scores of rotated queries and keys depend
    on the difference of their positions only. Pairs are (i, i + K/2), or (2i, 2i + 1) as in the
    paper when `interleaved`. Angles are at least float32; the result has the dtype of x.
    `frequencies` [K/2], angles a position, take the place of those of `base`, and the result is
    multiplied by `magnitude` (models/ops/softmax/rope_scaling.py makes both).

    Raises:
        ValueError: K is odd, or positions or frequencies do not fit x.
    """
    width = x.shape[-1]
    if width % 2:
        raise ValueError(f"rope rotates pairs of channels, so K must be even; got K={width}")
    if positions.shape[-1:] != x.shape[1:2] or positions.ndim > 2:
        raise ValueError(
            f"rope: positions must be [B, L] or [L] with L={x.shape[1]} of x; got {positions.shape}"
        )
    if frequencies is None:
        frequencies = plain_frequencies(width, base)
    elif len(frequencies) != width // 2:
        raise ValueError(
            f"rope: K={width} channels turn by {width // 2} frequencies; got {len(frequencies)}"
        )
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    angle = positions[..., None].astype(dtype) * jnp.asarray(frequencies, dtype)
    cos, sin = _cos_sin(angle[..., None, :]) * jnp.asarray(magnitude, dtype)  # [#B, L, 1, K/2]
    pairs = x.astype(dtype).reshape(*x.shape[:-1], *((-1, 2) if interleaved else (2, -1)))
    axis = -1 if interleaved else -2
    first, second = jnp.take(pairs, 0, axis), jnp.take(pairs, 1, axis)
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis)
    return turned.reshape(x.shape).astype(x.dtype)


def _cos_sin(angle: Float[Array, "..."]) -> Float[Array, "2 ..."]:
    def fused(angle: Array) -> Array:
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    return run("rotations", {"fused": fused, "apart": cos_sin_apart}, angle)


def angles(positions: Array, width: int, base: float, dtype: jnp.dtype) -> Array:
    """positions · base^(-2i/width) for i < width/2, on a new last axis."""
    return positions[..., None].astype(dtype) * jnp.asarray(plain_frequencies(width, base), dtype)


def plain_frequencies(width: int, base: float) -> Float[np.ndarray, "half"]:
    """base^(-2i/width) for i < width/2."""
    return base ** (-np.arange(0, width, 2, dtype=np.float64) / width)


@op(rows="x")
def xpos(
    x: Float[Array, "B L H K"],
    positions: Int[Array, "#B L"] | Int[Array, "L"],
    *,
    keys: bool = False,
    base: float = 10000.0,
    scale_base: float = 512.0,
    interleaved: bool = False,
) -> Float[Array, "B L H K"]:
    """Rotary positions whose scores decay with distance (Sun et al. 2022, arXiv:2212.10554).

    Pair i of rotated queries is multiplied by ζ_i^(position / scale_base), that of keys divided by
    it (`keys`), so that their product holds ζ_i^(distance / scale_base). The factor of keys passes
    the range of float32 after 36,000 positions at scale_base = 512; a recurrence has that decay in
    its state instead (see `xpos_log_decay`).

    Raises:
        ValueError: as `rope`.
    """
    turned = rope(x, positions, base=base, interleaved=interleaved)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rate = jnp.asarray(xpos_log_decay(x.shape[-1], scale_base, interleaved=interleaved), dtype)
    exponent = positions[..., None, None].astype(dtype) * rate
    return (turned.astype(dtype) * jnp.exp(-exponent if keys else exponent)).astype(x.dtype)


def xpos_log_decay(
    width: int, scale_base: float = 512.0, *, interleaved: bool = False
) -> Float[np.ndarray, "K"]:
    """log ζ_i / scale_base of every channel, ζ_i = (2i/K + 0.4) / 1.4 for pair i."""
    rate = np.log((np.arange(0, width, 2) / width + 0.4) / 1.4) / scale_base
    return np.repeat(rate, 2) if interleaved else np.tile(rate, 2)
