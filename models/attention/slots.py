"""Attention to a fixed number of slots that tokens are written into: GSA and ABC.

    K_t = diag(α_t) K_{t-1} + w_t k_tᵀ,   V_t = diag(α_t) V_{t-1} + w_t v_tᵀ     α, w in R^M a head
    o_t = V_tᵀ softmax(K_t q_t / sqrt(K))

Gated slot attention (Zhang et al. 2024, arXiv:2409.07146, eq. 7 to 9): q, k, v = silu(W x),
α = σ(W_α x)^(1/τ), w = 1 - α, y = W_out rms(silu(o)), the norm over all heads.

Attention with bounded-memory control (Peng et al. 2021, arXiv:2110.02488), in the causal form in
which a slot holds the mean of all tokens under weights exp(s), s = W_s x kept within ±32:
w_t = exp(s_t) / Σ_{r <= t} exp(s_r), α = 1 - w. q and k are rotated, y = W_out (rms(o) ⊙ silu(W_z
x)), the norm over each head.

Both passes are `gated_linear_attention`: values read slots as keys with a decay each, keys read one
value a slot, so that each slot is a head of its own. Where ours differs: no grouped keys.
Cost of L tokens in chunks of C: O(L H M (C + K + V)). State: H M (K + V) elements per sequence, and
H M more of ABC for the sums of weights.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.ops.softmax.rope import rope

LIMIT = 32.0  # of the exponents of ABC's weights
FAINT = 1e-30  # least share of a slot that stays


@stream_state
class SlotState(NamedTuple):
    """What the slots hold, and the weight of all that was written into each."""

    k: Float[Array, "B HM K 1"]
    v: Float[Array, "B H M V"]
    total: Float[Array, "B H M"] | None  # of ABC


class SlotAttention(Mixer):
    """Both passes; a subclass makes queries, keys, values and gates."""

    sums = False  # whether weights are summed

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int,
        num_slots: int,
        chunk_size: int | None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for heads that do not divide d_model and sizes below 1."""
        if min(num_heads, num_slots) < 1 or d_model % num_heads:
            raise ValueError(
                "num_heads divides d_model, and num_slots is at least 1; got "
                f"{num_heads=}, {num_slots=}, {d_model=}"
            )
        self.num_heads, self.num_slots, self.chunk_size = num_heads, num_slots, chunk_size
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, d_model, **options)
        self.k_proj = Linear(d_model, d_model, **options)
        self.v_proj = Linear(d_model, d_model, **options)
        self.in_proj = Linear(d_model, num_heads * num_slots, **options)
        self.out_proj = Linear(d_model, d_model, **options)
        self.scale = nnx.Param(jnp.ones(d_model // (num_heads if self.sums else 1), param_dtype))

    @abc.abstractmethod
    def _written(self, x: Array, total: Array | None, ctx: Context) -> tuple[Array, ...]:
        """q, k, v, w and log α [B, L, H, ...], and the sums of weights."""

    def _initial(self, batch_size: int) -> SlotState:
        heads, slots, width = self.num_heads, self.num_slots, self.d_model // self.num_heads
        k = jnp.zeros((batch_size, heads * slots, width, 1), self.wide)
        v = jnp.zeros((batch_size, heads, slots, width), self.wide)
        return SlotState(k, v, v[..., 0] if self.sums else None)

    def state_size(self) -> int:
        """2 M d_model, and H M with sums of weights."""
        more = self.num_heads if self.sums else 0
        return self.num_slots * (2 * self.d_model + more)

    def _heads(self, x: Float[Array, "B L E"]) -> Float[Array, "B L H E/H"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)

    def _read(self, x: Float[Array, "B L D"], inner: SlotState | None, ctx: Context):
        before = SlotState(None, None, None) if inner is None else inner
        q, k, v, write, log_decay, total = self._written(x, before.total, ctx)
        how = {"chunk_size": self.chunk_size, "segment_ids": ctx.segments}
        each = (*x.shape[:2], self.num_heads * self.num_slots, 1)
        scores, s_k = gated_linear_attention(
            *(q.astype(self.wide), k.astype(self.wide), write.reshape(each)),
            log_decay.reshape(each),
            before.k,
            scale=q.shape[-1] ** -0.5,
            **how,
        )
        p = jax.nn.softmax(scores.reshape(write.shape), axis=-1)
        o, s_v = gated_linear_attention(p, write, v, log_decay, before.v, **how)
        return o.astype(self.wide), SlotState(s_k, s_v, total)

    def _normed(self, o: Array, eps: float) -> Array:
        power = jnp.mean(o**2, axis=-1, keepdims=True)
        return o * jax.lax.rsqrt(power + eps) * self.scale[...].astype(o.dtype)


class GSA(SlotAttention):
    """Slots that forget by a gate each; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_slots: int = 16,
        temperature: float = 8.0,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`num_slots`: M of each head; `temperature`: τ, larger ones forget less.

        Raises ValueError for sizes and a temperature that cannot be.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        self.temperature, self.norm_eps = temperature, norm_eps
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        sizes = {"num_heads": num_heads, "num_slots": num_slots, "chunk_size": chunk_size}
        super().__init__(d_model, **sizes, **options)

    def _written(self, x: Float[Array, "B L D"], total: None, ctx: Context):
        q, k, v = (self._heads(jax.nn.silu(p(x))) for p in (self.q_proj, self.k_proj, self.v_proj))
        gate = self._heads(self.in_proj(x)).astype(self.wide)
        log_decay = jax.nn.log_sigmoid(gate) / self.temperature
        return q, k, v, -jnp.expm1(log_decay), log_decay, None

    @jax.named_scope("gsa")
    def _mix(self, x: Float[Array, "B L D"], inner: SlotState | None, ctx: Context):
        o, inner = self._read(x, inner, ctx)
        y = self._normed(jax.nn.silu(o).reshape(x.shape), self.norm_eps)
        return self.out_proj(y.astype(x.dtype)), inner


class ABC(SlotAttention):
    """Slots that are means of all tokens, each under its own weights; see the module docstring."""

    sums = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_slots: int = 16,
        rotary: bool = True,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`num_slots`: M of each head; without `rotary` nothing turns.

        Raises ValueError for sizes that cannot be, and heads of odd width that are to turn.
        """
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        sizes = {"num_heads": num_heads, "num_slots": num_slots, "chunk_size": chunk_size}
        super().__init__(d_model, **sizes, **options)
        if rotary and d_model // num_heads % 2:
            raise ValueError(
                f"rotary turns pairs of a head's channels; got {d_model=}, {num_heads=}"
            )
        self.rotary, self.norm_eps = rotary, norm_eps
        self.gate_proj = Linear(d_model, d_model, use_bias=False, **options)

    def _written(self, x: Float[Array, "B L D"], total: Array | None, ctx: Context):
        q, k, v = (self._heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.rotary:
            q, k = (rope(z, ctx.segments.position) for z in (q, k))
        s = self._heads(self.in_proj(x)).astype(self.wide)
        weight = jnp.exp(jnp.clip(s, -LIMIT, LIMIT))
        sums = linear_scan(jnp.ones(1, self.wide), weight, total, segment_ids=ctx.segments)
        write = weight / jnp.maximum(sums, weight)  # which at padding may be less
        return q, k, v, write, jnp.log(jnp.maximum(1 - write, FAINT)), sums[:, -1]

    @jax.named_scope("abc")
    def _mix(self, x: Float[Array, "B L D"], inner: SlotState | None, ctx: Context):
        o, inner = self._read(x, inner, ctx)
        y = self._normed(o, self.norm_eps).reshape(x.shape)
        return self.out_proj((y * jax.nn.silu(self.gate_proj(x))).astype(x.dtype)), inner
