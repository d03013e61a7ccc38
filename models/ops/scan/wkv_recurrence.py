"""The WKV recurrence of RWKV-4 (Peng et al. 2023, arXiv:2305.13048), per channel.

    o_t = (a_{t-1} + e^{u + k_t} v_t) / (b_{t-1} + e^{u + k_t})
    a_t = e^{-w} a_{t-1} + e^{k_t} v_t,   b_t = e^{-w} b_{t-1} + e^{k_t}

The sums are kept in units of e^{m_t}, m_t the largest exponent met so far less its decay; given m
they are linear scans, with their linear memory and their backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import delayed
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.ops.scan.running_max import NEVER, carried, decayed_max


@stream_state
class WKVState(NamedTuple):
    """The sums are e^m numerator and e^m denominator."""

    numerator: Float[Array, "B D"]
    denominator: Float[Array, "B D"]
    m: Float[Array, "B D"]


def wkv_initial(batch_size: int, channels: int, dtype: jnp.dtype = jnp.float32) -> WKVState:
    """The state before the first token: nothing, at an exponent below all others."""
    nothing = jnp.zeros((batch_size, channels), dtype)
    return WKVState(nothing, nothing, nothing + NEVER)


@op(rows="k")
def wkv(
    k: Float[Array, "B L D"],
    v: Float[Array, "B L D"],
    log_decay: Float[Array, "D"],
    bonus: Float[Array, "D"],
    initial: WKVState | None = None,
    *,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L D"], WKVState]:
    """Averages of v weighted by e^k, which decay with distance.

    Args:
        k: log weights.
        v: values.
        log_decay: -w, at most 0.
        bonus: u, added to the log weight of the current token.
        initial: state before the first step, nothing by default.
        segment_ids: layout of the rows. Padding leaves the state, a new segment forgets it.

    Returns:
        o in the common dtype of k and v, and the state after the last real token in at least
        float32, in which everything inside is computed.

    Raises:
        ValueError: for shapes that do not fit.
    """
    _check(k, v, log_decay, bonus)
    out_dtype = jnp.result_type(k, v)
    dtype = jnp.promote_types(out_dtype, jnp.float32)
    k, v, log_decay, bonus = (x.astype(dtype) for x in (k, v, log_decay, bonus))
    layout = as_segments(segment_ids, k.shape[1])
    if initial is None:
        initial = wkv_initial(k.shape[0], k.shape[2], dtype)
    if not k.shape[1]:
        return v.astype(out_dtype), WKVState(*(s.astype(dtype) for s in initial))
    m, before = decayed_max(k, log_decay, initial.m, layout=layout)
    kept = _exp_of_sum(before - m, log_decay)
    # At padding e^{k - m} might overflow, and gradients with it.
    new = jnp.exp(jnp.where(layout.valid[..., None], k, m) - m if layout.masked else k - m)
    s0 = jnp.stack(initial[:2], axis=1).astype(dtype) * carried(initial.m)[:, None]
    ids = layout if layout.masked else None
    inputs = jnp.stack([new * v, new], axis=2)
    s = linear_scan(kept[:, :, None], inputs, s0, segment_ids=ids)
    seen = delayed(s, s0)
    top = lax.stop_gradient(jnp.maximum(before, k + bonus))
    old, own = jnp.exp(before - top), jnp.exp(k + bonus - top)
    numerator, denominator = old * seen[:, :, 0] + own * v, old * seen[:, :, 1] + own
    state = WKVState(s[:, -1, 0], s[:, -1, 1], m[:, -1])
    return (numerator / denominator).astype(out_dtype), state


def _exp_of_sum(x: Array, y: Array) -> Array:
    """e^{x + y} without the rounding of x + y: for strong decays it is of many last digits."""
    total = x + y
    rest = total - x
    lost = (x - (total - rest)) + (y - rest)  # Knuth 1969, exact
    return jnp.exp(total) * (1 + lost)


def _check(k: Array, v: Array, log_decay: Array, bonus: Array) -> None:
    if k.ndim != 3 or v.shape != k.shape:
        raise ValueError(f"wkv: k and v must have one shape [B, L, D]; got {k.shape} and {v.shape}")
    for name, x in (("log_decay", log_decay), ("bonus", bonus)):
        if x.shape != k.shape[2:]:
            raise ValueError(f"wkv: {name} must be [D] = {k.shape[2:]}; got {x.shape}")
