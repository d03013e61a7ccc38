"""RWKV's token shift: every projection reads a mixture of the token and the one before it.

x_{t-1} is the real token before in the segment, zeros before the first.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.ops.conv.short import short_conv
from seqzoo.models.ops.layout.segments import Segments


def token_before(
    x: Float[Array, "B L D"], window: Float[Array, "B 1 D"] | None, layout: Segments
) -> tuple[Float[Array, "B L D"], Float[Array, "B 1 D"]]:
    """The token before each, and the last real one for the next call."""
    shift = jnp.zeros((2, x.shape[-1]), x.dtype).at[0].set(1)
    return short_conv(x, shift, window, segment_ids=layout)


def interpolate(x: Array, before: Array, share: Float[Array, "D"], of_now: bool) -> Array:
    """A mixture with a share of the token before, or of the current one."""
    share = share.astype(x.dtype)
    return before + (x - before) * share if of_now else x + (before - x) * share


def place_in_depth(layer: Any) -> tuple[Any, Any]:
    """index / (depth - 1) and 1 - index / depth of layer = (index, depth); the first for None."""
    index, depth = (0, 1) if layer is None else layer
    return index / max(depth - 1, 1), 1 - index / depth


def places(d_model: int, dtype: DTypeLike) -> tuple[Array, Array, Array]:
    """i / D and i / (D - 1) of channel i, and i itself."""
    channel = jnp.arange(d_model, dtype=dtype)
    return channel / d_model, channel / max(d_model - 1, 1), channel
