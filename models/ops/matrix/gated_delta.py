"""The gated delta rule (Yang, Kautz & Hatamizadeh 2024, arXiv:2412.06464, eq. 10).

    S_t = D_t S_{t-1} + k_t (β_t (v_t - (D_t S_{t-1})ᵀ k_t))ᵀ,  o_t = S_tᵀ q_t,  D_t = diag(α_t)

Each step replaces what the decayed state recalls for k_t, by the share β_t, with v_t. Without decay
it is the delta rule (Schlag et al. 2021, arXiv:2102.11174; in parallel form Yang et al. 2024,
arXiv:2406.06484); with one decay a channel, Kimi delta attention (arXiv:2510.26692). For |k| = 1
the factor I - β k kᵀ has the eigenvalue 1 - β along k, negative for β in (1, 2].
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.matrix.chunked_delta import Inputs, check, chunked_delta


@op(rows="q")
def gated_delta_rule(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H V"],
    beta: Float[Array, "B L H"],
    log_decay: Float[Array, "..."] | None = None,
    s0: Float[Array, "B H K V"] | None = None,
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"]]:
    """o_t = scale S_tᵀ q_t with S_t = S + k_t (β_t (v_t - Sᵀ k_t))ᵀ, S = diag(α_t) S_{t-1}.

    Args:
        q: queries.
        k: keys, of norm at most about 1: the state grows without bound where β |k|² exceeds 2.
        v: values.
        beta: share of the correction that is made.
        log_decay: log α, at most 0, broadcasts to [B, L, H, K]; a last axis of size 1 is one decay
            a head (cheaper). None: no decay.
        s0: state before the first step, zero by default.
        scale: factor on the outputs.
        chunk_size: steps per chunk, rounded up to a power of two; results do not depend on it.
        segment_ids: layout of the rows. Padding leaves the state, a new segment forgets it.

    Returns:
        o in the common dtype of q, k and v, and the state after the last real token in at least
        float32, in which everything inside is computed.

    Raises:
        ValueError: for shapes that do not fit or a chunk size below 1.
    """
    check("gated_delta_rule", q, {"k": k}, v, log_decay, s0, chunk_size)
    if beta.shape != q.shape[:3]:
        raise ValueError(
            f"gated_delta_rule: beta must be [B, L, H] = {q.shape[:3]}; got {beta.shape}"
        )
    out_dtype = jnp.result_type(q, k, v)
    k = k.astype(jnp.promote_types(out_dtype, jnp.float32))
    inputs = Inputs(q, -k, beta[..., None] * k, v, None, None, log_decay)
    layout = as_segments(segment_ids, q.shape[1])
    o, s_last = chunked_delta(inputs, s0, layout, chunk_size=chunk_size, before=False)
    return (scale * o).astype(out_dtype), s_last
