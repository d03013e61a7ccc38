"""Linear attention with decay: S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ, o_t = S_tᵀ q_t.

Computed in chunks by matrix products (Yang et al. 2024, arXiv:2312.06635; Dao and Gu 2024,
arXiv:2405.21060). With D_ts the decay over the steps after s up to t, in a chunk of C steps that
began with S,

    o_t = Sᵀ(D_t0 q_t) + Σ_{s≤t} (q_t · D_ts k_s) v_s,   S' = D_C0 S + Σ_s (D_Cs k_s) v_sᵀ.

Products under decay and the sums in them are those of `decayed_pairs.py`, which keep the precision
of the dtype for decays of any strength.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.cpu import last_column_apart
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence, decayed
from seqzoo.models.ops.matrix.chunks import Affine, ChunkMap, check_decays, decays, over_chunks
from seqzoo.models.ops.matrix.decayed_pairs import (
    Masks,
    PerHead,
    Reader,
    at_borders,
    decayed_pairs,
    for_heads,
)

FeatureMap = Callable[[Array, Array], tuple[Array, Array]]

# Within a chunk of C steps a token costs C (K + V) multiplications, across chunks 2 K V: the
# harmonic mean of K and V balances them. On CPU (B=4, L=2048, float32, one decay a head, forward
# and backward) against chunks of 64 those of 32 take 0.8 of the time for K=V=32 and 0.95 for K=32,
# V=64, those of 128 the same for K=V=128 and 1.15 for K=V=64; the compiler for a v5e expects 0.7
# for K=V=128. Several chunks in one step of the loop take as long as one after the other.
SMALLEST, LARGEST = 32, 128


@op(rows="q")
def gated_linear_attention(
    q: Float[Array, "B L G K"],
    k: Float[Array, "B L G K"],
    v: Float[Array, "B L H V"],
    log_decay: Float[Array, "..."] | None = None,
    s0: Float[Array, "B H K V"] | None = None,
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
    read_before: bool = False,
    bonus: Float[Array, "H K"] | None = None,
    feature_map: FeatureMap | None = None,
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"]]:
    """o_t = scale S_tᵀ q_t with S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ.

    Args:
        q: queries, of H heads or of fewer, G, that divide H: head h of v then reads group
            h // (H / G), and scores without decays per channel are made once a group.
        k: keys, of q's shape.
        v: values; a column of ones appended to them makes o's last column the normaliser q · Σ k.
        log_decay: at most 0, broadcasts to [B, L, H, K]; a last axis of size 1 is one decay a head
            (much cheaper). None: no decay.
        s0: state before the first step, zero by default.
        scale: factor on the outputs.
        chunk_size: steps per chunk, rounded up a little; results do not depend on it.
        segment_ids: layout of the rows. Padding leaves the state, a new segment forgets it.
        read_before: o_t reads S_{t-1} instead of S_t (RWKV-6, arXiv:2404.05892).
        bonus: with `read_before`, weight per key channel of the current step:
            o_t += scale (q_t · bonus k_t) v_t.
        feature_map: q and k of some steps, [B, H, C, ...], to what stands for them in the
            equations, [B, H, C, K]. It is applied chunk by chunk, and again in the backward pass,
            so that features wider than q and k are never kept. Without it q and k have one shape.

    Returns:
        o in the common dtype of q, k and v, and the state after the last real token in at least
        float32, in which everything inside is computed.

    Raises:
        ValueError: for shapes that do not fit, a chunk size below 1, a bonus without
            `read_before` or with a feature map.
    """
    _check_inputs(q, k, v, chunk_size, bonus, read_before, feature_map)
    batch, length, groups, _ = q.shape
    heads, keys = v.shape[2], _feature_width(q, k, feature_map)
    _check_state(q, v, keys, log_decay, s0)
    out_dtype = jnp.result_type(q, k, v)
    dtype = jnp.promote_types(out_dtype, jnp.float32)
    layout = as_segments(segment_ids, length)
    g = None if log_decay is None else decays(log_decay, length, heads, dtype)
    if layout.masked:
        valid = layout.valid[:, :, None, None]
        k, v = (k, jnp.where(valid, v, 0)) if feature_map else (jnp.where(valid, k, 0), v)
        g = None if g is None else jnp.where(valid, g, 0)
    shape = (batch, heads, keys, v.shape[-1])
    s0 = jnp.zeros(shape, dtype) if s0 is None else s0.astype(jnp.promote_types(s0.dtype, dtype))
    if not length:
        return v.astype(out_dtype), s0
    size = chunk_size or default_chunk(keys, v.shape[-1])
    o, s_last = _ROWS((size, read_before, feature_map), (q, k, v, g, layout), s0)
    if bonus is not None:
        q, k = (jnp.repeat(x, heads // groups, axis=2) for x in (q, k))
        o = o + jnp.sum(q.astype(dtype) * bonus * k, axis=-1, keepdims=True) * v
    return (scale * o).astype(out_dtype), s_last


def default_chunk(keys: int, values: int) -> int:
    """Steps per chunk for heads of K keys and V values, a power of two."""
    balanced = 2 * keys * values / (keys + values)
    return min(max(2 ** round(math.log2(balanced)), SMALLEST), LARGEST)


def _fail(message: str) -> None:
    raise ValueError(f"gated_linear_attention: {message}")


def _check_inputs(q, k, v, chunk_size, bonus, read_before, feature_map) -> None:
    same = k.shape[:3] == q.shape[:3] if feature_map else k.shape == q.shape
    if q.ndim != 4 or k.ndim != 4 or not same:
        _fail(f"q and k must have one shape [B, L, H, K]; got {q.shape} and {k.shape}")
    if v.ndim != 4 or v.shape[:2] != q.shape[:2] or v.shape[2] % q.shape[2]:
        _fail(
            f"v must be [B, L, H, V] with q's {q.shape[:2]} and H a multiple of its heads; got "
            f"{v.shape} for q {q.shape}"
        )
    if chunk_size is not None and chunk_size < 1:
        _fail(f"chunk_size must be at least 1; got {chunk_size}")
    if bonus is not None and not read_before:
        _fail("bonus weights the current step, which only read_before=True leaves out")
    if bonus is not None and feature_map:
        _fail("bonus weights channels of keys as they are; a feature map leaves none of them")


def _check_state(q, v, keys: int, log_decay, s0) -> None:
    heads = v.shape[2]
    check_decays("gated_linear_attention", log_decay, (*q.shape[:2], heads, keys))
    state = (q.shape[0], heads, keys, v.shape[3])
    if s0 is not None and s0.shape != state:
        _fail(f"s0 must be [B, H, K, V] = {state}; got {s0.shape}")


def _feature_width(q: Array, k: Array, feature_map: FeatureMap | None) -> int:
    if feature_map is None:
        return q.shape[-1]
    q, k = (jax.ShapeDtypeStruct((x.shape[0], x.shape[2], 1, x.shape[3]), x.dtype) for x in (q, k))
    widths = {x.shape[-1] for x in jax.eval_shape(feature_map, q, k)}
    if len(widths) > 1:
        _fail(f"a feature map must give q and k one width; got {sorted(widths)}")
    return widths.pop()


def _rows(shared: tuple, inputs: tuple, s0: Array) -> tuple[Array, Array]:
    """All chunks of rows of q, k, v, g, which may be None, and their layout."""
    values, g = inputs[2].shape[-1], inputs[3]
    together = functools.partial(_in_columns, *shared, (values,))
    widths = last_column_apart(values)
    if len(widths) == 1 or (g is not None and g.shape[-1] > 1):
        return together(inputs, s0)
    apart = functools.partial(_in_columns, *shared, widths)
    return forms.run("normaliser", {"together": together, "apart": apart}, inputs, s0)


def _summarize(shared: tuple, inputs: tuple, nothing: Array) -> tuple[Array, Array]:
    *_, g, layout = inputs
    own = _rows(shared, inputs, nothing)[1]
    kept = jnp.ones((len(nothing), 1, 1, 1), own.dtype)
    if g is not None:
        kept = jnp.exp(g.sum(1))[..., None].astype(own.dtype)
    if not layout.masked:
        return jnp.broadcast_to(kept, (len(nothing), *kept.shape[1:])), own
    return jnp.where((layout.run[:, -1] == 0)[:, None, None, None], kept, 0), own


_ROWS = Recurrence(_rows, _summarize, decayed)


def _in_columns(
    most: int,
    read_before: bool,
    feature_map: FeatureMap | None,
    widths: tuple[int, ...],
    inputs: tuple,
    s0: Array,
) -> tuple[Array, Array]:
    """`_rows`, with products apart for so many columns of v each."""
    q, k, v, g, layout = inputs
    chunk = functools.partial(_chunk, read_before, feature_map, s0.dtype)
    rows = q, k, _columns(v, widths)
    on_chip = feature_map is None
    s_last, o = over_chunks(chunk, _columns(s0, widths), rows, g, layout, most, kernel=on_chip)
    return jnp.concatenate(o, -1), jnp.concatenate(s_last, -1)


def _columns(x: Array, widths: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(jnp.split(x, list(itertools.accumulate(widths))[:-1], axis=-1))


def _chunk(
    read_before: bool,
    feature_map: FeatureMap | None,
    dtype: DTypeLike,
    rows: tuple,
    g: PerHead | Array | None,
    masks: Masks | None,
) -> Affine:
    """What one chunk does to the state, by columns of v."""
    q, k, v = rows
    q, k, *v = (x.astype(dtype) for x in (q, k, *v))
    q, k = feature_map(q, k) if feature_map else (q, k)
    heads = 1 if v[0].ndim == 2 else v[0].shape[1]
    own = chunk_map(q, k, g, masks, heads, read_before=read_before)
    add, within = (tuple(m @ y for y in v) for m in (own.write, own.within))
    return Affine(own.keep, add, own.read, within)


def chunk_map(
    q: Float[Array, "B G C K"],
    k: Float[Array, "B G C K"],
    g: PerHead | Float[Array, "B H C K"] | None,
    masks: Masks | None,
    heads: int,
    *,
    read_before: bool = False,
) -> ChunkMap:
    """What one chunk does to the state and to its values, for each of `heads`."""
    reader = Reader(q, own=not read_before, before=read_before)
    pairs = at_borders(decayed_pairs([reader], [k], g), masks)
    [[within]], [reads], [writes] = pairs.products, pairs.reads, pairs.writes
    within, reads, writes = (for_heads(x, heads) for x in (within, reads, writes))
    return ChunkMap(pairs.whole, reads, within, jnp.swapaxes(writes, -1, -2))
