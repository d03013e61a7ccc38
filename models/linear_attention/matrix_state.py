"""What the mixers share whose whole state is a matrix per head, S_t = diag(α_t) S_{t-1} + k vᵀ."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.delta_parts import HeadSizes, head_sizes
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention


def matrix_sizes(
    d_model: int,
    num_heads: int,
    d_key: int | None,
    d_value: int | None,
    *,
    key_factor: float = 1.0,
    value_factor: float = 1.0,
) -> HeadSizes:
    """Widths where not given are `factor` d_model / heads. Raises ValueError for what cannot be."""
    sizes = head_sizes(d_model, num_heads, None, d_key, d_value)
    if d_key is None:
        sizes = sizes._replace(d_key=max(1, int(key_factor * sizes.d_key)))
    if d_value is None:
        sizes = sizes._replace(d_value=max(1, int(value_factor * sizes.d_value)))
    return sizes


def head_layer_norm(
    o: Float[Array, "B L H V"],
    scale: Float[Array, "H*V"],
    bias: Float[Array, "H*V"] | None,
    eps: float,
) -> Float[Array, "B L H*V"]:
    """Layer norm of every head's outputs, in at least float32."""
    o = o.astype(jnp.promote_types(o.dtype, jnp.float32))
    o = o - jnp.mean(o, axis=-1, keepdims=True)
    o = o * jax.lax.rsqrt(jnp.mean(o**2, axis=-1, keepdims=True) + eps)
    o = o.reshape(*o.shape[:2], -1) * scale
    return o if bias is None else o + bias


class MatrixState(Mixer):
    """Projections to q, k and v, and the recurrence; a subclass adds features, decay and output."""

    def __init__(
        self,
        d_model: int,
        sizes: HeadSizes,
        chunk_size: int | None,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """No projection has a bias."""
        self.sizes, self.chunk_size = sizes, chunk_size
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        heads, _, d_key, d_value = sizes
        self.q_proj = Linear(d_model, heads * d_key, **options)
        self.k_proj = Linear(d_model, heads * d_key, **options)
        self.v_proj = Linear(d_model, heads * d_value, **options)
        self.out_proj = Linear(heads * d_value, d_model, **options)

    def _initial(self, batch_size: int) -> Float[Array, "B H K V"]:
        heads, _, d_key, d_value = self.sizes
        shape = (batch_size, heads, d_key, d_value)
        return jnp.zeros(shape, self.wide)

    def state_size(self) -> int:
        """H K V."""
        return self.sizes.heads * self.sizes.d_key * self.sizes.d_value

    def _heads(self, x: Float[Array, "B L E"]) -> Float[Array, "B L H E/H"]:
        return x.reshape(*x.shape[:2], self.sizes.heads, -1)

    def _recur(self, q, k, v, log_decay, s0, ctx: Context, *, scale: float = 1.0):
        return gated_linear_attention(
            q,
            k,
            v,
            log_decay,
            s0,
            scale=scale,
            chunk_size=self.chunk_size,
            segment_ids=ctx.segments,
        )
