"""TTT-Linear: a linear model as state, trained as the row is read (Sun et al. 2024, 2407.04620).

    f(z; W, b) = z + LN(z W + b),   loss_s = |f(k_s; W, b) - v_s|² / 2
    W_t = W' - c_t Σ_{s≤t} η_s ∂loss_s(W', b') / ∂W,   b_t alike,   y_t = W_out LN(f(q_t; W_t, b_t))

(sections 2.3 to 2.7) for each head. W', b' are those at the start of t's mini-batch of `batch_size`
tokens, counted from the start of the segment, so that the gradients of a mini-batch are made at
once and W_t, never written out, is a product of the chunk's (the dual form). η_s = base_lr σ(W_η
x_s + b_η) / K, one number a head; c_t = 1/i + learned for the i-th token of a mini-batch, at least
0. W, b begin at learned values. q and k turn by rotary positions within the mini-batch.

The layer of the authors' Transformer backbone: their other backbone shares q and k and has Mamba's
convolution and gate.

With H heads of width K in mini-batches of C: cost of L tokens O(L H (C K + K²)), a step of the loop
for each mini-batch. State: H (K (K + 1) + C (2 K + 1)) + 1 elements per sequence: what W, b have
moved by at the start of the mini-batch, and k, v and η of its tokens.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.fast_weights.chunks import (
    Chunk,
    Learner,
    in_chunks,
    no_tokens,
    taught,
    told,
)
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.sharding import everywhere
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.softmax.local_blocks import Recent
from seqzoo.models.ops.softmax.rope import rope


@stream_state
class TTTState(NamedTuple):
    """What the inner model has learned, and the mini-batch that is not complete."""

    moved: Float[Array, "B H K+1 K"]  # W and, last, b, less their start
    recent: Recent  # k, v, η


class Inner(NamedTuple):
    """What all mini-batches have in common, once for each row: a loop then sums no gradients."""

    start: Float[Array, "B H K+1 K"]
    scale: Float[Array, "B H K"]  # of LN
    bias: Float[Array, "B H K"]
    share: Float[Array, "B C"]  # c
    eps: float


class TTT(Mixer):
    """Test-time training of a linear model for each head; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        batch_size: int = 16,
        base_lr: float = 1.0,
        norm_eps: float = 1e-6,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`batch_size`: tokens of a mini-batch C; `base_lr`: largest η times K.

        Raises ValueError for widths that do not divide or are odd, and sizes that are not positive.
        """
        if num_heads < 1 or d_model % (2 * num_heads):
            raise ValueError(
                "num_heads must divide d_model into heads of even width, which turn in pairs; got "
                f"{d_model=}, {num_heads=}"
            )
        if batch_size < 1 or not base_lr > 0:
            raise ValueError(
                f"batch_size and base_lr must be above 0; got {batch_size=}, {base_lr=}"
            )
        self.num_heads, self.d_head, self.size = num_heads, d_model // num_heads, batch_size
        self.base_lr, self.norm_eps = base_lr, norm_eps
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Linear(d_model, d_model, **options) for _ in range(4)
        )
        self.in_proj = Linear(d_model, num_heads, **{**options, "use_bias": True})  # of η
        heads, k = num_heads, self.d_head
        drawn = 0.02 * jax.random.normal(rngs.params(), (heads, k, k), param_dtype)
        self.hidden_kernel = nnx.Param(drawn, group="dynamics")  # W and b at first
        self.hidden_bias = nnx.Param(jnp.zeros((heads, k), param_dtype), group="dynamics")
        self.scale = nnx.Param(jnp.ones((heads, k), param_dtype))
        self.bias = nnx.Param(jnp.zeros((heads, k), param_dtype))
        self.bonus = nnx.Param(jnp.zeros(batch_size, param_dtype), group="dynamics")
        norm = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.norm = nnx.LayerNorm(d_model, epsilon=norm_eps, **norm)

    def _initial(self, batch_size: int) -> TTTState:
        heads, k = self.num_heads, self.d_head
        shapes = ((heads, k), (heads, k), (heads,))
        moved = jnp.zeros((batch_size, heads, k + 1, k), self.wide)
        return TTTState(moved, no_tokens(batch_size, self.size, self.wide, *shapes))

    def state_size(self) -> int:
        """H (K (K + 1) + C (2 K + 1)) + 1."""
        k = self.d_head
        return self.num_heads * (k * (k + 1) + self.size * (2 * k + 1)) + 1

    @jax.named_scope("ttt")
    def _mix(self, x: Float[Array, "B L D"], inner: TTTState | None, ctx: Context):
        layout, wide = ctx.segments, self.wide
        q, k, v = (
            p(x).astype(wide).reshape(*x.shape[:2], self.num_heads, -1)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (rope(a, layout.position % self.size) for a in (q, k))
        rate = jax.nn.sigmoid(self.in_proj(x).astype(wide)) * (self.base_lr / self.d_head)
        shares = 1 / jnp.arange(1, self.size + 1) + self.bonus[...].astype(wide)
        learned = self.hidden_kernel, self.hidden_bias, self.scale, self.bias
        W, b, scale, bias = (everywhere(p[...].astype(wide)) for p in learned)
        start = jnp.concatenate([W, b[:, None]], 1)
        each = (start, scale, bias, jnp.maximum(shares, 0).astype(wide))
        model = Inner(*(jnp.broadcast_to(a, (x.shape[0], *a.shape)) for a in each), self.norm_eps)
        learner = Learner(
            jnp.zeros_like(model.start),
            functools.partial(_weights, model.share),
            functools.partial(_mini_batch, model),
        )
        o, after = in_chunks(learner, q, (k, v, rate), layout, self.size, inner)
        o = o.reshape(*x.shape[:2], -1).astype(x.dtype)
        return self.out_proj(self.norm(o)), None if after is None else TTTState(*after)


def _weights(share: Float[Array, "B C"], _: tuple, chunk: Chunk) -> Float[Array, "B 1 C C"]:
    """What each token takes of the gradients up to its own."""
    share = jnp.take_along_axis(share, chunk.position % chunk.tag.shape[1], 1)
    return jnp.where(chunk.seen, share[:, None, :, None], 0)


def _mini_batch(
    model: Inner,
    tokens: tuple[Array, tuple[Array, Array, Array]],
    weights: Float[Array, "B 1 C C"],
    moved: Float[Array, "B H K+1 K"],
    chunk: Chunk,
) -> tuple[Float[Array, "B C H K"], Float[Array, "B H K+1 K"]]:
    """Outputs, and what a complete mini-batch has moved W and b by."""
    q, (k, v, rate) = tokens

    def guess(z: Array) -> tuple[Array, Array]:
        z = jnp.concatenate([z, jnp.ones_like(z[..., :1])], -1)
        return z, chunk.layer(z, model.start, moved)

    def loss(y: Array) -> Array:
        return jnp.square(_normed(model, y) - (v - k)).sum() / 2

    keys, y = guess(k)
    slope = chunk.real(rate[..., None] * jax.grad(loss)(y))
    asked, y = guess(q)
    y = y - told(asked, keys, slope, weights)
    step = model.share[:, -1, None, None, None] * taught(keys, slope)
    return q + _normed(model, y), chunk.kept(moved) - step


def _normed(model: Inner, y: Float[Array, "B C H K"]) -> Array:
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + model.eps)
    return y * model.scale[:, None] + model.bias[:, None]
