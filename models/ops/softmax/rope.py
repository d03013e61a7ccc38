"""Rotations and waves of positions: RoPE (Su et al. 2021, arXiv:2104.09864), xPos, sinusoids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.backends import run
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.cpu import cos_sin_apart


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
    paper when `interleaved`. Angles are at least float32, and as exact at position 10^7 as at 10
    (`phases`); the result has the dtype of x. `frequencies` [K/2], angles a position, take the
    place of those of `base`, and the result is multiplied by `magnitude`
    (models/ops/softmax/rope_scaling.py makes both).

    Raises:
        ValueError: K is odd, or positions or frequencies do not fit x.
    """
    if isinstance(frequencies, np.ndarray):  # constants, whose last bits count at late positions
        frequencies = tuple(frequencies.tolist())
    return _turned(x, positions, base, interleaved, frequencies, magnitude)


@op(rows="x")
def _turned(x, positions, base, interleaved, frequencies, magnitude) -> Float[Array, "B L H K"]:
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
    angle = phases(positions, frequencies, dtype)
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


def phases(
    positions: Int[Array, "*B"], frequencies: Sequence[float] | Array, dtype: jnp.dtype
) -> Float[Array, "*B half"]:
    """positions · frequencies on a new last axis, in float32 less whole turns.

    A float32 product is wrong by 0.03 at position 10^6. Here whole 2^-32 parts of a turn are
    multiplied as integers, which drop whole turns without rounding, and only the rest as floats.
    Positions or frequencies that are no such constants take the plain product.
    """
    constant = not isinstance(frequencies, jax.Array)
    if dtype != jnp.float32 or not constant or not jnp.issubdtype(positions.dtype, jnp.integer):
        return positions[..., None].astype(dtype) * jnp.asarray(frequencies, dtype)
    unit = 2 * np.pi / 2**32
    rest, whole = np.modf(np.asarray(frequencies, np.float64) / unit)
    turned = positions[..., None].astype(jnp.uint32) * (whole % 2**32).astype(np.uint32)
    turned = jax.lax.bitcast_convert_type(turned, jnp.int32).astype(dtype)
    more = positions[..., None].astype(dtype) * rest.astype(np.float32)
    return (turned + more) * np.float32(unit)


def angles(positions: Array, width: int, base: float, dtype: jnp.dtype) -> Array:
    """`phases` of base^(-2i/width) for i < width/2."""
    return phases(positions, plain_frequencies(width, base), dtype)


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
