"""What blocks are made of besides the mixer: norms, dropout, feed-forwards, the short convolution.

Feed-forwards and the short convolution keep the contract of `mixer.py` too, since some have state.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.short_conv import short_conv

NormKind = Literal["rms", "layer", "batch"]
FeedForwardKind = Literal["mlp", "glu", "swiglu", "geglu", "rwkv", "rwkv7", "none"]
GATES = {"glu": jax.nn.sigmoid, "swiglu": jax.nn.silu, "geglu": jax.nn.gelu}


def dropout(x: Float[Array, "B L D"], rate: float, ctx: Context) -> Float[Array, "B L D"]:
    """Inverted dropout in training mode, the identity otherwise."""
    if rate == 0.0 or not ctx.training:
        return x
    keep = jax.random.bernoulli(ctx.rngs.dropout(), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class Norm(nnx.Module):
    """RMSNorm, LayerNorm or BatchNorm; the last over real tokens of the whole (global) batch."""

    def __init__(
        self,
        kind: NormKind,
        d_model: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.kind = kind
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        if kind == "batch":
            self.norm = nnx.BatchNorm(d_model, momentum=0.95, **options)
        elif kind == "layer":
            self.norm = nnx.LayerNorm(d_model, **options)
        elif kind == "rms":
            self.norm = nnx.RMSNorm(d_model, **options)
        else:
            raise ValueError(f"unknown norm {kind!r}; known: rms, layer, batch")

    def __call__(self, x: Float[Array, "B L D"], ctx: Context) -> Float[Array, "B L D"]:
        """Normalises each token, or each channel over the batch in training mode."""
        if self.kind != "batch":
            return self.norm(x)
        layout = ctx.segments
        mask = layout.valid[..., None] if ctx.training and layout.masked else None
        return self.norm(x, use_running_average=not ctx.training, mask=mask)


class FeedForward(Mixer):
    """Position-wise network: GELU MLP, or GLU with a sigmoid, SiLU or GELU gate. No state.

    `expansion` gives the hidden width in units of `d_model`; the gated forms have a third matrix of
    that width, so that equal parameters ask for 2/3 of the expansion (Shazeer 2020).
    """

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        *,
        kind: FeedForwardKind = "mlp",
        expansion: float = 2.0,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        hidden = max(1, round(expansion * d_model))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.kind = kind
        if kind in GATES:
            self.gate_proj = nnx.Linear(d_model, hidden, **options)
        self.up_proj = nnx.Linear(d_model, hidden, **options)
        self.down_proj = nnx.Linear(hidden, d_model, **options)

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """No state: 0."""
        return 0

    def _mix(self, x, inner, ctx):
        h = self.up_proj(x)
        if self.kind == "mlp":
            h = jax.nn.gelu(h)
        else:
            h = h * GATES[self.kind](self.gate_proj(x))
        return self.down_proj(h), ()


class ShortConv(Mixer):
    """Depthwise causal convolution over a segment's last `width` real tokens, near the identity.

    State: the last width - 1 inputs, (width - 1) d_model elements.
    """

    state_growth = "window"

    def __init__(
        self,
        d_model: int,
        *,
        width: int = 4,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if width < 1:
            raise ValueError(f"a short convolution needs a width of at least 1; got {width=}")
        self.d_model, self.width, self.dtype = d_model, width, dtype
        noise = jax.random.normal(rngs.params(), (width, d_model), param_dtype)
        self.conv = nnx.Param(noise / (2 * width**0.5) + jnp.eye(width, dtype=param_dtype)[:, -1:])

    def _initial(self, batch_size: int) -> Float[Array, "B W D"]:
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        return jnp.zeros((batch_size, self.width - 1, self.d_model), dtype)

    def state_size(self) -> int:
        """(width - 1) d_model."""
        return (self.width - 1) * self.d_model

    def _mix(self, x, inner, ctx):
        y, window = short_conv(x, self.conv[...], inner, segment_ids=ctx.segments)
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        return y.astype(x.dtype), window.astype(dtype)
