"""Delta rules: states that replace what they recall; chunks as in chunked_delta.py.

The gated delta rule (Yang, Kautz & Hatamizadeh 2024, arXiv:2412.06464, eq. 10):

    S_t = D_t S_{t-1} + k_t (β_t (v_t - (D_t S_{t-1})ᵀ k_t))ᵀ,  o_t = S_tᵀ q_t,  D_t = diag(α_t)

Each step replaces what the decayed state recalls for k_t, by the share β_t, with v_t. Without decay
it is the delta rule (Schlag et al. 2021, arXiv:2102.11174; in parallel form Yang et al. 2024,
arXiv:2406.06484); with one decay a channel, Kimi delta attention (arXiv:2510.26692). For |k| = 1
the factor I - β k kᵀ has the eigenvalue 1 - β along k, negative for β in (1, 2]. What is recalled
may be asked for by another vector than k (Gated DeltaNet-2, arXiv:2605.22791; Comba, 2506.02475).

The same with a diagonal plus low-rank transition (RWKV-7, Peng et al. 2025, arXiv:2503.14456):

    S_t = diag(exp(log_decay_t)) S_{t-1} + b_t (a_tᵀ S_{t-1}) + k_t v_tᵀ,  o_t = S_tᵀ q_t

The term of a reads the undecayed state. RWKV-7 has a = -κ and b = κ η with |κ| = 1. Without decay
it is the identity plus low rank form.
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
    beta: Float[Array, "B L H"] | None,
    log_decay: Float[Array, "..."] | None = None,
    s0: Float[Array, "B H K V"] | None = None,
    *,
    read: Float[Array, "B L H K"] | None = None,
    scale: float = 1.0,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"]]:
    """o_t = scale S_tᵀ q_t with S_t = S + k_t (β_t (v_t - Sᵀ k_t))ᵀ, S = diag(α_t) S_{t-1}.

    Args:
        q: queries.
        k: keys, of norm at most about 1: the state grows without bound where β |k|² exceeds 2.
        v: values.
        beta: share of the correction that is made; None: all of it.
        log_decay: log α, at most 0, broadcasts to [B, L, H, K]; a last axis of size 1 is one decay
            a head (cheaper). None: no decay.
        s0: state before the first step, zero by default.
        read: what stands in the place of k in Sᵀ k, with the same bound; k by default.
        scale: factor on the outputs.
        chunk_size: steps per chunk, rounded up to a power of two; results do not depend on it.
        segment_ids: layout of the rows. Padding leaves the state, a new segment forgets it.

    Returns:
        o in the common dtype of q, k and v, and the state after the last real token in at least
        float32, in which everything inside is computed.

    Raises:
        ValueError: for shapes that do not fit or a chunk size below 1.
    """
    read = k if read is None else read
    check("gated_delta_rule", q, {"k": k, "read": read}, v, log_decay, s0, chunk_size)
    if beta is not None and beta.shape != q.shape[:3]:
        raise ValueError(
            f"gated_delta_rule: beta must be [B, L, H] = {q.shape[:3]}; got {beta.shape}"
        )
    dtype = jnp.result_type(q, k, v)
    read, k = (z.astype(jnp.promote_types(dtype, jnp.float32)) for z in (read, k))
    write = k if beta is None else beta[..., None] * k
    inputs = Inputs(q, -read, write, v, None, None, log_decay)
    layout = as_segments(segment_ids, q.shape[1])
    o, s_last = chunked_delta(inputs, s0, layout, chunk_size=chunk_size, before=False)
    return (scale * o).astype(dtype), s_last


@op(rows="q")
def dplr_delta_rule(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H V"],
    a: Float[Array, "B L H K"],
    b: Float[Array, "B L H K"],
    log_decay: Float[Array, "..."] | None,
    s0: Float[Array, "B H K V"] | None = None,
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"]]:
    """o_t = scale S_tᵀ q_t with S_t = diag(exp(log_decay_t)) S_{t-1} + b_t a_tᵀ S_{t-1} + k_t v_tᵀ.

    Args:
        q: queries.
        k: keys of the values.
        v: values.
        a: what the transition reads, from the undecayed state.
        b: where it writes what it has read.
        log_decay: at most 0, broadcasts to [B, L, H, K]; a last axis of size 1 is one decay a head
            (cheaper). None: no decay.
        s0: state before the first step, zero by default.
        scale: factor on the outputs.
        chunk_size: steps per chunk, rounded up to a power of two.
        segment_ids: layout of the rows.

    What is returned and raised is as of `gated_delta_rule`.
    """
    check("dplr_delta_rule", q, {"k": k, "a": a, "b": b}, v, log_decay, s0, chunk_size)
    inputs = Inputs(q, a, b, None, k, v, log_decay)
    layout = as_segments(segment_ids, q.shape[1])
    o, s_last = chunked_delta(inputs, s0, layout, chunk_size=chunk_size, before=True)
    return (scale * o).astype(jnp.result_type(q, k, v)), s_last
