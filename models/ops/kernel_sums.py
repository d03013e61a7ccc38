"""Sums of kernel attention over a segment: o_t = φ(q_t)·Σ_s φ(k_s) v_sᵀ, causal or not."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.gated_linear_attention import gated_linear_attention
from seqzoo.models.ops.segments import Segments, as_segments


def kernel_sums(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H V"],
    s0: Float[Array, "B H K V"] | None = None,
    *,
    causal: bool,
    log_decay: Float[Array, "..."] | None = None,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"] | None]:
    """o_t = Σ_s (q_t·k_s) v_s over the segment, s <= t if causal, and the state if causal.

    `log_decay` is for the causal form only. Linear in L in time and memory.
    """
    layout = as_segments(segment_ids, q.shape[1])
    options = {"segment_ids": layout if layout.masked else None, "chunk_size": chunk_size}
    if causal:
        return gated_linear_attention(q, k, v, log_decay, s0, **options)
    if not layout.masked:
        return jnp.einsum("BLHK,BHKV->BLHV", q, jnp.einsum("BSHK,BSHV->BHKV", k, v)), None
    ahead = gated_linear_attention(q, k, v, **options)[0]
    options["segment_ids"] = layout.flip()
    q, k, v = (jnp.flip(a, 1) for a in (q, k, v))
    behind = gated_linear_attention(q, k, v, read_before=True, **options)[0]
    return ahead + jnp.flip(behind, 1), None
