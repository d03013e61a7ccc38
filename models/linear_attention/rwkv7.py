"""The time mixing of RWKV-7 "Goose" (Peng et al. 2025, arXiv:2503.14456, section 4).

    m_i = x_t + (x_{t-1} - x_t) ⊙ μ_i,   r, k, v = W_r m_r, W_k m_k, W_v m_v
    log w_t = -e^{-1/2} σ(λ + tanh(m_w A_w) B_w),   η_t = σ(η_0 + m_a A_a B_a),   g = σ(m_g A_g) B_g
    v_t = v + (v_first - v) ⊙ σ(ν_0 + m_v A_v B_v)        v_first is v of the first such layer
    κ_t = k ⊙ ξ per head, of unit length,   k_t = k ⊙ (1 + (η_t - 1) ⊙ α)
    S_t = diag(w_t) S_{t-1} - (κ_t ⊙ η_t) (κ_tᵀ S_{t-1}) + k_t v_tᵀ
    y_t = W_out (g ⊙ (groupnorm(S_tᵀ r_t) + (r_t · ρ ⊙ k_t) v_t))

i runs over r, w, k, v, a and g. The first value travels through the layers in `Context.shared`; a
mixer that was told no layer is the only one and has no ν, A_v and B_v. Channel mixing belongs to
the block (`feedforward="rwkv7"`). Where ours differs: projections are initialised like all others.
Cost of L tokens in chunks of C: O(L C (K + V) + L K V) per head. State: H K K + D elements per
sequence, the second term the last token.
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.matrix_state import (
    MatrixState,
    head_layer_norm,
    matrix_sizes,
)
from seqzoo.models.linear_attention.rwkv6 import RWKV6State
from seqzoo.models.linear_attention.token_shift import place_in_depth, places, token_before
from seqzoo.models.mixer import Context
from seqzoo.models.ops.matrix.delta_rules import dplr_delta_rule
from seqzoo.models.ops.matrix.orthogonal import orthogonal
from seqzoo.models.recurrent.parts import wide

FirstValue = tuple[Float[Array, "B L D"], Bool[Array, ""]]  # and whether a layer has given it


class LowRank(nnx.Module):
    """W_out f(W_in x), zero at first."""

    def __init__(
        self,
        d_model: int,
        rank: int,
        activation: Literal["none", "tanh", "sigmoid"] = "none",
        *,
        bias: Float[Array, "D"] | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        zeros, small = nnx.initializers.zeros, functools.partial(orthogonal, scale=0.1)
        self.in_proj = Linear(d_model, rank, use_bias=False, kernel_init=zeros, **options)
        self.out_proj = Linear(
            rank, d_model, use_bias=bias is not None, kernel_init=small, **options
        )
        if bias is not None:
            self.out_proj.bias[...] = bias
        self.activation = activation

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The map on the last axis."""
        h = self.in_proj(x)
        if self.activation == "none":
            return self.out_proj(h)
        return self.out_proj((jnp.tanh if self.activation == "tanh" else jax.nn.sigmoid)(h))


class RWKV7(MatrixState):
    """A delta rule whose strength and decay are vectors; see the module docstring."""

    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        decay_rank: int = 64,
        value_rank: int = 32,
        gate_rank: int = 128,
        norm_eps: float = 64e-5,
        chunk_size: int | None = None,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`decay_rank`: of decays and of strengths; `layer`: (index, depth).

        Raises ValueError for sizes that cannot be.
        """
        if min(decay_rank, value_rank, gate_rank) < 1:
            raise ValueError(
                f"ranks must be at least 1; got {decay_rank=}, {value_rank=}, {gate_rank=}"
            )
        sizes = matrix_sizes(d_model, num_heads, None, None)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, sizes, chunk_size, **options)
        self.norm_eps = norm_eps
        initial = initial_values(d_model, sizes.d_key, layer, param_dtype)
        self.mix = nnx.Param(initial["mix"], group="no_decay")
        self.decay = nnx.Param(initial["decay"], group="dynamics")
        self.bonus = nnx.Param(jnp.full(d_model, -0.04, param_dtype), group="dynamics")
        self.key_scale = nnx.Param(initial["key_scale"], group="no_decay")  # ξ and α
        self.decay_of = LowRank(d_model, decay_rank, "tanh", **options)
        self.strength_of = LowRank(d_model, decay_rank, bias=initial["strength"], **options)
        self.gate_of = LowRank(d_model, gate_rank, "sigmoid", **options)
        first = LowRank(d_model, value_rank, bias=initial["value"], **options)
        self.value_of = nnx.data(None if layer is None else first)
        self.scale = nnx.Param(jnp.ones(d_model, param_dtype))
        self.bias = nnx.Param(jnp.zeros(d_model, param_dtype))

    def _initial(self, batch_size: int) -> RWKV6State:
        s = super()._initial(batch_size)
        return RWKV6State(jnp.zeros((batch_size, 1, self.d_model), s.dtype), s)

    def state_size(self) -> int:
        """H K K + D."""
        return super().state_size() + self.d_model

    def initial_shared(self, x: Float[Array, "B L D"]) -> FirstValue:
        """No first value yet."""
        return jnp.zeros((*x.shape[:2], self.d_model), self.dtype), jnp.zeros((), bool)

    @jax.named_scope("rwkv7")
    def _mix(self, x: Float[Array, "B L D"], inner: RWKV6State | None, ctx: Context):
        window, s0 = (None, None) if inner is None else inner
        before, window = token_before(x, window, ctx.segments)
        mix = self.mix[...].astype(x.dtype)
        m_r, m_w, m_k, m_v, m_a, m_g = (x + (before - x) * mix[i] for i in range(len(mix)))
        v = self._heads(self._value(m_v, ctx))
        log_decay = -math.exp(-0.5) * jax.nn.sigmoid(wide(self.decay_of(m_w)) + self.decay[...])
        strength = jax.nn.sigmoid(wide(self.strength_of(m_a)))
        r, k, kappa = self._heads(self.q_proj(m_r)), *self._keys(m_k, strength)
        o, s = dplr_delta_rule(
            r,
            k,
            v,
            -kappa,
            kappa * self._heads(strength),
            self._heads(log_decay),
            s0,
            chunk_size=self.chunk_size,
            segment_ids=ctx.segments,
        )
        o = head_layer_norm(o, self.scale[...], self.bias[...], self.norm_eps)
        weight = jnp.sum(wide(r) * k * self._heads(self.bonus[...][None, None]), -1, keepdims=True)
        y = (o + (weight * v).reshape(o.shape)) * self.gate_of(m_g)
        return self.out_proj(y), RWKV6State(window, s)

    def _value(self, m: Float[Array, "B L D"], ctx: Context) -> Float[Array, "B L D"]:
        """v moved towards that of the first layer, which is the first to be here."""
        v = self.v_proj(m)
        if self.value_of is None or ctx.shared is None:
            return v
        first, given = ctx.shared
        first = jnp.where(given, first, v)
        ctx.shared = first, jnp.ones((), bool)
        return v + (first - v) * jax.nn.sigmoid(self.value_of(m))

    def _keys(self, m: Array, strength: Array) -> tuple[Array, Array]:
        """k_t and κ_t by heads, in at least float32."""
        k = wide(self.k_proj(m))
        removal, replacement = self.key_scale[...]
        kappa = self._heads(k * removal)
        kappa = kappa * jax.lax.rsqrt(jnp.maximum(jnp.sum(kappa**2, -1, keepdims=True), 1e-24))
        return self._heads(k * (1 + (strength - 1) * replacement)), kappa


def initial_values(d_model: int, d_key: int, layer: Any, dtype: DTypeLike) -> dict[str, Array]:
    """μ of r, w, k, v, a and g, then λ, η_0, ν_0, and ξ with α, as the published code sets them."""
    late, early = place_in_depth(layer)
    ratio, place, channel = places(d_model, dtype)
    powers = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)
    middle = (d_key - 1) / 2
    zigzag = (channel % d_key - middle) / max(middle, 1)
    zigzag = zigzag * jnp.abs(zigzag)
    slope = place - 0.5
    values = {
        "mix": jnp.stack([1 - ratio ** (p * early) for p in powers]),
        "decay": 6 * place ** (1 + late**0.3) - 5.5 + 2.5 * zigzag,
        "strength": 0.3 * zigzag + 0.4 * slope - 0.19,
        "value": 0.73 - 0.4 * slope,
        "key_scale": jnp.stack([0.71 - 0.1 * slope, jnp.full(d_model, 1.02)]),
    }
    return {name: value.astype(dtype) for name, value in values.items()}
