"""Long convolutions whose taps are learned as they are, or at several scales.

    y = k ∗ u + D ⊙ u                                                   a filter for each channel

"free" (Fu et al. 2023, arXiv:2302.06646, "LongConv"): max_length taps each, and what is small does
not count: k = sign(w) max(|w| - squash, 0). With squash = 0 it is any convolution at all, the
control of arXiv:2501.14850 for what state spaces add to one.

"multiscale" (Li et al. 2022, arXiv:2210.09298, "SGConv", section 3.2): k is parts of `width`
numbers each, drawn out linearly to 1, 1, 2, 4, 8, .. times that and weighted by 1, 1/2, 1/4, ..;
all of it is divided by the norm that it had at first. Parameters grow with log(max_length).

GELU and a linear GLU follow with `gate`. With `causal=False` a second filter reads later tokens,
from the next one on. Where ours differs: free taps start as noise that dies away within 1 to
max_length / 2 tokens, over the channels; neither dropout of taps nor a smoothing of them.

Cost of L tokens: O(L D log² L), plus O(L D²) for the gate; of one step: O(max_length D).
State: D max_length + 1 elements per sequence.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Constant, Context, Mixer
from seqzoo.models.ops.conv.fft import fft_conv
from seqzoo.models.ops.softmax.local_blocks import Recent, forget, latest, run_tags
from seqzoo.models.ssm.hyena import continued
from seqzoo.models.ssm.parts import gelu_glu

Filter = Literal["free", "multiscale"]


class LongConv(Mixer):
    """One long filter a channel; see the module docstring."""

    looks_both_ways = True
    state_growth = "linear"

    def __init__(
        self,
        d_model: int,
        *,
        kind: Filter = "free",
        max_length: int = 2048,
        squash: float = 0.003,
        width: int = 32,
        gate: bool = True,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`max_length`: taps, and most tokens of a segment; `squash` is of "free", `width` of
        "multiscale".

        Raises ValueError for an unknown kind, sizes below 1 and a negative squash.
        """
        if kind not in ("free", "multiscale"):
            raise ValueError(f"unknown {kind=}; known: free, multiscale")
        if min(max_length, width) < 1 or not squash >= 0:
            raise ValueError(
                "max_length and width are at least 1, and squash is at least 0; got "
                f"{max_length=}, {width=}, {squash=}"
            )
        self.kind, self.causal, self.squash, self.width = kind, causal, squash, width
        self.max_length, directions = max_length, 1 if causal else 2
        if kind == "free":
            shape = (directions, max_length, d_model)
        else:
            scales = 1
            while width << (scales - 1) < max_length:
                scales += 1
            shape = (directions, scales, width, d_model)
        noise = jax.random.normal(rngs.params(), shape, param_dtype)
        if kind == "free":
            noise = noise * _fading(max_length, d_model, param_dtype)
        self.conv = nnx.Param(noise, group="dynamics")
        norm = None
        if kind == "multiscale":
            norm = Constant(jnp.linalg.norm(self._drawn_out(noise), axis=1, keepdims=True))
        self.first_norm = nnx.data(norm)
        self.D = nnx.Param(jax.random.normal(rngs.params(), (d_model,), param_dtype))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.out_proj = Linear(d_model, 2 * d_model, **options) if gate else None

    def filters(self) -> Float[Array, "F Lk D"]:
        """The taps of each direction, in at least float32."""
        w = self.conv[...].astype(self.wide)
        if self.kind == "free":
            return jnp.sign(w) * jnp.maximum(jnp.abs(w) - self.squash, 0)
        return self._drawn_out(w) / self.first_norm[...].astype(w.dtype)

    def _drawn_out(self, w: Float[Array, "F S W D"]) -> Float[Array, "F Lk D"]:
        parts = []
        for i in range(w.shape[1]):
            size = (w.shape[0], self.width << max(i - 1, 0), w.shape[3])
            parts.append(jax.image.resize(w[:, i], size, "linear") / 2**i)
        return jnp.concatenate(parts, axis=1)[:, : self.max_length]

    def _initial(self, batch_size: int) -> Recent:
        token = jax.ShapeDtypeStruct((self.d_model,), self.wide)
        return forget(token, batch_size, self.max_length)

    def state_size(self) -> int:
        """D max_length + 1."""
        return self.d_model * self.max_length + 1

    @jax.named_scope("long_conv")
    def _mix(self, x: Float[Array, "B L D"], inner: Any, ctx: Context):
        u, kernels = x.astype(self.wide), self.filters()
        if inner is None:
            behind = {} if self.causal else {"reverse_kernel": kernels[1]}
            strict = {"segment_ids": ctx.segments, "strict": self.causal}
            y = fft_conv(u, kernels[0], **behind, **strict)
        else:
            tags = run_tags(ctx.segments, *x.shape[:2])
            room = jnp.pad(kernels[0], ((0, x.shape[1]), (0, 0)))
            y = continued(inner, u, room, tags)
            inner = inner.after(u, latest(inner.tagged(tags)))
        y = (y + self.D[...].astype(y.dtype) * u).astype(x.dtype)
        return gelu_glu(y, self.out_proj), inner


def _fading(taps: int, channels: int, dtype: DTypeLike) -> Float[Array, "Lk D"]:
    """Of unit energy, with lives from 1 to taps / 2 over the channels."""
    life = jnp.geomspace(1.0, max(taps / 2, 1.0), channels)
    window = jnp.exp(-jnp.arange(taps)[:, None] / life)
    return (window / jnp.linalg.norm(window, axis=0)).astype(dtype)
