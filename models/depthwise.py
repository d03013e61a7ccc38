"""The short causal convolution that many recurrent mixers begin with, as a part with weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.ops.conv.short import short_conv
from seqzoo.models.ops.layout.segments import Segments


class DepthwiseConv(nnx.Module):
    """One filter of `width` taps per channel, the last on the current token, plus a bias.

    Weights start uniform in +-1/sqrt(width), as in a depthwise torch Conv1d.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        use_bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for a width below 1."""
        if width < 1:
            raise ValueError(f"a short convolution needs a width of at least 1; got {width=}")
        self.channels, self.width, self.dtype = channels, width, dtype
        bound = width**-0.5
        draw = jax.random.uniform(rngs.params(), (width, channels), param_dtype, -bound, bound)
        self.kernel = nnx.Param(draw)
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype)) if use_bias else None

    def initial(self, batch_size: int) -> Float[Array, "B W-1 D"]:
        """The window before the first token: zeros, of at least float32."""
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        return jnp.zeros((batch_size, self.width - 1, self.channels), dtype)

    def state_size(self) -> int:
        """(width - 1) channels."""
        return (self.width - 1) * self.channels

    def __call__(
        self, x: Float[Array, "B L D"], window: Float[Array, "B W-1 D"] | None, segments: Segments
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B W-1 D"]]:
        """The filtered inputs and the window after the last real token."""
        y, window = short_conv(x, self.kernel[...], window, segment_ids=segments)
        if self.bias is not None:
            y = y + self.bias[...].astype(y.dtype)
        return y, window
