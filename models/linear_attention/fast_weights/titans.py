"""Titans' long-term memory: an MLP as state, trained as the row is read (Behrouz et al. 2024).

    loss_s = |M(k_s) - v_s|² / 2
    S_t = η_t S_{t-1} - θ_t ∂loss_t(M') / ∂M,   M_t = (1 - α_t) M_{t-1} + S_t,   y_t = M_t(q_t)

(arXiv:2501.00663, sections 3.1 and 3.2) for each head: gradient descent with momentum S and decay
of the weights M. M' is M at the start of t's mini-batch of `batch_size` tokens, counted from the
start of the segment, so that the gradients of a mini-batch are made at once. With a_t, e_t the
products of 1 - α and of η from its start to t, and a_tj, e_js those over (j, t] and (s, j],

    M_t = a_t M' + Σ_j a_tj e_j S' - Σ_{s≤t} w_ts θ_s ∂loss_s,   w_ts = Σ_{s≤j≤t} a_tj e_js

so that no M_t is written out. M has `depth` layers without biases, SiLU between them; one layer is
a matrix, as in DeltaNet, whose rule it is in mini-batches of 1 without momentum. θ_t = base_lr
σ(.) / C, η_t = σ(.) and α_t = σ(.) of what is affine in x_t, one number a head each. q, k and v
come by projection, short convolution and SiLU, q and k of unit length; behind the heads stand a
norm, a gate and the output projection (section 4.4).

What the paper leaves open is here: several heads; hidden layers `expansion` times as wide as a
head; M_0 learned and S_0 = 0; θ of at most base_lr / C, so that the steps of a mini-batch, all made
from one place, do not go too far together; α about 0.02 at first. Persistent tokens are not part of
the mixer. Of the paper's blocks MAG and MAL are presets (`titans_mag`, `titans_mal`); MAC, whose
attention reads what the memory answers for a whole segment, is none.

With H heads of width K in mini-batches of C, P = K² numbers of one layer, 2 E K² of two (E the
expansion): cost of L tokens O(L H (C (depth K + C) + P)), a step of the loop for each mini-batch.
State: H (2 P + C (2 K + 3)) + 1 + 3 (d_conv - 1) H K elements per sequence: what M has moved by and
S at the start of the mini-batch, k, v and gates of its tokens, and inputs of the convolution.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.delta_parts import HeadNorm, QueryKeyValue, head_sizes
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
from seqzoo.models.ops.matrix.decayed_pairs import Reader, decayed_pairs, prepared, whole_blocks
from seqzoo.models.ops.softmax.local_blocks import Recent

Layers = tuple[Float[Array, "B H I O"], ...]


class Learned(NamedTuple):
    """By how much M has moved, and S."""

    moved: Layers
    momentum: Layers


@stream_state
class TitansState(NamedTuple):
    """What was learned before the mini-batch that is not complete, and what that is made of."""

    moved: Layers
    momentum: Layers
    recent: Recent  # k, v, gates
    window: Float[Array, "B W-1 E"] | None  # None without convolution


class Titans(Mixer):
    """A neural memory for each head, with momentum and forgetting; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        depth: int = 2,
        expansion: float = 1.0,
        batch_size: int = 16,
        base_lr: float = 1.0,
        d_conv: int = 4,
        norm_eps: float = 1e-5,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`depth`: layers of the memory; `expansion`: width of those between, in heads' widths.

        Raises ValueError for heads that do not divide d_model, and sizes that are not positive.
        """
        sizes = head_sizes(d_model, num_heads, None, None, None)
        if min(depth, batch_size) < 1 or not min(base_lr, int(expansion * sizes.d_key)) > 0:
            raise ValueError(
                "depth and batch_size must be at least 1, base_lr and the width of the memory's "
                f"layers above 0; got {depth=}, {batch_size=}, {base_lr=}, {expansion=}"
            )
        self.num_heads, self.size, self.base_lr = num_heads, batch_size, base_lr
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.qkv = QueryKeyValue(d_model, sizes, d_conv, **options)
        self.in_proj = Linear(d_model, 3 * num_heads, bias_init=_gates_at_first, **options)
        inner = int(expansion * sizes.d_key)
        self.widths = (sizes.d_key, *(inner,) * (depth - 1), sizes.d_value)
        drawn = nnx.initializers.lecun_normal(batch_axis=0)
        self.hidden_kernel = nnx.List(
            nnx.Param(drawn(rngs.params(), (num_heads, *layer), param_dtype), group="dynamics")
            for layer in itertools.pairwise(self.widths)
        )  # M_0
        self.gate_proj = Linear(d_model, d_model, use_bias=False, **options)
        self.norm = HeadNorm(sizes.d_value, "silu", eps=norm_eps, param_dtype=param_dtype)
        self.out_proj = Linear(d_model, d_model, use_bias=False, **options)

    def _initial(self, batch_size: int) -> TitansState:
        heads, width = self.num_heads, self.widths[0]
        zeros = tuple(
            jnp.zeros((batch_size, heads, *layer), self.wide)
            for layer in itertools.pairwise(self.widths)
        )
        shapes = ((heads, width), (heads, width), (3, heads))
        recent = no_tokens(batch_size, self.size, self.wide, *shapes)
        return TitansState(zeros, zeros, recent, self.qkv.initial(batch_size).window)

    def state_size(self) -> int:
        """H (2 P + C (2 K + 3)) + 1, and (d_conv - 1) channels of q, k and v."""
        memory = sum(i * o for i, o in itertools.pairwise(self.widths))
        tokens = self.size * (2 * self.widths[0] + 3)
        conv = self.qkv.conv
        window = 0 if conv is None else conv.state_size()
        return self.num_heads * (2 * memory + tokens) + 1 + window

    @jax.named_scope("titans")
    def _mix(self, x: Float[Array, "B L D"], inner: TitansState | None, ctx: Context):
        layout, wide, state = ctx.segments, self.wide, None
        if inner is not None:
            state = Learned(inner.moved, inner.momentum), inner.recent
        q, k, v, window = self.qkv(x, None if inner is None else inner.window, layout)
        q, k, v, gates = (z.astype(wide) for z in (q, k, v, self.in_proj(x)))
        gates = self._gates(gates.reshape(*x.shape[:2], 3, self.num_heads))
        first = tuple(
            jnp.broadcast_to(W, (x.shape[0], *W.shape))
            for W in (everywhere(p[...].astype(wide)) for p in self.hidden_kernel)
        )
        nothing = Learned(*(jax.tree.map(jnp.zeros_like, first),) * 2)
        learner = Learner(nothing, _weights, functools.partial(_mini_batch, first))
        o, state = in_chunks(learner, q, (k, v, gates), layout, self.size, state)
        y = self.out_proj(self.norm(o, self.gate_proj(x)).astype(x.dtype))
        return y, None if state is None else TitansState(*state[0], state[1], window)

    def _gates(self, x: Float[Array, "B L 3 H"]) -> Float[Array, "B L 3 H"]:
        """θ, log η and log(1 - α)."""
        rate, keep, forget = (x[:, :, i] for i in range(3))
        rate = jax.nn.sigmoid(rate) * (self.base_lr / self.size)
        logs = (jax.nn.log_sigmoid(z) for z in (keep, -forget))
        least = jnp.log(jnp.finfo(x.dtype).tiny)  # of which differences exist
        return jnp.stack([rate, *(jnp.maximum(z, least) for z in logs)], 2)


def _gates_at_first(key: Array, shape: tuple[int], dtype: DTypeLike) -> Array:
    """Half of the largest step, half of the momentum, a fiftieth forgotten."""
    return jnp.repeat(jnp.array([0, 0, -4], dtype), shape[0] // 3)


class Weights(NamedTuple):
    """What tokens of a mini-batch weigh, by a and w of the module docstring."""

    kept: Float[Array, "B H C"]  # M'
    moving: Float[Array, "B H C"]  # S'
    steps: Float[Array, "B H C C"]  # the gradients


def _mini_batch(
    first: Layers,
    tokens: tuple[Array, tuple[Array, Array, Array]],
    weights: tuple[Weights, Weights],
    learned: Learned,
    chunk: Chunk,
) -> tuple[Float[Array, "B C H K"], Learned]:
    """Outputs, and what is learned behind a complete mini-batch."""
    (q, (k, v, gates)), (M, S) = tokens, weights
    inputs, slopes = _gradients(first, learned.moved, k, v, chunk)
    slopes = [chunk.real(gates[:, :, 0, :, None] * slope) for slope in slopes]

    def layer(i: int, x: Array) -> Array:
        y = _each(M.kept) * chunk.layer(x, first[i], learned.moved[i])
        y = y + _each(M.moving) * chunk.learned(x, learned.momentum[i])
        return y - told(x, inputs[i], slopes[i], M.steps)

    terms = zip(first, *learned, inputs, slopes, strict=True)
    after = [_after(M, S, chunk, *layer) for layer in terms]
    return _through(layer, len(first), q), Learned(*(tuple(z) for z in zip(*after, strict=True)))


def _through(layer: Callable[[int, Array], Array], depth: int, x: Array) -> Array:
    """The memory, of its layers."""
    x = layer(0, x)
    for i in range(1, depth):
        x = layer(i, jax.nn.silu(x))
    return x


def _gradients(first: Layers, moved: Layers, k: Array, v: Array, chunk: Chunk) -> tuple:
    """Each layer's inputs, and the loss's gradients at its outputs, at the weights M'."""
    depth, inputs = len(first), []

    def loss(shifts: list[Array]) -> tuple[Array, list[Array]]:
        inputs = []

        def layer(i: int, x: Array) -> Array:
            inputs.append(x)
            return chunk.layer(x, first[i], moved[i]) + shifts[i]

        return jnp.square(_through(layer, depth, k) - v).sum() / 2, inputs

    zeros = [jnp.zeros((*k.shape[:3], W.shape[-1]), k.dtype) for W in first]
    slopes, inputs = jax.grad(loss, has_aux=True)(zeros)
    return inputs, slopes


def _weights(
    tokens: tuple[Array, tuple[Array, Array, Array]], chunk: Chunk
) -> tuple[Weights, Weights]:
    """Those of M_t, and those of S_t."""
    gates = tokens[1][2]
    log_eta, log_kept = gates[:, :, 1], gates[:, :, 2]
    push, keep = (_spans(g, chunk) for g in (log_eta, log_kept))
    pushed, kept = (_from_start(g, chunk) for g in (log_eta, log_kept))
    moving = jnp.einsum("BHCS,BHS->BHC", keep, pushed)
    return Weights(kept, moving, keep @ push), Weights(jnp.zeros_like(kept), pushed, push)


def _spans(g: Float[Array, "B C H"], chunk: Chunk) -> Float[Array, "B H C C"]:
    """exp of the sums over (s, t] for tokens s <= t of one segment, else 0."""
    size = g.shape[1]
    g = jnp.swapaxes(g, 1, 2)[..., None]
    g = jnp.pad(g, ((0, 0), (0, 0), (0, whole_blocks(size) - size), (0, 0)))
    one = jnp.ones_like(g[:, :1])
    spans = decayed_pairs([Reader(one, own=True)], [one], prepared(g)).products[0][0]
    return jnp.where(chunk.seen, spans[..., :size, :size], 0)


def _from_start(g: Float[Array, "B C H"], chunk: Chunk) -> Float[Array, "B H C"]:
    """exp of the sums from the start of a token's segment in the mini-batch up to it."""
    seen = chunk.seen[:, 0].astype(g.dtype)
    return jnp.exp(jnp.einsum("BCS,BSH->BHC", seen, g, precision=jax.lax.Precision.HIGHEST))


def _each(weights: Float[Array, "B H C"]) -> Float[Array, "B C H 1"]:
    return jnp.swapaxes(weights, 1, 2)[..., None]


def _after(M: Weights, S: Weights, chunk: Chunk, first, moved, momentum, z, slope) -> tuple:
    """What a layer's weights have moved by and their momentum, behind the last token."""
    moved, momentum = chunk.kept(moved), chunk.kept(momentum)

    def new(w: Weights) -> Array:
        kept, moving = (x[..., -1, None, None] for x in (w.kept, w.moving))
        step = taught(z, slope * _each(w.steps[..., -1, :]))
        return kept * (first + moved) + moving * momentum - step

    return new(M) - first, new(S)
