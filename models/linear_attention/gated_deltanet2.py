"""Delta rules that recall by another vector than the key they write under: GDN-2 and Comba.

    S_t = (I - β_t k_t r_tᵀ) diag(α_t) S_{t-1} + β_t k_t v_tᵀ,  o_t = S_tᵀ q_t / sqrt(K)
    y = W_out (rms(o) gate)

q, k, v = silu(conv(W x)), q and k scaled to unit length.

Gated DeltaNet-2 (Hatamizadeh et al. 2026, arXiv:2605.22791) erases and writes by gates of their
own, one a channel: β = 1, r = b ⊙ k and w ⊙ v in the place of v, b = σ(W_b x), doubled with
`allow_negative_eigenvalues`, w = σ(W_w x). α per key channel and the gate are those of Kimi delta
attention; with b = w = β it is that.

Comba (Hu et al. 2025, arXiv:2506.02475) closes the loop twice: r = σ(c) k recalls less than all,
and q - d r takes from the output what is recalled; c and d are one number a head. α, β and the gate
are as in Gated DeltaNet, but for a sigmoid.

Where ours differs: keys and values are d_model / H wide by default; W_g2 of GDN-2 has no bias. r
and q - d r keep their length, which released code of Comba scales to one (c is not seen there).

With H value heads, Hk key heads (H for GDN-2), key width K, value width V: cost of L tokens in
chunks of C O(L H (C (K + V + C) + K V)); state H K V + (d_conv - 1) (2 Hk K + H V) elements per
sequence, the second term only with a convolution.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.delta_parts import DeltaMixer, DeltaState, head_sizes, strength
from seqzoo.models.linear_attention.gated_deltanet import Decay
from seqzoo.models.mixer import Context
from seqzoo.models.ops.matrix.delta_rules import gated_delta_rule


class GatedDeltaNet2(DeltaMixer):
    """The delta rule with gates of its own for erasing and writing; see the module docstring."""

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
        """Widths are d_model / num_heads where not given; d_conv = 0 leaves out the convolution.

        Raises ValueError for sizes that cannot be.
        """
        sizes = head_sizes(d_model, num_heads, None, d_key, d_value)
        keys, inner, rank = num_heads * sizes.d_key, num_heads * sizes.d_value, sizes.d_value
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
        self.in_proj = Linear(d_model, keys + inner + 2 * rank, **options)  # of b, w, α, gate
        self.decay_proj = Linear(rank, keys, **options)
        self.decay = Decay(num_heads, keys, param_dtype, rngs)
        self.gate_proj = Linear(rank, inner, **options)

    def _mix(self, x: Float[Array, "B L D"], inner: DeltaState | None, ctx: Context):
        window, s0 = (None, None) if inner is None else inner
        q, k, v, window = self.qkv(x, window, ctx.segments)
        keys, values = (z.shape[2] * z.shape[3] for z in (q, v))
        borders = [keys, keys + values, keys + values + v.shape[3]]
        erase, write, a, gate = jnp.split(self.in_proj(x), borders, axis=-1)
        erase = strength(erase, self.negative).reshape(k.shape)
        write = strength(write, False).reshape(v.shape)
        log_decay = self.decay(self.decay_proj(a)).reshape(q.shape)
        options = {"scale": self.scale, "chunk_size": self.chunk_size, "read": erase * k}
        o, s = gated_delta_rule(
            q, k, write * v, None, log_decay, s0, segment_ids=ctx.segments, **options
        )
        o = self.norm(o, self.gate_proj(gate)).astype(x.dtype)
        return self.out_proj(o), DeltaState(window, s)


class Comba(DeltaMixer):
    """The delta rule with feedback of the state and of the output; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_value_heads: int | None = None,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        correction: float = 1.0,
        allow_negative_eigenvalues: bool = False,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """See GatedDeltaNet; `correction`: d at first, where small models may do better with 0.02.

        Raises ValueError for sizes that cannot be.
        """
        sizes = head_sizes(d_model, num_heads, num_value_heads, d_key, d_value)
        heads, inner = sizes.value_heads, sizes.value_heads * sizes.d_value
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
        self.in_proj = Linear(d_model, 2 * heads, use_bias=False, **options)
        self.decay = Decay(heads, heads, param_dtype, rngs)
        self.gate_proj = Linear(d_model, inner, use_bias=False, **options)
        self.mix = nnx.Param(jnp.ones(heads, param_dtype))  # c
        self.D = nnx.Param(jnp.full(heads, correction, param_dtype), group="dynamics")

    def _mix(self, x: Float[Array, "B L D"], inner: DeltaState | None, ctx: Context):
        window, s0 = (None, None) if inner is None else inner
        q, k, v, window = self.qkv(x, window, ctx.segments)
        beta, a = jnp.split(self.in_proj(x), 2, axis=-1)
        beta, log_decay = strength(beta, self.negative), self.decay(a)[..., None]
        read = k * jax.nn.sigmoid(self.mix[...].astype(k.dtype))[:, None]
        q = q - read * self.D[...].astype(k.dtype)[:, None]
        options = {"scale": self.scale, "chunk_size": self.chunk_size, "read": read}
        o, s = gated_delta_rule(q, k, v, beta, log_decay, s0, segment_ids=ctx.segments, **options)
        o = self.norm(o, self.gate_proj(x)).astype(x.dtype)
        return self.out_proj(o), DeltaState(window, s)
