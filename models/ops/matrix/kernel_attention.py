"""Sums of kernel attention over a segment: o_t = φ(q_t)·Σ_s φ(k_s) v_sᵀ, causal or not."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.matrix.gated_linear import FeatureMap, gated_linear_attention


@op(rows="q")
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
    feature_map: FeatureMap | None = None,
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"] | None]:
    """o_t = Σ_s (q_t·k_s) v_s over the segment, s <= t if causal, and the state if causal.

    `log_decay` is for the causal form only; for `feature_map` and `chunk_size` see
    `gated_linear_attention`. Linear in L in time and memory.
    """
    layout = as_segments(segment_ids, q.shape[1])
    options = {"chunk_size": chunk_size, "feature_map": feature_map}
    options["segment_ids"] = layout if layout.masked else None
    if causal:
        return gated_linear_attention(q, k, v, log_decay, s0, **options)
    if not layout.masked:
        q, k = _mapped(feature_map, q, k)
        return jnp.einsum("BLHK,BHKV->BLHV", q, jnp.einsum("BSHK,BSHV->BHKV", k, v)), None
    ahead = gated_linear_attention(q, k, v, **options)[0]
    options["segment_ids"] = layout.flip()
    q, k, v = (jnp.flip(a, 1) for a in (q, k, v))
    behind = gated_linear_attention(q, k, v, read_before=True, **options)[0]
    return ahead + jnp.flip(behind, 1), None


def _mapped(feature_map: FeatureMap | None, q: Array, k: Array) -> tuple[Array, Array]:
    """Maps see heads before steps."""
    if feature_map is None:
        return q, k
    return tuple(x.swapaxes(1, 2) for x in feature_map(q.swapaxes(1, 2), k.swapaxes(1, 2)))
