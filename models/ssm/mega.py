"""Mega: a moving average with gated attention (Ma et al. 2022, arXiv:2209.10655).

    h_t = (1 - α ⊙ δ) ⊙ h_{t-1} + α ⊙ β x_t,   m = silu(γ·h / √N + ω ⊙ x)     N averages a channel
    u = σ(W_u m),   z, r = silu(W m),   q, k = two scalings and shifts of z,   v = silu(W_v x)
    y = u ⊙ (silu(W_m m + W_h (r ⊙ Σ_s w_ts v_s)) - x)

(eq. 9-18). One head of d_qk channels; weights are the Laplace function of q·k / n + b_(t-s) or the
softmax of q·k / √d_qk + b_(t-s), with b the product of two vectors that turn with the position.
n is how many tokens the query may see. With `block_size` attention stays within blocks counted from
the start of the segment, and only the average passes between them: the cost is linear in L.

The update gate mixes with the block's input, which is x itself where the norm comes after the block
(norm_position="post", as published for Long Range Arena): the residual stream then becomes
u ⊙ h + (1 - u) ⊙ x. Both ways, a second average runs backwards; both hold the current token.
Cost of L tokens: O(L D (N + D + E) + L C (d_qk + E)), C the tokens of a block, or L.
State: D N + S (d_qk + E) + 1 elements, S = block_size or max_length, E = expansion D.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.attention.cache import KVCache
from seqzoo.models.attention.gated.gau import QUERIES, joined
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.softmax.local_blocks import (
    Recent,
    all_blocks,
    block_tags,
    continued_blocks,
    forget,
    latest,
    parallel_blocks,
    run_tags,
    weights,
)
from seqzoo.models.ops.softmax.rope import rope
from seqzoo.models.ops.ssm.diagonal import diagonal_ssm


class MovingAverage(nnx.Module):
    """The damped averages of every channel (eq. 9-11), one way or both."""

    def __init__(
        self, channels: int, averages: int, ways: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs
    ):
        shape = (ways, channels, averages)

        def draw(scale: float) -> Array:
            return scale * jax.random.normal(rngs.params(), shape, param_dtype)

        self.decay_alpha = nnx.Param(draw(0.2), group="dynamics")
        self.decay_delta = nnx.Param(draw(0.2), group="dynamics")
        signs = (-1.0) ** jnp.arange(averages)
        self.B_in = nnx.Param(draw(0.02) + signs.astype(param_dtype))
        self.C_out = nnx.Param(draw(1.0))
        self.D = nnx.Param(jax.random.normal(rngs.params(), (channels,), param_dtype))

    def __call__(
        self, x: Float[Array, "B L D"], h: Float[Array, "B D N"] | None, layout: Segments
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B D N"]]:
        """The averages with the skip connection, and the state of the forward ones."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        alpha, delta, b, c = (
            p[...].astype(wide) for p in (self.decay_alpha, self.decay_delta, self.B_in, self.C_out)
        )
        alpha = jax.nn.sigmoid(alpha)
        a, b, c = 1 - alpha * jax.nn.sigmoid(delta), alpha * b, c * c.shape[-1] ** -0.5
        u = x.astype(wide)
        y, h = diagonal_ssm(u, a[0], b[0], c[0], h, segment_ids=layout)
        if len(a) == 2:
            back, _ = diagonal_ssm(u[:, ::-1], a[1], b[1], c[1], segment_ids=layout.flip())
            y = y + back[:, ::-1]
        return (y + self.D[...].astype(wide) * u).astype(x.dtype), h


@stream_state
class MegaState(NamedTuple):
    """The averages, and the keys and values that are still seen."""

    h: Float[Array, "B D N"]
    seen: KVCache | Recent


class Mega(Mixer):
    """Moving average equipped gated attention; see the module docstring."""

    looks_both_ways = True
    state_growth = "linear"  # without blocks

    def __init__(
        self,
        d_model: int,
        *,
        d_qk: int = 64,
        expansion: float = 2.0,
        averages: int = 16,
        kind: Literal["laplace", "softmax"] = "laplace",
        block_size: int | None = None,
        max_length: int = 2048,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`averages`: N a channel; `block_size`: None for attention over the whole segment.

        `max_length`: most tokens of a segment, if causal without blocks. Raises ValueError
        for sizes below 1, an odd d_qk and unknown kinds.
        """
        width, size = round(expansion * d_model), 1 if block_size is None else block_size
        if min(d_qk, width, averages, size, max_length) < 1 or d_qk % 2:
            raise ValueError(
                "sizes must be at least 1 and d_qk even, since positions turn pairs; got "
                f"{d_qk=}, {expansion=}, {averages=}, {block_size=}, {max_length=}"
            )
        if kind not in ("laplace", "softmax"):
            raise ValueError(f"unknown {kind=}; known: laplace, softmax")
        self.d_qk, self.d_value, self.averages = d_qk, width, averages
        self.kind, self.block_size, self.causal = kind, block_size, causal
        self.state_growth = "linear" if block_size is None else "window"
        self.slots = block_size or max_length
        self.max_length = max_length if causal and block_size is None else None
        ways = 1 if causal else 2
        self.average = MovingAverage(d_model, averages, ways, param_dtype=param_dtype, rngs=rngs)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.v_proj = Linear(d_model, width, **options)
        self.in_proj = Linear(d_model, 2 * d_model + d_qk + width, **options)
        self.hidden_proj = Linear(width, d_model, **options)
        noise = jax.random.normal(rngs.params(), (2, d_qk), param_dtype)
        self.scale = nnx.Param(1 + 0.02 * noise)
        self.bias = nnx.Param(jnp.zeros((2, d_qk), param_dtype))
        turned = 0.02 * jax.random.normal(rngs.params(), (2, d_qk), param_dtype)
        self.distance_scale = nnx.Param(turned, group="no_decay")

    def _initial(self, batch_size: int) -> MegaState:
        h = jnp.zeros((batch_size, self.d_model, self.averages), self.wide)
        widths = (self.d_qk, self.d_value)
        if self.block_size is not None:
            token = tuple(jax.ShapeDtypeStruct((n,), self.kept) for n in widths)
            return MegaState(h, forget(token, batch_size, self.block_size))
        k, v = (jnp.zeros((batch_size, self.slots, 1, n), self.kept) for n in widths)
        return MegaState(h, KVCache(k, v, jnp.zeros(batch_size, jnp.int32)))

    def state_size(self) -> int:
        """D N + S (d_qk + E) + 1."""
        return self.d_model * self.averages + self.slots * (self.d_qk + self.d_value) + 1

    @jax.named_scope("mega")
    def _mix(self, x: Float[Array, "B L D"], inner: MegaState | None, ctx: Context):
        layout = ctx.segments
        h, seen = (None, None) if inner is None else inner
        m, h = self.average(x, h, layout)
        m = jax.nn.silu(m)
        borders = [self.d_model, self.d_model + self.d_qk, self.d_model + self.d_qk + self.d_value]
        update, z, reset, own = jnp.split(self.in_proj(m), borders, axis=-1)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        z, v = jax.nn.silu(z).astype(wide), jax.nn.silu(self.v_proj(x)).astype(wide)
        if layout.masked:  # garbage at padding must not get into 0 * garbage
            z, v = (jnp.where(layout.valid[..., None], a, 0) for a in (z, v))
        attend = self._whole if self.block_size is None else self._blocks
        o, seen = attend(z, v, seen, layout)
        own = jax.nn.silu(own + self.hidden_proj(jax.nn.silu(reset) * o.astype(x.dtype)))
        return jax.nn.sigmoid(update) * (own - x), MegaState(h, seen)

    def _whole(self, z: Array, v: Array, cache: KVCache | None, layout: Segments):
        """Attention over the segment."""
        tags = run_tags(layout, *z.shape[:2])
        place = jnp.broadcast_to(layout.position, tags.shape)
        queries, keys = (self._queries(z, layout), tags, place), (self._keys(z), v, tags, place)
        in_order = cache is None
        if cache is not None:
            keys, cache = joined(keys, cache)
        options = {"size": QUERIES, "causal": in_order and self.causal}
        return all_blocks(self._weigh, queries, self._turn_keys(keys), **options), cache

    def _blocks(self, z: Array, v: Array, recent: Recent | None, layout: Segments):
        """Attention within blocks of the segment."""
        tags = block_tags(layout, *z.shape[:2], self.block_size)
        place = jnp.broadcast_to(layout.position % self.block_size, tags.shape)
        q, k = self._queries(z, layout), self._keys(z)
        options = {"size": self.block_size}
        if recent is None:
            keys = self._turn_keys((k, v, tags, place))
            options["ahead"] = not self.causal
            o = parallel_blocks(self._step, None, (q, tags, place), keys, layout, **options)
            return o, None
        k_tags = recent.tagged(tags)
        k_place = jnp.cumsum(recent.valid, axis=1) - 1
        k_place = jnp.concatenate([k_place, place], axis=1)
        keys = self._turn_keys((*recent.before((k, v)), k_tags, k_place))
        o = continued_blocks(self._step, None, (q, tags, place), keys, k_tags > 0, **options)
        return o, recent.after((k, v), latest(k_tags))

    def _queries(self, z: Array, layout: Segments) -> Float[Array, "B L 2K"]:
        """q with its factor, then the vector that turns with the position."""
        q = z * self.scale[0].astype(z.dtype) + self.bias[0].astype(z.dtype)
        if self.kind == "softmax":
            q = q * self.d_qk**-0.5
        else:
            q = q / self._visible(layout, z.shape[1])[..., None].astype(z.dtype)
        return self._turned(q, 0, layout.position)

    def _keys(self, z: Array) -> Float[Array, "B L K"]:
        return z * self.scale[1].astype(z.dtype) + self.bias[1].astype(z.dtype)

    def _turn_keys(self, keys: tuple) -> tuple:
        k, v, tags, place = keys
        return self._turned(k, 1, place), v, tags, place

    def _turned(self, x: Array, which: int, place: Int[Array, "#B S"]) -> Float[Array, "B S 2K"]:
        vector = jnp.broadcast_to(self.distance_scale[which].astype(x.dtype), x.shape)
        if self.block_size is not None:  # only distances count; small angles are exact
            place = place % self.block_size
        return jnp.concatenate([x, rope(vector[:, :, None], place)[:, :, 0]], axis=-1)

    def _visible(self, layout: Segments, length: int) -> Float[Array, "#B L"]:
        """n: how many tokens each query may see."""
        place, size = layout.position, self.block_size
        if self.causal:
            return (place if size is None else place % size) + 1
        if layout.masked:
            total = place + jnp.flip(layout.flip().position, 1) + 1
        else:
            total = jnp.full((1, length), length)
        return total if size is None else jnp.minimum(total - place // size * size, size)

    def _step(self, carry: None, queries: tuple, keys: tuple) -> tuple[None, Array]:
        return carry, self._weigh(queries, keys)

    def _weigh(self, queries: tuple, keys: tuple) -> Float[Array, "B C E"]:
        (q, tags, place), (k, v, k_tags, k_place) = queries, keys
        seen = (tags[:, :, None] == k_tags[:, None]) & (k_tags[:, None] > 0)
        if self.causal:
            seen = seen & (place[:, :, None] >= k_place[:, None])
        return weights(jnp.einsum("BCK,BSK->BCS", q, k), seen, self.kind) @ v
