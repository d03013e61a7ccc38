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

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.sequence_parallel import by_parts, by_whole_rows
from seqzoo.models.ops.layout.sharding import everywhere
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.softmax.local_blocks import Recent, forget, latest, run_tags
from seqzoo.models.ops.softmax.packed_blocks import SegmentBlocks, blocks_by_tag, segment_blocks
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
        token = tuple(jax.ShapeDtypeStruct(shape, self.wide) for shape in shapes)
        moved = jnp.zeros((batch_size, heads, k + 1, k), self.wide)
        return TTTState(moved, forget(token, batch_size, self.size))

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
        q, k, v, rate = map(by_whole_rows, _real(layout, q, k, v, rate))
        shares = 1 / jnp.arange(1, self.size + 1) + self.bonus[...].astype(wide)
        learned = self.hidden_kernel, self.hidden_bias, self.scale, self.bias
        W, b, scale, bias = (everywhere(p[...].astype(wide)) for p in learned)
        start = jnp.concatenate([W, b[:, None]], 1)
        each = (start, scale, bias, jnp.maximum(shares, 0).astype(wide))
        model = Inner(*(jnp.broadcast_to(a, (x.shape[0], *a.shape)) for a in each), self.norm_eps)
        rows = x.shape[:2]
        if inner is None:
            blocks = segment_blocks(layout, *rows, self.size)
            o, after = blocks.unpack(_read(model, q, k, v, rate, blocks)[0], rows[1]), None
        else:
            o, after = _continued(model, q, k, v, rate, run_tags(layout, *rows), inner)
        o = by_parts(o).reshape(*rows, -1).astype(x.dtype)
        return self.out_proj(self.norm(o)), after


def _real(layout: Segments, *rows: Array) -> tuple[Array, ...]:
    if not layout.masked:
        return rows
    shape = layout.valid.shape
    return tuple(jnp.where(layout.valid.reshape(*shape, *(1,) * (a.ndim - 2)), a, 0) for a in rows)


def _continued(model: Inner, q, k, v, rate, tags: Int[Array, "B C"], state: TTTState):
    """Outputs of a chunk, and the state after it: the mini-batch not complete is read again."""
    recent, size, count = state.recent, model.share.shape[1], q.shape[1]
    all_tags, rows = recent.tagged(tags), recent.before((k, v, rate))
    blocks = blocks_by_tag(all_tags, size)
    front = jnp.zeros((q.shape[0], recent.size, *q.shape[2:]), q.dtype)
    rank = blocks.unpack(blocks.position[..., None], all_tags.shape[1])[..., 0]
    last = latest(all_tags)
    total = jnp.max(jnp.where(last, rank + 1, 0), 1)  # tokens of the last segment, in these rows
    end = jnp.argmax(jnp.where(last, rank + 1, 0), 1)
    own = jnp.take_along_axis(blocks.place, end[:, None], 1)[:, 0] // size
    target = jnp.where(total > 0, own, -1), total % size == 0, all_tags.max(1) <= 1
    o, moved = _read(model, jnp.concatenate([front, q], 1), *rows, blocks, state.moved, target)
    kept = last & (rank >= (total - total % size)[:, None])
    after = TTTState(moved, recent.after((k, v, rate), kept))
    return blocks.unpack(o, all_tags.shape[1])[:, -count:], after


def _read(
    model: Inner,
    q: Float[Array, "B S H K"],
    k: Float[Array, "B S H K"],
    v: Float[Array, "B S H K"],
    rate: Float[Array, "B S H"],
    blocks: SegmentBlocks,
    moved: Float[Array, "B H K+1 K"] | None = None,
    target: tuple[Array, Array, Array] | None = None,
) -> tuple[Float[Array, "B N C H K"], Array | None]:
    """Outputs in blocks; and what has been learned up to the start of a mini-batch.

    `moved` is where the segment of tag 1 begins; `target` has the block whose start is asked for,
    whether its end is meant instead, and whether its segment is that of tag 1.
    """
    batch, count = q.shape[0], blocks.number.shape[1]
    zeros = jnp.zeros_like(model.start)
    first = zeros if moved is None else moved
    index = jnp.arange(count)[None]
    terms = (index, blocks.number, blocks.tag, blocks.position)
    xs = jax.tree.map(
        lambda a: jnp.moveaxis(jnp.broadcast_to(a, (batch, *a.shape[1:])), 1, 0),
        (*(blocks.pack(a) for a in (q, k, v, rate)), *terms),
    )

    def body(carry: tuple, x: tuple) -> tuple[tuple, Array]:
        before, saved = carry
        q, k, v, rate, index, number, tag, position = x
        goes_on = number > 0
        before = jnp.where(goes_on[:, None, None, None], before, first)
        on = jnp.ones_like(tag, bool) if moved is None else goes_on[:, None] | (tag == 1)
        o, step = _mini_batch(model, q, k, v, rate, before, on, tag, position)
        after = jnp.where(on[:, :1, None, None], before, 0) + step
        if target is not None:
            block, complete, oldest = target
            kept = jnp.where((goes_on | oldest)[:, None, None, None], before, 0)
            new = jnp.where(complete[:, None, None, None], after, kept)
            saved = jnp.where((index == block)[:, None, None, None], new, saved)
        return (after, saved), o

    carry = (zeros, None if target is None else first)
    (_, saved), o = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), carry, xs)
    return jnp.moveaxis(o, 0, 1), saved


def _mini_batch(
    model: Inner,
    q: Float[Array, "B C H K"],
    k: Float[Array, "B C H K"],
    v: Float[Array, "B C H K"],
    rate: Float[Array, "B C H"],
    moved: Float[Array, "B H K+1 K"],
    on: Bool[Array, "B C"],
    tag: Int[Array, "B C"],
    position: Int[Array, "B C"],
) -> tuple[Float[Array, "B C H K"], Float[Array, "B H K+1 K"]]:
    """Outputs, and what a complete mini-batch adds; tokens that are `on` begin at `moved`."""
    size = tag.shape[1]

    def guess(z: Array) -> tuple[Array, Array]:
        z = jnp.concatenate([z, jnp.ones_like(z[..., :1])], -1)
        y = jnp.einsum("BCHI,BHIK->BCHK", z, model.start)
        more = jnp.einsum("BCHI,BHIK->BCHK", z, moved)
        return z, y + jnp.where(on[..., None, None], more, 0)

    def loss(y: Array) -> Array:
        return jnp.square(_normed(model, y) - (v - k)).sum() / 2

    keys, y = guess(k)
    slope = rate[..., None] * jax.grad(loss)(y)
    slope = jnp.where((tag > 0)[..., None, None], slope, 0)
    asked, y = guess(q)
    seen = (tag[:, :, None] == tag[:, None]) & jnp.tri(size, dtype=bool)
    share = jnp.take_along_axis(model.share, position % size, 1)
    pairs = jnp.einsum("BCHI,BSHI->BHCS", asked, keys)
    pairs = jnp.where(seen[:, None], pairs, 0) * share[:, None, :, None]
    y = y - jnp.einsum("BHCS,BSHK->BCHK", pairs, slope)
    step = -model.share[:, -1, None, None, None] * jnp.einsum("BSHI,BSHK->BHIK", keys, slope)
    return q + _normed(model, y), step


def _normed(model: Inner, y: Float[Array, "B C H K"]) -> Array:
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + model.eps)
    return y * model.scale[:, None] + model.bias[:, None]
