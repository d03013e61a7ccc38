"""What blocks are made of besides the mixer: norms, dropout, feed-forwards, the short convolution.

Feed-forwards and the short convolution keep the contract of `mixer.py` too, since some have state.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.conv.short import short_conv

NormKind = Literal["rms", "centered_rms", "layer", "batch", "none"]
FeedForwardKind = Literal[
    "mlp",
    "gelu",
    "relu",
    "relu2",
    "glu",
    "swiglu",
    "geglu",
    "rwkv",
    "rwkv4",
    "rwkv7",
    "moe",
    "none",
]
GATES = {"glu": jax.nn.sigmoid, "swiglu": jax.nn.silu, "geglu": jax.nn.gelu}
ACTIVATIONS = {
    "mlp": jax.nn.gelu,  # by tanh
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021, arXiv:2109.08668
}


def dropout(x: Float[Array, "B L D"], rate: float, ctx: Context) -> Float[Array, "B L D"]:
    """Inverted dropout in training mode, the identity otherwise."""
    if rate == 0.0 or not ctx.training:
        return x
    keep = jax.random.bernoulli(ctx.key(), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class CenteredRMSNorm(nnx.Module):
    """RMS norm whose scale is kept less 1, so that weight decay draws it to 1 (Gemma)."""

    def __init__(
        self,
        width: int,
        *,
        epsilon: float = 1e-6,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.epsilon, self.dtype = epsilon, dtype
        self.scale = nnx.Param(jnp.zeros(width, param_dtype))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """x / rms(x) (1 + scale), computed in float32."""
        wide = x.astype(jnp.promote_types(self.dtype, jnp.float32))
        power = jnp.mean(wide**2, axis=-1, keepdims=True)
        scale = 1 + self.scale[...].astype(wide.dtype)
        return (wide * jax.lax.rsqrt(power + self.epsilon) * scale).astype(self.dtype)


class Unchanged(nnx.Module):
    """No norm at all: x in its dtype."""

    def __init__(self, dtype: DTypeLike):
        self.dtype = dtype

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """x."""
        return x.astype(self.dtype)


class Norm(nnx.Module):
    """RMSNorm, LayerNorm, none or BatchNorm, over real tokens of the whole (global) batch."""

    def __init__(
        self,
        kind: NormKind,
        d_model: int,
        *,
        eps: float | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`eps`: added to the variance, 1e-6 by default (batch: 1e-5)."""
        self.kind = kind
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        if eps is not None:
            options["epsilon"] = eps
        if kind == "batch":
            self.norm = nnx.BatchNorm(d_model, momentum=0.95, **options)
            for average in (self.norm.mean, self.norm.var):
                average.set_value(average[...].astype(jnp.promote_types(param_dtype, jnp.float32)))
        elif kind == "layer":
            self.norm = nnx.LayerNorm(d_model, **options)
        elif kind == "rms":
            self.norm = nnx.RMSNorm(d_model, **options)
        elif kind == "centered_rms":
            self.norm = CenteredRMSNorm(d_model, **options)
        elif kind == "none":
            self.norm = Unchanged(dtype)
        else:
            raise ValueError(f"unknown norm {kind!r}; known: {', '.join(get_args(NormKind))}")

    def __call__(self, x: Float[Array, "B L D"], ctx: Context) -> Float[Array, "B L D"]:
        """Normalises each token, or each channel over the batch in training mode."""
        if self.kind != "batch":
            return self.norm(x)
        layout = ctx.segments
        if not ctx.training:
            return self.norm(x, use_running_average=True)
        if not layout.masked:
            return self.norm(x, use_running_average=False)
        some = layout.valid.any()  # a batch of padding alone has no statistics
        before = [average[...] for average in (self.norm.mean, self.norm.var)]
        x = self.norm(x, use_running_average=False, mask=(layout.valid | ~some)[..., None])
        for average, old in zip((self.norm.mean, self.norm.var), before, strict=True):
            average[...] = jnp.where(some, average[...], old)
        return x


class FeedForward(Mixer):
    """Position-wise network: an MLP, or GLU with a sigmoid, SiLU or GELU gate. No state.

    `expansion` gives the hidden width in units of `d_model`; the gated forms have a third matrix of
    that width, so that equal parameters ask for 2/3 of the expansion (Shazeer 2020). `inner_norm`
    normalises the hidden units (NormFormer; Shleifer et al. 2021, arXiv:2110.09456, eq. 3).
    `conv_width` > 0: a short convolution over hidden units before the activation, and its window as
    state.
    """

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        *,
        kind: FeedForwardKind = "mlp",
        expansion: float = 2.0,
        use_bias: bool = True,
        inner_norm: NormKind | None = None,
        conv_width: int = 0,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        hidden = max(1, round(expansion * d_model))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.kind = kind
        if kind in GATES:
            self.gate_proj = Linear(d_model, hidden, use_bias=use_bias, **options)
        self.up_proj = Linear(d_model, hidden, use_bias=use_bias, **options)
        self.down_proj = Linear(hidden, d_model, use_bias=use_bias, **options)
        self.norm = nnx.data(Norm(inner_norm, hidden, **options) if inner_norm else None)
        wide = hidden * (2 if kind in GATES else 1)
        self.conv = nnx.data(ShortConv(wide, width=conv_width, **options) if conv_width else None)

    def _initial(self, batch_size: int) -> tuple[()] | Float[Array, "B W D"]:
        return () if self.conv is None else self.conv._initial(batch_size)

    def state_size(self) -> int:
        """No state: 0; with a convolution (conv_width - 1) times its channels."""
        return 0 if self.conv is None else self.conv.state_size()

    def _mix(self, x, inner, ctx):
        gated = self.kind in GATES
        h = [self.up_proj(x), self.gate_proj(x)] if gated else [self.up_proj(x)]
        if self.conv is not None:
            mixed, inner = self.conv.apply(jnp.concatenate(h, -1), inner, ctx)
            h = jnp.split(mixed, len(h), axis=-1)
        h = h[0] * GATES[self.kind](h[1]) if gated else ACTIVATIONS[self.kind](h[0])
        if self.norm is not None:
            h = self.norm(h, ctx)
        return self.down_proj(h), () if self.conv is None else inner


class ShortConv(Mixer):
    """Depthwise causal convolution over a segment's last `width` real tokens, near the identity.

    State: the last width - 1 inputs, (width - 1) d_model elements.
    """

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
        self.width = width
        noise = jax.random.normal(rngs.params(), (width, d_model), param_dtype)
        self.conv = nnx.Param(noise / (2 * width**0.5) + jnp.eye(width, dtype=param_dtype)[:, -1:])

    def _initial(self, batch_size: int) -> Float[Array, "B W D"]:
        return jnp.zeros((batch_size, self.width - 1, self.d_model), self.wide)

    def state_size(self) -> int:
        """(width - 1) d_model."""
        return (self.width - 1) * self.d_model

    def _mix(self, x, inner, ctx):
        y, window = short_conv(x, self.conv[...], inner, segment_ids=ctx.segments)
        return y, window.astype(self.wide)


class ConvPositions(Mixer):
    """x + gelu(conv(x)) over the neighbours of a segment (Baevski et al. 2020, arXiv:2006.11477).

    Their section 2: order is read from the neighbours, so that no position is counted. Where ours
    differs: one filter per channel, and causal models see what came before only. `width` tokens on
    a side, the current one counted. State: the last width - 1 inputs.
    """

    looks_both_ways = True
    state_growth = "window"

    def __init__(
        self,
        d_model: int,
        *,
        width: int = 16,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.causal = causal
        self.conv = DepthwiseConv(d_model, width, **options)
        self.behind = nnx.data(None if causal else DepthwiseConv(d_model, width, **options))

    def _initial(self, batch_size: int) -> Float[Array, "B W D"]:
        return self.conv.initial(batch_size)

    def state_size(self) -> int:
        """(width - 1) d_model."""
        return self.conv.state_size()

    def _mix(self, x, inner, ctx):
        h, window = self.conv(x, inner, ctx.segments)
        if self.behind is not None:
            later, _ = self.behind(jnp.flip(x, 1), None, ctx.segments.flip())
            h = h + jnp.flip(later, 1)
        return x + jax.nn.gelu(h), window
