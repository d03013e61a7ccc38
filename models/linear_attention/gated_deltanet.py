"""Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464) and Kimi delta attention (arXiv:2510.26692).

    S_t = (I - β_t k_t k_tᵀ) diag(α_t) S_{t-1} + β_t k_t v_tᵀ,  o_t = S_tᵀ q_t / sqrt(K)
    log α = -exp(A) softplus(a + b),  y = W_out (rms(o) gate)

q, k, v = silu(conv(W x)), q and k scaled to unit length, β = sigmoid(W_β x) per head, doubled with
`allow_negative_eigenvalues` (arXiv:2411.12537).

Gated DeltaNet (eq. 10): α is one number a head, a = W_a x, the gate silu(W_z x); several value
heads may share a head of queries and keys, as in Qwen3-Next. Kimi delta attention ("KDA"): α is one
number a key channel, a = W_f2 W_f1 x with b per channel and A per head, the gate
sigmoid(W_g2 W_g1 x), both of rank V.

With `levels` M Gated DeltaNet is log-linear (arXiv:2506.04761): S is a state for each power of two
of the past, and o_t weighs what they hold, each level by a number of its own (`levels.py`).

Where ours differs: keys and values are d_model / H wide by default, where the published Gated
DeltaNet has values twice as wide as keys; W_g2 has no bias, as in released Kimi Linear models.

With H value heads, Hk key heads, key width K, value width V: cost of L tokens in chunks of C
O(L H (C (K + V + C) + K V)); state H K V + (d_conv - 1) (2 Hk K + H V) elements per sequence, the
second term only with a convolution. With levels K V is M K V in both.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.delta_parts import DeltaMixer, DeltaState, head_sizes, strength
from seqzoo.models.linear_attention.levels import LevelWeights
from seqzoo.models.mixer import Context
from seqzoo.models.ops.matrix.delta_rules import gated_delta_rule
from seqzoo.models.ops.matrix.log_linear import log_linear_delta_rule
from seqzoo.models.ssm.mamba import dt_bias_init


class Decay(nnx.Module):
    """log α = -exp(A) softplus(a + b), with Mamba's initial rates (arXiv:2312.00752)."""

    def __init__(self, heads: int, channels: int, param_dtype: DTypeLike, rngs: nnx.Rngs):
        """`channels`: a multiple of `heads`, each of which has its own A."""
        rates = jax.random.uniform(rngs.params(), (heads,), param_dtype, 1.0, 16.0)
        self.A_log = nnx.Param(jnp.log(rates), group="dynamics")
        bias = dt_bias_init(rngs.params(), (channels,), 1e-3, 0.1, param_dtype)
        self.dt_bias = nnx.Param(bias, group="dynamics")

    def __call__(self, a: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
        """The log decay of every channel, in at least float32."""
        a = a.astype(jnp.promote_types(a.dtype, jnp.float32))
        rates = jnp.repeat(jnp.exp(self.A_log[...]), a.shape[-1] // self.A_log.shape[0])
        return -rates * jax.nn.softplus(a + self.dt_bias[...])


class GatedDeltaNet(DeltaMixer):
    """The delta rule with one decay a head; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_value_heads: int | None = None,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        allow_negative_eigenvalues: bool = False,
        levels: int = 0,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Widths are d_model / heads where not given; d_conv = 0 leaves out the convolution.

        `levels`: M, 0 for one state; 15 as published, for 32,768 tokens.

        Raises ValueError for sizes that cannot be.
        """
        sizes = head_sizes(d_model, num_heads, num_value_heads, d_key, d_value)
        heads, inner = sizes.value_heads, sizes.value_heads * sizes.d_value
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(
            d_model,
            sizes,
            gate="silu",
            d_conv=d_conv,
            allow_negative_eigenvalues=allow_negative_eigenvalues,
            norm_eps=norm_eps,
            chunk_size=chunk_size,
            levels=levels,
            **options,
        )
        self.in_proj = Linear(d_model, 2 * heads, use_bias=False, **options)
        self.decay = Decay(heads, heads, param_dtype, rngs)
        self.gate_proj = Linear(d_model, inner, use_bias=False, **options)
        self.levels = nnx.data(LevelWeights(d_model, heads, levels, **options) if levels else None)

    def _mix(self, x: Float[Array, "B L D"], inner: DeltaState | None, ctx: Context):
        window, s0 = (None, None) if inner is None else inner
        q, k, v, window = self.qkv(x, window, ctx.segments)
        beta, a = jnp.split(self.in_proj(x), 2, axis=-1)
        beta, log_decay = strength(beta, self.negative), self.decay(a)[..., None]
        options = {"scale": self.scale, "chunk_size": self.chunk_size}
        rule, weights = gated_delta_rule, ()
        if self.levels is not None:
            rule, weights = log_linear_delta_rule, (self.levels(x),)
        terms = (q, k, v, beta, *weights, log_decay, s0)
        o, s = rule(*terms, segment_ids=ctx.segments, **options)
        o = self.norm(o, self.gate_proj(x)).astype(x.dtype)
        return self.out_proj(o), DeltaState(window, s)


class KimiDeltaAttention(DeltaMixer):
    """The delta rule with one decay a key channel; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        allow_negative_eigenvalues: bool = False,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """See GatedDeltaNet."""
        sizes = head_sizes(d_model, num_heads, None, d_key, d_value)
        rank, inner = sizes.d_value, num_heads * sizes.d_value
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(
            d_model,
            sizes,
            gate="sigmoid",
            d_conv=d_conv,
            allow_negative_eigenvalues=allow_negative_eigenvalues,
            norm_eps=norm_eps,
            chunk_size=chunk_size,
            **options,
        )
        options["use_bias"] = False
        self.in_proj = Linear(d_model, num_heads + 2 * rank, **options)
        self.decay_proj = Linear(rank, num_heads * sizes.d_key, **options)
        self.decay = Decay(num_heads, num_heads * sizes.d_key, param_dtype, rngs)
        self.gate_proj = Linear(rank, inner, **options)

    def _mix(self, x: Float[Array, "B L D"], inner: DeltaState | None, ctx: Context):
        window, s0 = (None, None) if inner is None else inner
        q, k, v, window = self.qkv(x, window, ctx.segments)
        heads, rank = q.shape[2], v.shape[3]
        beta, a, gate = jnp.split(self.in_proj(x), [heads, heads + rank], axis=-1)
        log_decay = self.decay(self.decay_proj(a)).reshape(q.shape)
        beta = strength(beta, self.negative)
        options = {"scale": self.scale, "chunk_size": self.chunk_size}
        o, s = gated_delta_rule(q, k, v, beta, log_decay, s0, segment_ids=ctx.segments, **options)
        o = self.norm(o, self.gate_proj(gate)).astype(x.dtype)
        return self.out_proj(o), DeltaState(window, s)
