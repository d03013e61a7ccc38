"""Softmax attention (Vaswani et al. 2017, arXiv:1706.03762): positions, grouped queries, windows.

    o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s        s in t's segment (and s <= t if causal)

Encodings of position, rotary by default: models/attention/positions. Grouped queries: Ainslie
et al. 2023 (arXiv:2305.13245), `num_kv_heads` = 1 is multi-query. `qk_norm`: RMS norm of every head
of queries and keys (Henry et al. 2020, arXiv:2010.04245; Dehghani et al. 2023, arXiv:2302.05442).
`output_gate`: o ⊙ σ(W_g x) before W_out (Qiu et al. 2025, arXiv:2505.06708). `differential`: pairs
of heads are subtracted (Ye et al. 2024, arXiv:2410.05258; models/attention/differential.py).
`d_conv`: a short convolution is added to queries, keys and values (Canon-B, Allen-Zhu 2025,
arXiv:2512.17351).
Cost of L tokens: O(L^2 K) per head, O(L w K) with a window of w. State: 2 S num_kv_heads K + 1
elements per sequence, where S is `window` or else `max_length`: a ring of keys, rotated where that
is the encoding, one of values, and a count; with `d_conv` also the convolution's window, (d_conv -
1) (num_heads + 2 num_kv_heads) K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from seqzoo.models.attention.cache import KVCache, MarkedCache, slot_positions, write
from seqzoo.models.attention.differential import Differential
from seqzoo.models.attention.positions.encodings import Encoding, Scoring, Sizes, Tokens
from seqzoo.models.attention.positions.kinds import FORMER, KINDS, encoding, with_former
from seqzoo.models.blocks.layers import CenteredRMSNorm
from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, FloatName, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.models.ops.softmax.local_blocks import run_tags


class Attention(Mixer):
    """Multi-head softmax attention; see the module docstring."""

    looks_both_ways = True
    state_growth = "linear"  # without a window
    depends_on_layer: ClassVar[bool] = True
    option_help: ClassVar = {"positions": f"{', '.join(KINDS)}; with options: rope:base=5e5"}
    former_options = tuple(FORMER)

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        d_head: int | None = None,
        window: int | None = None,
        positions: str | Encoding = "rope",
        qk_norm: bool = False,
        qk_norm_centered: bool = False,
        norm_eps: float = 1e-6,
        output_gate: bool = False,
        differential: bool = False,
        d_conv: int = 0,
        scale: float | None = None,
        use_bias: bool = False,
        out_bias: bool | None = None,
        max_length: int = 2048,
        cache_dtype: FloatName | None = None,
        causal: bool = True,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`max_length`: most tokens of a segment, where it is causal without a window.

        `positions`: a value, its name, or its name with options; see models/attention/positions.
        `d_conv`: taps of the short convolution, 0 for none. `cache_dtype`: of the keys and values
        that streaming keeps, by default `dtype`. `out_bias`: of the output projection, by default
        as the others (`use_bias`); `norm_eps`: of `qk_norm`, whose scales are kept less 1 if
        `qk_norm_centered`, and of `differential`, whose first share of the second head depends on
        the `layer`.

        Raises ValueError for widths that do not divide, a window below 1, odd numbers of heads
        where they are subtracted, and positions that cannot be.
        """
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        d_head = _head_width(d_model, num_heads, num_kv_heads, d_head)
        if min(max_length, 1 if window is None else window) < 1:
            raise ValueError(
                "window (the current token counted) and max_length are numbers of tokens, at least "
                f"1; got {window=}, {max_length=}"
            )
        self.num_heads, self.num_kv_heads, self.d_head = num_heads, num_kv_heads, d_head
        self.window, self.causal, self.cache_dtype = window, causal, cache_dtype
        self.state_growth = "linear" if window is None else "window"
        self.max_length = max_length if causal and window is None else None
        self.slots = max_length if window is None else window
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        options = {**dtypes, "use_bias": use_bias, "rngs": rngs}
        self.q_proj = Linear(d_model, num_heads * d_head, **options)
        self.k_proj = Linear(d_model, num_kv_heads * d_head, **options)
        self.v_proj = Linear(d_model, num_kv_heads * d_head, **options)
        last = {**options, "use_bias": use_bias if out_bias is None else out_bias}
        self.out_proj = Linear(num_heads * d_head, d_model, **last)
        gate = Linear(d_model, num_heads * d_head, **options) if output_gate else None
        self.gate_proj = nnx.data(gate)
        norm = CenteredRMSNorm if qk_norm_centered else nnx.RMSNorm
        norms = [norm(d_head, epsilon=norm_eps, **dtypes, rngs=rngs) for _ in range(2 * qk_norm)]
        self.qk_norm = nnx.data(nnx.List(norms) if qk_norm else None)
        conv = None
        if d_conv:
            width = (num_heads + 2 * num_kv_heads) * d_head
            conv = DepthwiseConv(width, d_conv, use_bias=False, **dtypes, rngs=rngs)
        self.conv = nnx.data(conv)
        heads = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "d_head": d_head}
        more = {**heads, "norm_eps": norm_eps, "param_dtype": param_dtype}
        pairs = Differential(**more, layer=layer, rngs=rngs) if differential else None
        self.pairs = nnx.data(pairs)
        how = {"causal": causal, "scale": scale, "use_bias": use_bias}
        sizes = Sizes(d_model=d_model, **heads, **how, **dtypes)
        self.positions = encoding(positions).plug_in(sizes, rngs)
        self.usual_queries = d_head**-0.5 / self.positions.scale

    @classmethod
    def current_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Positions as their text, with what were options beside them."""
        return with_former(options)

    def _initial(self, batch_size: int) -> PyTree:
        cache = self._empty(batch_size)
        return cache if self.conv is None else (cache, self.conv.initial(batch_size))

    def _empty(self, batch_size: int) -> KVCache | MarkedCache:
        cache = jnp.zeros((batch_size, self.slots, self.num_kv_heads, self.d_head), self.kept)
        count, marks = jnp.zeros(batch_size, jnp.int32), self.positions.num_marks
        if not marks:
            return KVCache(cache, cache, count)
        more = jnp.zeros((batch_size, self.slots, marks), self.wide)
        return MarkedCache(cache, cache, count, more)

    def state_size(self) -> int:
        """S (2 num_kv_heads K + M) + 1, S the window or max_length, M mostly 0 (marks).

        With d_conv more: (d_conv - 1) (num_heads + 2 num_kv_heads) K.
        """
        kept = 2 * self.num_kv_heads * self.d_head + self.positions.num_marks
        window = 0 if self.conv is None else self.conv.state_size()
        return self.slots * kept + 1 + window

    def _mix(self, x: Float[Array, "B L D"], inner: Any, ctx: Context):
        layout, window = ctx.segments, None
        if self.conv is not None and inner is not None:
            inner, window = inner
        q, k, v, window = self._projected(x, window, layout)
        if self.qk_norm is not None:
            q, k = (norm(x) for norm, x in zip(self.qk_norm, (q, k), strict=True))
        q, k, v = self.positions.turn(q, k, v, layout.position)
        before = inner.newest() if isinstance(inner, MarkedCache) else None
        marks = self.positions.mark(x, layout, before)
        scores = self.positions.beside(self.q_proj, self.k_proj)
        if inner is None:
            o = self._parallel(scores, q, k, v, marks, layout)
        else:
            o, inner = self._cached(scores, q, k, v, marks, inner, layout)
        o = (o if self.pairs is None else self.pairs.difference(o)).reshape(*x.shape[:2], -1)
        if self.gate_proj is not None:
            o = o * jax.nn.sigmoid(self.gate_proj(x).astype(o.dtype))
        return self.out_proj(o), inner if self.conv is None else (inner, window)

    def _projected(self, x: Float[Array, "B L D"], window: Array | None, layout: Segments):
        """Queries, keys and values of every head, and the window of what is added to them."""
        parts = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        if self.conv is not None:
            joined = jnp.concatenate(parts, axis=-1)
            more, window = self.conv(joined, window, layout)
            borders = [parts[0].shape[2], parts[0].shape[2] + parts[1].shape[2]]
            parts = jnp.split(joined + more.astype(joined.dtype), borders, axis=-1)
        heads = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        return *(_split(part, n) for part, n in zip(parts, heads, strict=True)), window

    def _parallel(self, scores: Scoring, q, k, v, marks: Array | None, layout: Segments):
        at = Tokens(layout.position, marks)
        q, k, relative = scores.score(q, k, at, at)
        return attention(
            q,
            k,
            v if self.pairs is None else self.pairs.values(v),
            relative=relative,
            scale=scores.scale,
            causal=self.causal,
            window=self.window,
            segment_ids=layout,
        )

    def _cached(self, scores: Scoring, q, k, v, marks: Array | None, cache: Any, layout: Segments):
        batch, chunk = q.shape[:2]
        if chunk == 1:
            return self._step(scores, q, k, v, marks, cache, layout)
        position = jnp.broadcast_to(layout.position, (batch, chunk))
        tags = run_tags(layout, batch, chunk)
        slot_position = slot_positions(cache.length, self.slots)
        # Counted from the end of the cache, so that factors and angles stay small in long streams.
        since = jnp.where(tags == 1, position - cache.length[:, None], position)
        k_since = jnp.concatenate([slot_position - cache.length[:, None], since], 1)
        keys = jnp.concatenate([cache.k.astype(k.dtype), k], 1)
        values = jnp.concatenate([cache.v.astype(v.dtype), v], 1)
        k_marks = None if marks is None else jnp.concatenate([cache.marks, marks], 1)
        at, k_at = Tokens(since, marks), Tokens(k_since, k_marks)
        q, keys, relative = scores.score(q, keys, at, k_at)
        o = attention(
            q,
            keys,
            values if self.pairs is None else self.pairs.values(values),
            relative=relative,
            scale=scores.scale,
            causal=True,
            window=self.window,
            q_positions=since,
            k_positions=k_since,
            segment_ids=tags,
            k_segment_ids=jnp.concatenate([(slot_position >= 0).astype(tags.dtype), tags], 1),
        )
        return o, write(cache, k, v, position, tags, marks=marks)

    def _step(self, scores: Scoring, q, k, v, marks: Array | None, cache: Any, layout: Segments):
        """One token: its slot is that of one that it does not see, so the ring is all there is."""
        position = jnp.broadcast_to(layout.position, (q.shape[0], 1))
        tags = run_tags(layout, q.shape[0], 1)
        before = jnp.where(tags == 1, cache.length[:, None], 0)
        cache = write(cache, k, v, position, tags, marks=marks)
        held = slot_positions(cache.length, self.slots)
        at = Tokens(position - before, marks)
        k_at = Tokens(held - before, None if marks is None else cache.marks)
        values = cache.v.astype(v.dtype)
        q, keys, relative = scores.score(q, cache.k.astype(k.dtype), at, k_at)
        o = attention(
            q,
            keys,
            values if self.pairs is None else self.pairs.values(values),
            relative=relative,
            scale=scores.scale,
            causal=True,
            window=self.window,
            q_positions=at.position,
            k_positions=k_at.position,
            segment_ids=(tags > 0).astype(tags.dtype),
            k_segment_ids=(held >= 0).astype(tags.dtype),
        )
        return o, cache


def _head_width(d_model: int, num_heads: int, num_kv_heads: int, d_head: int | None) -> int:
    """The channels of a head. Raises ValueError for numbers of heads that cannot be."""
    if num_heads < 1 or num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(
            "heads are at least 1, and num_kv_heads must divide num_heads; got "
            f"{num_heads=}, {num_kv_heads=}"
        )
    if d_head is None and d_model % num_heads:
        raise ValueError(
            f"num_heads must divide d_model (or give d_head); got {d_model=}, {num_heads=}"
        )
    if d_head is not None and d_head < 1:
        raise ValueError(f"d_head is a width, at least 1; got {d_head}")
    return d_model // num_heads if d_head is None else d_head


def _split(x: Float[Array, "B L D"], heads: int) -> Float[Array, "B L H K"]:
    return x.reshape(*x.shape[:2], heads, -1)
