"""Encodings of position as pure functions: rotary, sinusoidal, and rows of relative tables.

Softmax attention takes them as plug-ins (models/attention/positions.py), a whole model may add one
to its embedding (models/heads.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.softmax.rope import angles, rope, xpos

__all__ = [
    "alibi_slopes",
    "check_positions",
    "deberta_rows",
    "rope",
    "sinusoidal",
    "t5_buckets",
    "xpos",
]

AT_EMBEDDING = ("sinusoidal", "learned", "conv")
IN_SCORES = ("xpos", "alibi", "t5", "shaw", "transformer_xl", "deberta")


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


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """2^(-8h/H) for heads h = 1 .. H where H is a power of two (Press et al. 2021).

    arXiv:2108.12409, section 3. For another H, as published: those of the next lower power of two,
    then every other one of twice that power.
    """
    lower = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * h / lower) for h in range(1, lower + 1)]
    between = [2 ** (-4 * h / lower) for h in range(1, 2 * lower + 1, 2)]
    return tuple(slopes + between[: num_heads - lower])


def t5_buckets(
    ahead: Int[np.ndarray, "*shape"], *, num_buckets: int, max_distance: int, causal: bool
) -> Int[np.ndarray, "*shape"]:
    """The bucket of each distance, query minus key (Raffel et al. 2020, arXiv:1910.10683, 2.1).

    Half of the buckets are distances of their own, the others grow with the logarithm up to
    `max_distance`. Both ways, keys ahead of the query have the upper half of the buckets.
    """
    ahead = np.asarray(ahead)
    offset = 0
    if not causal:
        num_buckets //= 2
        offset = np.where(ahead < 0, num_buckets, 0)
        ahead = np.abs(ahead)
    ahead = np.maximum(ahead, 0)
    exact = num_buckets // 2
    # In float32, as published: a border of two buckets is where its logarithm falls.
    ratio = np.log(np.maximum(ahead, 1).astype(np.float32) / exact)
    grown = ratio / np.float32(math.log(max_distance / exact)) * (num_buckets - exact)
    far = np.minimum(exact + np.trunc(grown).astype(int), num_buckets - 1)
    return offset + np.where(ahead < exact, ahead, far)


def deberta_rows(
    ahead: Int[np.ndarray, "*shape"], *, span: int, max_distance: int
) -> Int[np.ndarray, "*shape"]:
    """The row, of 2 span, of each distance, query minus key (He et al. 2020, arXiv:2006.03654).

    Distance 0 has row `span`. Where max_distance > span, distances above span/2 grow with the
    logarithm (DeBERTa v2 and v3); else they are clipped (their eq. 3).
    """
    ahead = np.asarray(ahead)
    if max_distance > span:
        middle = span // 2
        size = np.maximum(np.abs(ahead), middle)
        grown = np.log(size / middle) / math.log((max_distance - 1) / middle) * (middle - 1)
        far = (np.ceil(grown) + middle).astype(int) * np.sign(ahead)
        ahead = np.where(np.abs(ahead) <= middle, ahead, far)
    return np.clip(ahead + span, 0, 2 * span - 1)


def check_positions(mixer: str, positions: str, known: Sequence[str]) -> None:
    """Raises ValueError for an encoding that `mixer` cannot have, with the reason."""
    if positions in known:
        return
    have = f"; {mixer} knows: {', '.join(known)}"
    if positions in AT_EMBEDDING:
        raise ValueError(
            f"positions={positions!r} is added to the embedding, for all layers: set the "
            f"backbone's positions={positions!r} and the mixer's positions='none'{have}"
        )
    if positions in IN_SCORES:
        raise ValueError(
            f"positions={positions!r} changes the score of every pair of tokens before a softmax, "
            f"and this mixer never makes those scores{have}"
        )
    raise ValueError(f"unknown positions={positions!r}{have}")
