"""Gated linear attention (Yang et al. 2024, arXiv:2312.06635), with a gate per channel or per head.

    S_t = diag(α_t) S_{t-1} + k_t v_tᵀ,  o_t = S_tᵀ q_t / sqrt(K)       (their section 4)
    log α_t = logsigmoid(a_t + b) / τ,   y_t = W_out (rms(o_t) scale * silu(W_g x_t))

GLA: a = W_2 W_1 x per key channel through a low rank; keys are half as wide as values by default.
Simple GLA: a = W_a x is one number per head, as in Mamba-2 and gated retention (arXiv:2405.05254),
which makes the chunks much cheaper; keys are as wide as values. Where ours differs: the norm of a
head is an RMS norm with one scale for all heads and the output's gate has no bias, as in
flash-linear-attention; b belongs to the slower parameters of the dynamics.

Cost of L tokens in chunks of C: O(L C (K + V) + L K V) per head. State: H K V elements per
sequence.
"""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.delta_parts import HeadNorm, HeadSizes
from seqzoo.models.linear_attention.matrix_state import MatrixState, matrix_sizes
from seqzoo.models.mixer import Context


class _Gated(MatrixState):
    """Both forms; a subclass gives the gate's logits."""

    def __init__(
        self,
        d_model: int,
        sizes: HeadSizes,
        gates: int,
        *,
        temperature: float,
        norm_eps: float,
        chunk_size: int | None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if not temperature > 0:
            raise ValueError(f"temperature divides the log decay and is above 0; got {temperature}")
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, sizes, chunk_size, **options)
        self.temperature = temperature
        self.decay = nnx.Param(jnp.zeros(gates, param_dtype), group="dynamics")
        inner = sizes.heads * sizes.d_value
        self.gate_proj = Linear(d_model, inner, use_bias=False, **options)
        self.norm = HeadNorm(sizes.d_value, "silu", eps=norm_eps, param_dtype=param_dtype)

    @abc.abstractmethod
    def _logits(self, x: Float[Array, "B L D"]) -> Float[Array, "B L E"]:
        """Before the bias: one per head, or one per key channel."""

    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        q, k, v = (self._heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        a = self._logits(x)
        a = a.astype(jnp.promote_types(a.dtype, jnp.float32)) + self.decay[...]
        log_decay = self._heads(jax.nn.log_sigmoid(a) / self.temperature)
        o, s = self._recur(q, k, v, log_decay, inner, ctx, scale=self.sizes.d_key**-0.5)
        return self.out_proj(self.norm(o, self.gate_proj(x))), s


class SimpleGLA(_Gated):
    """One gate per head; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int | None = None,
        d_value: int | None = None,
        temperature: float = 16.0,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Widths are d_model / num_heads by default; `temperature` is τ, above 0.

        Raises ValueError for sizes that cannot be.
        """
        sizes = matrix_sizes(d_model, num_heads, d_key, d_value)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        more = {"temperature": temperature, "norm_eps": norm_eps, "chunk_size": chunk_size}
        super().__init__(d_model, sizes, num_heads, **more, **options)
        self.decay_proj = Linear(d_model, num_heads, use_bias=False, **options)

    def _logits(self, x: Float[Array, "B L D"]) -> Float[Array, "B L H"]:
        return self.decay_proj(x)


class GLA(_Gated):
    """One gate per key channel; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int | None = None,
        d_value: int | None = None,
        gate_rank: int = 16,
        temperature: float = 16.0,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_value` is d_model / num_heads by default, `d_key` half of that.

        `temperature` is τ, above 0. Raises ValueError for sizes that cannot be.
        """
        sizes = matrix_sizes(d_model, num_heads, d_key, d_value, key_factor=0.5)
        if gate_rank < 1:
            raise ValueError(f"gate_rank must be at least 1; got {gate_rank}")
        channels = num_heads * sizes.d_key
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        more = {"temperature": temperature, "norm_eps": norm_eps, "chunk_size": chunk_size}
        super().__init__(d_model, sizes, channels, **more, **options)
        self.in_proj = Linear(d_model, gate_rank, use_bias=False, **options)
        self.decay_proj = Linear(gate_rank, channels, use_bias=False, **options)

    def _logits(self, x: Float[Array, "B L D"]) -> Float[Array, "B L H*K"]:
        return self.decay_proj(self.in_proj(x))
