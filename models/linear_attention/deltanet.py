"""DeltaNet (Yang et al. 2024, arXiv:2406.06484) and DeltaProduct (Siems et al. 2025).

    S_t = (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ,  o_t = S_tᵀ q_t / sqrt(K)     (DeltaNet, eq. 4)
    y = W_out rms(o)

q, k, v = silu(conv(W x)), q and k scaled to unit length, β = sigmoid(W_β x) per head. With
`allow_negative_eigenvalues` β = 2 sigmoid(.), so that the transition can reflect and count modulo
two (Grazzi et al. 2024, arXiv:2411.12537).

DeltaProduct (arXiv:2502.10297) makes n = `num_householders` such steps per token, each with its
own k, v and β, after one decay S <- α_t S if it is `gated`, α = exp(-exp(A) softplus(w x + b)) per
head; its products of reflections reach rotations and permutations of n + 1 elements.

Where ours differs: keys and values are as wide as each other by default, d_model / H; DeltaNet has
no output gate, which the authors have as an option; DeltaProduct divides by sqrt(K) too, which the
norm undoes up to its eps.

With H heads of key width K and value width V: cost of L tokens in chunks of C
O(n L H (C (K + V + C) + K V)); state H K V + (d_conv - 1) H (K + n (K + V)) elements per sequence,
the second term only with a convolution (n = 1 for DeltaNet).
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
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.matrix.delta_rules import gated_delta_rule


class DeltaNet(DeltaMixer):
    """The delta rule with a short convolution; see the module docstring."""

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
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(
            d_model,
            head_sizes(d_model, num_heads, None, d_key, d_value),
            gate="none",
            d_conv=d_conv,
            allow_negative_eigenvalues=allow_negative_eigenvalues,
            norm_eps=norm_eps,
            chunk_size=chunk_size,
            **options,
        )
        self.in_proj = Linear(d_model, num_heads, use_bias=False, **options)

    def _mix(self, x: Float[Array, "B L D"], inner: DeltaState | None, ctx: Context):
        window, s0 = (None, None) if inner is None else inner
        q, k, v, window = self.qkv(x, window, ctx.segments)
        beta = strength(self.in_proj(x), self.negative)
        options = {"scale": self.scale, "chunk_size": self.chunk_size}
        o, s = gated_delta_rule(q, k, v, beta, None, s0, segment_ids=ctx.segments, **options)
        return self.out_proj(self.norm(o)), DeltaState(window, s)


class DeltaProduct(DeltaMixer):
    """Several delta steps per token; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_householders: int = 2,
        d_key: int | None = None,
        d_value: int | None = None,
        d_conv: int = 4,
        allow_negative_eigenvalues: bool = True,
        gated: bool = False,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """See DeltaNet; chunk_size counts the steps, num_householders per token."""
        if num_householders < 1:
            raise ValueError(f"num_householders must be at least 1; got {num_householders}")
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(
            d_model,
            head_sizes(d_model, num_heads, None, d_key, d_value),
            gate="none",
            d_conv=d_conv,
            allow_negative_eigenvalues=allow_negative_eigenvalues,
            norm_eps=norm_eps,
            chunk_size=chunk_size,
            steps=num_householders,
            **options,
        )
        self.steps = num_householders
        width = num_heads * (num_householders + gated)
        self.in_proj = Linear(d_model, width, use_bias=False, **options)
        self.decay = Decay(num_heads, num_heads, param_dtype, rngs) if gated else None

    def _mix(self, x: Float[Array, "B L D"], inner: DeltaState | None, ctx: Context):
        window, s0 = (None, None) if inner is None else inner
        q, k, v, window = self.qkv(x, window, ctx.segments)
        heads, n = q.shape[2], self.steps
        logits = self.in_proj(x)
        beta = strength(logits[..., : heads * n], self.negative)
        beta = beta.reshape(*k.shape[:2], heads)
        log_decay = None
        if self.decay is not None:
            log_decay = first_of(self.decay(logits[..., heads * n :]), n)[..., None]
        o, s = gated_delta_rule(
            jnp.repeat(q, n, axis=1),
            k,
            v,
            beta,
            log_decay,
            s0,
            scale=self.scale,
            chunk_size=self.chunk_size,
            segment_ids=repeated(ctx.segments, n),
        )
        o = self.norm(o[:, n - 1 :: n])  # what all steps of a token have made
        return self.out_proj(o), DeltaState(window, s)


def first_of(log_decay: Float[Array, "B L H"], steps: int) -> Float[Array, "B L*steps H"]:
    """The decay before the first of a token's steps; none before the others."""
    padded = jnp.pad(log_decay[:, :, None], ((0, 0), (0, 0), (0, steps - 1), (0, 0)))
    return padded.reshape(log_decay.shape[0], -1, log_decay.shape[-1])


def repeated(layout: Segments, steps: int) -> Segments:
    """The layout of rows with that many steps for each token."""
    return jax.tree.map(lambda x: jnp.repeat(x, steps, axis=1), layout)
