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
from seqzoo.models.composite import Composite, Run
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


class Scaled(Composite):
    """A mixer without output projection, its output times one learned number. State: its own."""

    bare = True

    def __init__(self, mixer: Mixer, param_dtype: DTypeLike):
        self.mixer, self.scale = mixer, nnx.Param(jnp.ones(1, param_dtype))
        self._take_after(mixer)

    def parts(self) -> tuple[Mixer, ...]:
        """The mixer."""
        return (self.mixer,)

    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        return run(self.mixer, x) * self.scale[...].astype(x.dtype)


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
    heads = 1 if projection.in_features % mixer.num_heads else mixer.num_heads
    mixer.out_proj = HeadScaledLinear(projection, heads, rngs=rngs)
    return mixer
