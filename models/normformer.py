"""Head-wise scaling (NormFormer; Shleifer et al. 2021, arXiv:2110.09456, eq. 2) for any mixer.

The output of each head is multiplied by a learned number before the output projection. A mixer
without heads has one; where there is no output projection its output is scaled.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.bidirectional import Bidirectional
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer


class HeadScaledLinear(Linear):
    """A projection whose input comes in heads, each with a gain of its own, 1 at first."""

    def __init__(self, linear: Linear, heads: int, *, rngs: nnx.Rngs):
        """Takes over the parameters of `linear`."""
        super().__init__(
            linear.in_features,
            linear.out_features,
            use_bias=linear.bias is not None,
            dtype=linear.dtype,
            param_dtype=linear.param_dtype,
            rngs=rngs,
        )
        self.kernel, self.bias = linear.kernel, linear.bias
        self.scale = nnx.Param(jnp.ones(heads, linear.param_dtype))

    def __call__(self, x: Float[Array, "*batch E"]) -> Float[Array, "*batch D"]:
        """The projection of the scaled heads."""
        gain = jnp.repeat(self.scale[...], x.shape[-1] // self.scale.shape[0])
        return super().__call__(x * gain.astype(x.dtype))


class Scaled(Mixer):
    """A mixer without output projection, its output times one learned number. State: its own."""

    def __init__(self, mixer: Mixer, param_dtype: DTypeLike):
        self.mixer, self.scale = mixer, nnx.Param(jnp.ones(1, param_dtype))
        self.causal, self.state_growth = mixer.causal, mixer.state_growth
        self.max_length = mixer.max_length

    def _initial(self, batch_size: int):
        return self.mixer._initial(batch_size)

    def state_size(self) -> int:
        """The mixer's."""
        return self.mixer.state_size()

    def initial_shared(self, x: Float[Array, "B L D"]):
        """The mixer's."""
        return self.mixer.initial_shared(x)

    def _mix(self, x: Float[Array, "B L D"], inner, ctx: Context):
        y, inner = self.mixer._mix(x, inner, ctx)
        return y * self.scale[...].astype(y.dtype), inner


def scale_heads(mixer: Mixer, param_dtype: DTypeLike, *, rngs: nnx.Rngs) -> Mixer:
    """`mixer` with a gain for each of its heads; both copies where it is wrapped."""
    if isinstance(mixer, Bidirectional):
        mixer.forward = scale_heads(mixer.forward, param_dtype, rngs=rngs)
        if mixer.backward is not None:
            mixer.backward = scale_heads(mixer.backward, param_dtype, rngs=rngs)
        return mixer
    projection = getattr(mixer, "out_proj", None)
    if not isinstance(projection, Linear):
        return Scaled(mixer, param_dtype)
    heads = getattr(mixer, "num_value_heads", None) or getattr(mixer, "num_heads", 1)
    if projection.in_features % heads:
        heads = 1
    mixer.out_proj = HeadScaledLinear(projection, heads, rngs=rngs)
    return mixer
