"""Softmax attention with segments, windows, grouped queries and caches.

For few queries the dense form runs. Else blocks of scores are made, used and forgotten
(models/ops/softmax/blockwise.py), so that memory is linear in the length.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments, compact
from seqzoo.models.ops.layout.sequence_parallel import parts
from seqzoo.models.ops.softmax.blockwise import blockwise
from seqzoo.models.ops.softmax.masks import LOW, Operands, Rule, Side, Sight, visible
from seqzoo.models.ops.softmax.over_devices import over_devices
from seqzoo.models.ops.softmax.relative import Relative, Terms

# Forward and backward on CPU, float32, causal: at L = S = 64 both forms take the same time; at 512
# the dense one takes three times as long, at 1024 eight times.
DENSE_LENGTH = 64  # of the longer side
DENSE_QUERIES = 16  # with any number of keys, so that memory is still linear


@op(rows="q")
def attention(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B S Hkv K"],
    v: Float[Array, "B S Hkv V"],
    *,
    bias: Float[Array, "#B #H #L #S"] | None = None,
    relative: Relative | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    q_positions: Int[Array, "#B L"] | Int[Array, "L"] | None = None,
    k_positions: Int[Array, "#B S"] | Int[Array, "S"] | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
    k_segment_ids: Int[Array, "B S"] | None = None,
) -> Float[Array, "B L H V"]:
    """o_t = Σ_s softmax_s(scale q_t·k_s + bias_ts) v_s over the visible keys s; 0 without any.

    Vaswani et al. 2017 (arXiv:1706.03762), eq. 1; in blocks as Dao et al. 2022 (arXiv:2205.14135).
    A key is visible if it is of the query's segment, with `causal` not later than the query, and
    with `window` less than `window` positions before it (nor, if not causal, as many after it).
    Softmax is at least float32. Time O(L S K), or O(L window K) where positions are left out;
    memory beyond the arguments O(L + S) for long L or S.

    Args:
        q: queries; head h reads key head h // (H / Hkv).
        k: keys.
        v: values.
        bias: added to the scaled scores; broadcasts to [B, H, L, S].
        relative: a term of the scores that depends on the distance t - s in positions, made block
            by block (models/ops/softmax/relative.py); padding and other segments are not counted.
        causal: whether queries see no later key.
        window: how many positions a query sees on a side, its own counted; None for all.
        scale: of the scores; K^-0.5 by default.
        q_positions: what `causal` and `window` compare. By default the index, where padding is left
            out of the count.
        k_positions: the same for keys.
        segment_ids: of queries and keys alike, S = L; or, with `k_segment_ids`, tags to compare.
        k_segment_ids: tags of the keys, one tag for one segment, 0 for a key that nobody sees (an
            empty slot of a cache).

    Raises:
        ValueError: shapes do not match, window < 1, or the segments of one side are missing.
    """
    _check(q, k, v, window)
    if bias is not None:
        bias = _four_axes(bias, (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
    dtype = jnp.result_type(q, k, v)
    if not q.shape[1] or not k.shape[1]:
        return jnp.zeros((*q.shape[:3], v.shape[3]), dtype)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    by_index = q_positions is None and k_positions is None
    tags, k_tags, layout = _tags(q, k, segment_ids, k_segment_ids)
    dense = max(q.shape[1], k.shape[1]) <= DENSE_LENGTH or q.shape[1] <= DENSE_QUERIES
    counts = window is not None or relative is not None  # padding must not be counted
    if by_index and counts and layout is not None:
        if bias is None and not dense and parts(q.shape[1]) == 1:
            options = {"causal": causal, "window": window, "scale": scale}
            return _compactly(q, k, v, relative, layout, **options)
        q_positions = k_positions = layout.position
        by_index = False
    sight = Sight(
        Side(_positions(q_positions, q, "q_positions"), tags),
        Side(_positions(k_positions, k, "k_positions"), k_tags),
    )
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    if jnp.finfo(dtype).bits >= 32:  # fewer products than scaling scores, and no rounding to fear
        q, scale = q * jnp.asarray(scale, dtype), 1.0
    term, terms = relative or (None, Terms())
    operands = Operands(q, k, v, bias, terms)
    rule = Rule(causal, window, by_index, term)
    return over_devices(_dense if dense else blockwise, rule, float(scale), operands, sight)


def _dense(rule: Rule, scale: float, operands: Operands, sight: Sight) -> Array:
    """All scores at once; differentiated as it stands."""
    q, k, v, bias, terms = operands
    batch, length, heads, width = q.shape
    apart = (batch, k.shape[2], heads // k.shape[2])
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = q.reshape(batch, length, *apart[1:], width)
    s = jnp.einsum("blhgk,bshk->bhgls", q, k, preferred_element_type=wide)
    s = s.reshape(batch, heads, length, k.shape[1]) * scale
    if bias is not None:
        s = s + bias.astype(wide)
    if rule.term is not None:
        ahead = sight.queries.positions[:, :, None] - sight.keys.positions[:, None]
        shared, *rows = terms
        rows = (None if row is None else row.swapaxes(1, 2) for row in rows)
        s = s + rule.term(shared, *rows, ahead).astype(wide)
    seen = visible(rule, *sight)
    p = _weights(s, None if seen is None else seen[:, None]).astype(v.dtype)
    o = jnp.einsum("bhgls,bshv->blhgv", p.reshape(*apart, *p.shape[2:]), v)
    return o.reshape(batch, length, heads, -1)


def _weights(s: Float[Array, "B H L S"], seen: Bool[Array, "#B 1 L S"] | None) -> Array:
    """Softmax over visible keys, zero where there is none."""
    if seen is not None:
        s = jnp.where(seen, s, LOW)
    top = jax.lax.stop_gradient(s.max(-1, keepdims=True))
    p = jnp.exp(s - jnp.where(top > LOW / 2, top, 0))
    total = p.sum(-1, keepdims=True)
    return p / jnp.where(total > 0, total, 1)


def _compactly(
    q: Array, k: Array, v: Array, relative: Relative | None, layout: Segments, **options
) -> Array:
    """Real tokens first: distances are those of indices, and blocks out of sight are skipped."""
    rows = compact(layout)
    if relative is not None:
        shared, *by_token = relative.terms
        packed = (None if row is None else rows.pack(row) for row in by_token)
        relative = relative._replace(terms=Terms(shared, *packed))
    tags = _layout_tags(rows.segments)
    return rows.unpack(
        attention(
            rows.pack(q),
            rows.pack(k),
            rows.pack(v),
            relative=relative,
            **options,
            segment_ids=tags,
            k_segment_ids=tags,
        )
    )


def _layout_tags(layout: Segments) -> Int[Array, "B L"]:
    return jnp.where(layout.valid, layout.run + 1, 0)


def _tags(
    q: Array, k: Array, segment_ids: Array | Segments | None, k_segment_ids: Array | None
) -> tuple[Array | None, Array | None, Segments | None]:
    """Tags of both sides, and the layout that both have in common, if it has padding or borders."""
    length, keys = q.shape[1], k.shape[1]
    if k_segment_ids is not None:
        if segment_ids is None:
            raise ValueError(
                "attention: k_segment_ids came without segment_ids; give both, tags of the "
                "queries and of the keys"
            )
        if isinstance(segment_ids, Segments):
            masked = segment_ids.masked
            ones = jnp.ones((1, length), k_segment_ids.dtype)
            segment_ids = _layout_tags(segment_ids) if masked else ones
        return segment_ids, k_segment_ids, None
    layout = as_segments(segment_ids, length)
    if not layout.masked:
        return None, None, None
    if keys != length:
        raise ValueError(
            f"attention: segment_ids describe L={length} queries but not S={keys} keys; give "
            "k_segment_ids too, both as tags that are equal within a segment"
        )
    tags = _layout_tags(layout)
    return tags, tags, layout


def _positions(positions: Array | None, x: Array, name: str) -> Int[Array, "#B N"]:
    if positions is None:
        return jnp.arange(x.shape[1])[None]
    positions = jnp.atleast_2d(positions)
    if positions.shape not in ((1, x.shape[1]), x.shape[:2]):
        raise ValueError(
            f"attention: {name} must be [{x.shape[1]}] or {list(x.shape[:2])}; "
            f"got {positions.shape}"
        )
    return positions


def _check(q: Array, k: Array, v: Array, window: int | None) -> None:
    shapes = f"got q {q.shape}, k {k.shape}, v {v.shape}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"attention: q, k, v must be [batch, length, heads, width]; {shapes}")
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            "attention: k and v must agree in batch, length and heads, q and k in batch and "
            f"width; {shapes}"
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"attention: the heads of q must be a multiple of those of k; {shapes}")
    if window is not None and window < 1:
        raise ValueError(
            f"attention: window counts the query's own position, so it is at least 1; got {window}"
        )


def _four_axes(bias: Array, scores: tuple[int, ...]) -> Float[Array, "#B #H #L #S"]:
    wide = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
    if wide.ndim != 4 or any(a not in (1, b) for a, b in zip(wide.shape, scores, strict=True)):
        raise ValueError(
            f"attention: bias must broadcast to [B, H, L, S] = {list(scores)}; got {bias.shape}"
        )
    return wide
