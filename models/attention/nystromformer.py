"""Nystromformer: attention through landmarks (Xiong et al. 2021, arXiv:2102.03902).

    o = softmax(q k̃ᵀ) Z softmax(q̃ kᵀ) v + conv(v),     Z ≈ softmax(q̃ k̃ᵀ)⁺       (eq. 13, 15)

with scores over √K, and landmarks q̃, k̃ the means of `landmarks` stretches of the row (token p of n
is in stretch floor(p landmarks / n); a stretch without tokens is left out). Z comes from
`iterations` steps of a third-order iteration (eq. 11), begun at A^T over the largest column sum of
each A. conv is a depthwise convolution of `conv_width` taps, one filter a head, centred.

Where ours differs: the published code begins all heads and rows at the largest sum of any of them,
so that rows feel each other (`shared_start=True`); and it switches to exact attention where there
are as many landmarks as tokens. Both ways only, one segment a row.

Cost of L tokens: O(L M K + M³) per head with M landmarks. It cannot stream.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from seqzoo.models.attention.sparse_parts import heads, only_real, projections
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.conv.short import short_conv
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax.masks import LOW


class Nystromformer(Mixer):
    """Softmax attention approximated from landmarks; see the module docstring."""

    looks_both_ways = True
    causal_form = False
    packing = "none"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        landmarks: int = 64,
        iterations: int = 6,
        conv_width: int = 33,
        shared_start: bool = False,
        use_bias: bool = True,
        causal: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`conv_width` is odd, or 0 for no convolution. `shared_start`: for equality tests.

        Raises ValueError for causal=True, widths that do not divide or are even, and no landmarks.
        """
        if landmarks < 1 or iterations < 0:
            raise ValueError(f"landmarks are at least 1; got {landmarks=}, {iterations=}")
        if conv_width < 0 or (conv_width and conv_width % 2 == 0):
            raise ValueError(f"conv_width is odd, or 0 for no convolution; got {conv_width}")
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.num_heads, self.d_head, self.causal = num_heads, d_model // num_heads, causal
        self.landmarks, self.iterations = landmarks, iterations
        self.shared_start = shared_start
        conv = None
        if conv_width:
            shape, bound = (conv_width, num_heads), conv_width**-0.5
            draw = jax.random.uniform(rngs.params(), shape, param_dtype, -bound, bound)
            conv = nnx.Param(draw)
        self.conv = nnx.data(conv)

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """It cannot stream: 0."""
        return 0

    def _mix(self, x: Float[Array, "B L D"], inner: tuple, ctx: Context):
        layout = ctx.segments
        q, k, v = (heads(p(x), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = only_real(layout, q, k, v)
        o = self._attend(q, k, v, layout)
        if self.conv is not None:
            o = o + self._neighbours(v, layout)
        return self.out_proj(o.reshape(x.shape)), ()

    def _attend(self, q: Array, k: Array, v: Array, layout: Segments) -> Float[Array, "B L H K"]:
        wide = jnp.promote_types(q.dtype, jnp.float32)
        q, k, v = q.astype(wide) * self.d_head**-0.5, k.astype(wide), v.astype(wide)
        member = self._members(q.shape[1], layout)
        size = member.sum(1)
        mean = member / jnp.maximum(size, 1)[:, None]
        some = (size > 0)[:, None, None, :]  # landmarks with tokens
        tops = (
            jnp.einsum("BLM,BLHK->BMHK", jnp.broadcast_to(mean, (q.shape[0], *mean.shape[1:])), a)
            for a in (q, k)
        )
        top_q, top_k = tops
        first = _softmax(jnp.einsum("BLHK,BMHK->BHLM", q, top_k), some)
        middle = _softmax(jnp.einsum("BLHK,BMHK->BHLM", top_q, top_k), some)
        middle = middle * some.swapaxes(-1, -2)
        real = layout.valid[:, None, None] if layout.masked else jnp.ones((1, 1, 1, 1), bool)
        last = _softmax(jnp.einsum("BMHK,BLHK->BHML", top_q, k), real)
        seen = jnp.einsum("BHML,BLHK->BHMK", last, v)
        inverse = pseudo_inverse(middle, self.iterations, self.shared_start)
        return jnp.einsum("BHLM,BHMK->BLHK", first, inverse @ seen)

    def _members(self, length: int, layout: Segments) -> Float[Array, "#B L M"]:
        """1 where a token is in a stretch."""
        count = length
        if layout.masked:
            count = jnp.maximum(layout.valid.sum(1), 1)[:, None]
        stretch = layout.position * self.landmarks // count
        member = stretch[..., None] == jnp.arange(self.landmarks)
        if layout.masked:
            member = member & layout.valid[..., None]
        return member.astype(self.wide)

    def _neighbours(self, v: Float[Array, "B L H K"], layout: Segments) -> Array:
        taps = jnp.repeat(self.conv[...], self.d_head, axis=1).astype(v.dtype)
        half, x = len(taps) // 2, v.reshape(*v.shape[:2], -1)
        before = short_conv(x, taps[: half + 1], segment_ids=layout)[0]
        taps = jnp.flip(taps[half:].at[0].set(0), 0)  # the current token was counted
        after = short_conv(jnp.flip(x, 1), taps, segment_ids=layout.flip())[0]
        return (before + jnp.flip(after, 1)).reshape(v.shape)


def _softmax(s: Float[Array, "B H L M"], seen: Bool[Array, "#B 1 #L M"]) -> Array:
    s = jnp.where(seen, s, LOW)
    p = jnp.exp(s - jax.lax.stop_gradient(s.max(-1, keepdims=True)))
    p = jnp.where(seen, p, 0)
    total = p.sum(-1, keepdims=True)
    return p / jnp.where(total > 0, total, 1)


def pseudo_inverse(
    a: Float[Array, "*B M M"], iterations: int, shared_start: bool = False
) -> Float[Array, "*B M M"]:
    """Z_{j+1} = Z_j (13 I - A Z_j (15 I - A Z_j (7 I - A Z_j))) / 4, for A with rows of sum 1.

    Rows and columns of zeros stay so.
    """
    most = a.sum(-2).max() if shared_start else a.sum(-2).max(-1)[..., None, None]
    z = a.swapaxes(-1, -2) / jnp.where(most > 0, most, 1)
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    for _ in range(iterations):
        az = a @ z
        z = 0.25 * z @ (13 * one - az @ (15 * one - az @ (7 * one - az)))
    return z
