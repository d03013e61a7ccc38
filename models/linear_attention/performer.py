"""Performer: FAVOR+ attention (Choromanski et al. 2020, arXiv:2009.14794).

    S_t = Σ_{s<=t} φ(k_s) [v_s, 1]ᵀ,   [n_t, R_t] = φ(q_t)ᵀ S_t,   o_t = n_t / R_t

with random features φ (`ops/matrix/feature_maps.py`): positive or trigonometric ones
estimate softmax attention with an error that falls as m^(-1/2), relu ones are a kernel of their
own. With `causal=False` sums run over the whole segment. Where |R_t| <= eps, R_t + 2 eps is taken,
as by the authors.

The exponents of the keys need a common factor e^(-m). The authors take m as the maximum over the
whole sequence, which shows the future to the past; here m_t is the maximum so far, and S is
rescaled by e^(m_{t-1} - m_t) whenever it grows, a decay that the recurrence has at no cost in
accuracy. m_t is over the whole exponent W y - |y|²/2, so that large queries and keys do not vanish
under the features' eps as they do where only W y is looked at. `stabilizer="global"` is the
authors' form, for comparisons: it is not causal in value, and cannot stream.

The projection is redrawn every `redraw_interval` training calls; it is no parameter, but it is
saved. Cost of L tokens in chunks of C: O(L C (F + V) + L F V) per head. State: H F (V + 1) + H
elements (without the last H for relu), F = M features or 2 M (trigonometric), V = d_model / H.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.matrix.feature_maps import (
    FavorKind,
    ProjectionKind,
    favor_exponents,
    favor_features,
    random_projection,
    waves,
)
from seqzoo.models.ops.matrix.kernel_attention import kernel_sums

LOW = -1e30  # a maximum of nothing, finite so that differences are no NaN


class Projection(nnx.Variable):
    """Random directions [M, K], redrawn in training but not trained."""


class Calls(nnx.Variable):
    """How many training calls there were."""


@stream_state
class PerformerState(NamedTuple):
    """Sums relative to e^top, and the largest exponent of a key so far."""

    s: Float[Array, "B H F V+1"]
    top: Float[Array, "B H"] | None  # None for relu features


class Performer(Mixer):
    """FAVOR+ attention; see the module docstring."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_features: int = 64,
        kind: FavorKind = "positive",
        projection: ProjectionKind = "orthogonal",
        equal_norms: bool = False,
        redraw_interval: int = 1000,
        stabilizer: Literal["running", "global"] = "running",
        feature_eps: float | None = None,
        eps: float = 1e-6,
        chunk_size: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`redraw_interval`: training calls between new projections, 0 for never.

        Raises ValueError for widths that do not divide and for unknown options.
        """
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
        if kind not in get_args(FavorKind):
            raise ValueError(f"unknown {kind=}; known: {', '.join(get_args(FavorKind))}")
        if stabilizer not in ("running", "global"):
            raise ValueError(f"unknown {stabilizer=}; known: running, global")
        if redraw_interval < 0:
            raise ValueError(f"redraw_interval counts calls, 0 for never; got {redraw_interval=}")
        self.num_heads, self.d_head, self.num_features = (
            num_heads,
            d_model // num_heads,
            num_features,
        )
        self.kind, self.stabilizer, self.redraw_interval = kind, stabilizer, redraw_interval
        self.directions, self.equal_norms = projection, equal_norms
        self.feature_eps, self.eps, self.chunk_size = feature_eps, eps, chunk_size
        self.causal = causal
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, d_model, **options)
        self.k_proj = Linear(d_model, d_model, **options)
        self.v_proj = Linear(d_model, d_model, **options)
        self.out_proj = Linear(d_model, d_model, **options)
        self.projection = Projection(self._draw(rngs.params(), param_dtype))
        self.calls = Calls(jnp.zeros((), jnp.int32))

    def _draw(self, key: Array, dtype: DTypeLike) -> Float[Array, "M K"]:
        options = {"kind": self.directions, "equal_norms": self.equal_norms, "dtype": dtype}
        return random_projection(key, self.num_features, self.d_head, **options)

    def _initial(self, batch_size: int) -> PerformerState:
        if self.stabilizer == "global":
            raise ValueError(
                "stabilizer='global' takes a maximum over the whole sequence and cannot stream; "
                "build the Performer with stabilizer='running'"
            )
        s = jnp.zeros((batch_size, self.num_heads, self._width(), self.d_head + 1), self.wide)
        top = None if self.kind == "relu" else jnp.full(s.shape[:2], LOW, self.wide)
        return PerformerState(s, top)

    def _width(self) -> int:
        return self.num_features * (2 if self.kind == "trigonometric" else 1)

    def state_size(self) -> int:
        """H F (V + 1) + H, or H F (V + 1) for relu features."""
        return self.num_heads * (self._width() * (self.d_head + 1) + int(self.kind != "relu"))

    def _mix(self, x: Float[Array, "B L D"], inner: PerformerState | None, ctx: Context):
        if ctx.training and self.redraw_interval:
            self._count(ctx)
        q, k, v = (
            p(x).reshape(*x.shape[:2], self.num_heads, self.d_head)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        o, state = favor_attention(
            q,
            k,
            v,
            self.projection[...],
            inner,
            layout=ctx.segments,
            kind=self.kind,
            causal=self.causal,
            stabilizer=self.stabilizer,
            feature_eps=self.feature_eps,
            eps=self.eps,
            chunk_size=self.chunk_size,
        )
        return self.out_proj(o.reshape(*x.shape[:2], -1)), state

    def _count(self, ctx: Context) -> None:
        """Counts a training call with any real token, and redraws when it is time."""
        valid, key = ctx.segments.valid, ctx.key()
        counts = jnp.int32(1) if valid is None else valid.any().astype(jnp.int32)
        calls = self.calls[...] + counts
        due = (counts > 0) & (calls % self.redraw_interval == 0)
        old = self.projection[...]
        self.projection[...] = jax.lax.cond(due, lambda: self._draw(key, old.dtype), lambda: old)
        self.calls[...] = calls


def favor_attention(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H V"],
    projection: Float[Array, "M K"],
    state: PerformerState | None = None,
    *,
    layout: Segments,
    kind: FavorKind = "positive",
    causal: bool = True,
    stabilizer: Literal["running", "global"] = "running",
    feature_eps: float | None = None,
    eps: float = 1e-6,
    chunk_size: int | None = None,
    normalize: bool = True,
) -> tuple[Float[Array, "B L H V"], PerformerState]:
    """Attention by random features; `normalize=False` leaves out the denominator (for "global")."""
    if layout.masked:  # garbage must not overflow in an exponential
        q, k = (jnp.where(layout.valid[..., None, None], a, 0) for a in (q, k))
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q, k, v = (a.astype(wide) for a in (q, k, v))
    s0, top = (None, None) if state is None else state
    decay = feature_map = None
    if stabilizer == "global" or kind == "relu":
        q, k = _as_published(q, k, projection, layout, kind, feature_eps)
    else:
        m = (_running if causal else _overall)(_tops(k, projection, kind), top, layout)
        q, k = jnp.concatenate([q, jnp.zeros_like(m)], -1), jnp.concatenate([k, m], -1)
        feature_map = functools.partial(_features, projection, kind, feature_eps)
        if causal:
            first = jnp.full_like(m[:, :1], LOW) if top is None else top[:, None, :, None]
            decay = jnp.concatenate([first, m[:, :-1]], 1) - m
            decay = jnp.minimum(decay, 0)  # a new segment may begin lower; it forgets the state
        top = m[:, -1, :, 0]
    v1 = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)
    options = {"causal": causal, "log_decay": decay, "chunk_size": chunk_size}
    options["feature_map"] = feature_map
    both, s = kernel_sums(q, k, v1, s0, segment_ids=layout, **options)
    o, R = both[..., :-1], both[..., -1:]
    after = None if s is None else PerformerState(s, top if kind != "relu" else None)
    return (o / jnp.where(jnp.abs(R) <= eps, R + 2 * eps, R) if normalize else o), after


def _tops(k: Float[Array, "B L H K"], projection: Float[Array, "M K"], kind: FavorKind) -> Array:
    """The largest exponent of each key, [B, L, H, 1]; features are made where they are used."""
    dash, half = favor_exponents(jax.lax.stop_gradient(k), projection)
    return (dash - half).max(-1, keepdims=True) if kind == "positive" else half


def _features(projection, kind: FavorKind, eps: float | None, q, k) -> tuple[Array, Array]:
    """Features of queries, less their own maximum, and of keys, less m, their last channel."""
    q, k, m = q[..., :-1], k[..., :-1], k[..., -1:]
    return tuple(_stabilized(x, projection, kind, eps, m) for x, m in ((q, None), (k, m)))


def _stabilized(x, projection, kind: FavorKind, eps: float | None, m: Array | None) -> Array:
    dash, half = favor_exponents(x, projection)
    exponent = dash - half if kind == "positive" else half
    top = jax.lax.stop_gradient(exponent.max(-1, keepdims=True))
    above = exponent - (top if m is None else jnp.maximum(m, top))  # more than m at padding only
    ratio = projection.shape[0] ** -0.5
    if kind == "positive":
        return ratio * (jnp.exp(above) + (1e-6 if eps is None else eps))
    return ratio * waves(dash) * jnp.exp(above)


def _as_published(q, k, projection, layout: Segments, kind: FavorKind, eps: float | None):
    """The authors' features; maxima over the sequence are over each segment."""
    if kind == "relu":
        return tuple(favor_features(a, projection, kind=kind, eps=eps) for a in (q, k))
    if kind == "positive":
        q = favor_features(q, projection, kind=kind, stabilizer="token", eps=eps)
    else:
        q = _overall_features(q, projection, layout, kind, eps)
    return q, _overall_features(k, projection, layout, kind, eps)


def _overall_features(x, projection, layout: Segments, kind: FavorKind, eps: float | None):
    if not layout.masked:
        return favor_features(x, projection, kind=kind, stabilizer="global", eps=eps)
    dash, half = favor_exponents(x, projection)
    top = dash.max(-1, keepdims=True) if kind == "positive" else half
    m = jnp.maximum(_overall(top, None, layout), top)
    ratio = projection.shape[0] ** -0.5
    if kind == "positive":
        return ratio * (jnp.exp(dash - half - m) + (1e-6 if eps is None else eps))
    return ratio * waves(dash) * jnp.exp(half - m)


def _running(e: Float[Array, "B L H 1"], top: Array | None, layout: Segments) -> Array:
    """The maximum over the segment up to each token, `top` included in run 0."""
    if not layout.masked:
        m = jax.lax.cummax(e, axis=1)
        return m if top is None else jnp.maximum(m, top[:, None, :, None])
    e = jnp.where(layout.valid[..., None, None], e, LOW)

    def join(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] | b[0], jnp.where(b[0], b[1], jnp.maximum(a[1], b[1]))

    starts = jnp.broadcast_to(layout.starts[..., None, None], e.shape)
    m = jax.lax.associative_scan(join, (starts, e), axis=1)[1]
    if top is None:
        return m
    carried = layout.run[..., None, None] == 0
    return jnp.where(carried, jnp.maximum(m, top[:, None, :, None]), m)


def _overall(e: Float[Array, "B L H 1"], top: None, layout: Segments) -> Array:
    """The maximum over the whole segment."""
    if not layout.masked:
        return jnp.broadcast_to(e.max(1, keepdims=True), e.shape)
    behind = jnp.flip(_running(jnp.flip(e, 1), None, layout.flip()), 1)
    return jnp.maximum(_running(e, None, layout), behind)
