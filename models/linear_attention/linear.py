"""Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236) with a choice of feature map φ.

    S_t = S_{t-1} + φ(k_t) v_t^T,  z_t = z_{t-1} + φ(k_t)          (their eq. 16, 17)
    o_t = φ(q_t)^T S_t / (φ(q_t) . z_t + eps)                       (eq. 18)

φ is elementwise (elu + 1, relu, squared relu), or one of the maps of `ops/matrix/feature_maps.py`
with more features F than channels K: `Based` (the exponential to second order), `Rebased` (the
square of a learned affine map) and `CosFormer` (relu with a cosine of the distance) are this mixer
with such a map. With `normalize=False` the denominator is left out, and elementwise maps scale q by
1/sqrt(K). With `positions="rope"` queries and keys are rotated after φ in the numerator only,
since a rotated normaliser could vanish (Su et al. 2021, eq. 19). With `causal=False` the sums run
over the whole segment. Cost of L tokens in chunks of C: O(L C (F + V) + L F V) per head. State:
H F (V + 1) elements with the normaliser, H F V without; V = d_model / H, and F is V, or with K the
width of keys 1 + K + K (K + 1) / 2 (Based), K (K + 1) / 2 (Rebased), 2 K (CosFormer).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.attention.positions.kinds import check_positions
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.matrix.feature_maps import ELEMENTWISE, alike, quadratic, reweighted, taylor
from seqzoo.models.ops.matrix.kernel_attention import kernel_sums
from seqzoo.models.ops.softmax.rope import rope


@stream_state
class LinearAttentionState(NamedTuple):
    """Sums over the segment so far."""

    s: Float[Array, "B H F V"]
    z: Float[Array, "B H F 1"] | None  # None without a normaliser


class KernelAttention(Mixer):
    """Projections, features and sums; a subclass gives `_features`."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_key: int | None,
        num_features: int | None,
        *,
        normalize: bool = True,
        eps: float = 1e-6,
        chunk_size: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`num_features` is F, None for d_key. Raises ValueError for widths that do not divide."""
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
        if d_key is not None and d_key < 1:
            raise ValueError(f"d_key must be at least 1; got {d_key=}")
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.d_key = self.d_head if d_key is None else d_key
        self.num_features = self.d_key if num_features is None else num_features
        self.normalize, self.eps, self.chunk_size = normalize, eps, chunk_size
        self.scale, self.causal = 1.0, causal
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, num_heads * self.d_key, **options)
        self.k_proj = Linear(d_model, num_heads * self.d_key, **options)
        self.v_proj = Linear(d_model, d_model, **options)
        self.out_proj = Linear(d_model, d_model, **options)

    def _initial(self, batch_size: int) -> LinearAttentionState:
        shape = (batch_size, self.num_heads, self.num_features, self.d_head)
        s = jnp.zeros(shape, self.wide)
        return LinearAttentionState(s, s[..., :1] if self.normalize else None)

    def state_size(self) -> int:
        """H F (V + 1) with the normaliser, H F V without."""
        return self.num_heads * self.num_features * (self.d_head + int(self.normalize))

    def _features(self, q: Array, k: Array, ctx: Context) -> tuple[tuple, tuple | None]:
        """(q, k, φ), φ None if they are features; and the same for a rotated numerator, if any."""
        raise NotImplementedError

    def _mix(self, x: Float[Array, "B L D"], inner: LinearAttentionState | None, ctx: Context):
        q, k, v = (
            p(x).reshape(*x.shape[:2], self.num_heads, -1)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        plain, rotated = self._features(q, k, ctx)
        o, state = self._attend(plain, rotated, v, inner, ctx)
        o = o.reshape(*x.shape[:2], -1).astype(x.dtype)
        return self.out_proj(o), state

    def _attend(self, plain, rotated, v, inner: LinearAttentionState | None, ctx: Context):
        """Outputs and sums; `rotated` queries and keys, if any, serve the numerator."""
        s0, z0 = (None, None) if inner is None else inner
        if not self.normalize:
            o, s = self._sum(*(rotated or plain), v, s0, ctx)
            return o * self.scale, LinearAttentionState(s, None)
        ones = jnp.ones_like(v[..., :1])
        if rotated is None:  # the normaliser is one more column of v
            s0 = None if inner is None else jnp.concatenate([s0, z0], -1)
            both, s = self._sum(*plain, jnp.concatenate([v, ones], -1), s0, ctx)
            o, total = both[..., :-1], both[..., -1:]
            s, z = (None, None) if s is None else (s[..., :-1], s[..., -1:])
        else:
            o, s = self._sum(*rotated, v, s0, ctx)
            total, z = self._sum(*plain, ones, z0, ctx)
        return o / (total + self.eps), LinearAttentionState(s, z)

    def _sum(self, q, k, feature_map, v, s0, ctx: Context):
        options = {"causal": self.causal, "chunk_size": self.chunk_size}
        options["feature_map"] = feature_map
        return kernel_sums(q, k, v, s0, segment_ids=ctx.segments, **options)


class LinearAttention(KernelAttention):
    """Linear attention with an elementwise feature map; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        feature_map: Literal["elu+1", "relu", "squared_relu"] = "elu+1",
        normalize: bool = True,
        positions: Literal["none", "rope"] = "none",
        rope_base: float = 10000.0,
        eps: float = 1e-6,
        chunk_size: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError where num_heads does not divide d_model, and for unknown options."""
        options = {"normalize": normalize, "eps": eps, "chunk_size": chunk_size, "causal": causal}
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        super().__init__(d_model, num_heads, None, None, **options, **dtypes, rngs=rngs)
        if feature_map not in ELEMENTWISE:
            raise ValueError(f"unknown {feature_map=}; known: {', '.join(ELEMENTWISE)}")
        check_positions("linear_attention", positions, ("none", "rope"))
        if positions == "rope" and self.d_head % 2:
            raise ValueError(f"RoPE needs an even head width; got {self.d_head}")
        self.feature_map, self.positions, self.rope_base = feature_map, positions, rope_base
        self.scale = self.d_head**-0.5

    def _features(self, q: Array, k: Array, ctx: Context) -> tuple[tuple, tuple | None]:
        phi = ELEMENTWISE[self.feature_map]
        if self.positions == "none":
            return (q, k, alike(phi)), None
        q, k = phi(q), phi(k)
        rotated = (rope(a, ctx.segments.position, base=self.rope_base) for a in (q, k))
        return (q, k, None), (*rotated, None)


class Based(KernelAttention):
    """Linear attention with weights 1 + s + s²/2 (Arora et al. 2024, arXiv:2402.18668).

    s = q·k / √K with few channels K. The paper mixes it with windowed attention: a pattern here.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int = 16,
        normalize: bool = True,
        eps: float = 1e-6,
        chunk_size: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_key`: K of each head. Raises ValueError for widths that cannot be."""
        options = {"normalize": normalize, "eps": eps, "chunk_size": chunk_size, "causal": causal}
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        features = 1 + d_key + d_key * (d_key + 1) // 2
        super().__init__(d_model, num_heads, d_key, features, **options, **dtypes, rngs=rngs)

    def _features(self, q: Array, k: Array, ctx: Context) -> tuple[tuple, None]:
        return (q, k, alike(taylor)), None


class Rebased(KernelAttention):
    """Linear attention with weights s² of normalised and scaled q and k (arXiv:2402.10644).

    s = q'·k' / √K, q' = γ_q norm(q) + β_q and k' alike (Aksenov et al. 2024, eq. 10), where norm
    is over the K channels of a head.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int = 16,
        normalize: bool = True,
        eps: float = 1e-6,
        chunk_size: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_key`: K of each head. Raises ValueError for widths that cannot be."""
        options = {"normalize": normalize, "eps": eps, "chunk_size": chunk_size, "causal": causal}
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        features = d_key * (d_key + 1) // 2
        super().__init__(d_model, num_heads, d_key, features, **options, **dtypes, rngs=rngs)
        self.q_norm = nnx.LayerNorm(d_key, **dtypes, rngs=rngs)
        self.k_norm = nnx.LayerNorm(d_key, **dtypes, rngs=rngs)

    def _features(self, q: Array, k: Array, ctx: Context) -> tuple[tuple, None]:
        return (self.q_norm(q), self.k_norm(k), alike(quadratic)), None


class CosFormer(KernelAttention):
    """Linear attention with weights relu(q)·relu(k) cos(π (i - j) / 2M) (arXiv:2202.08791).

    Qin et al. 2022 take M from the length of the sequence, which a stream does not know: here it is
    `horizon`, and tokens beyond it count as at position M.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        horizon: int = 4096,
        eps: float = 1e-6,
        chunk_size: int | None = None,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`horizon`: M, in tokens. Raises ValueError for widths that cannot be."""
        if horizon < 1:
            raise ValueError(f"horizon is a number of tokens, at least 1; got {horizon=}")
        options = {"eps": eps, "chunk_size": chunk_size, "causal": causal, "dtype": dtype}
        d_key = d_model // max(num_heads, 1)
        options |= {"param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, num_heads, d_key, 2 * d_key, **options)
        self.horizon = horizon

    def _features(self, q: Array, k: Array, ctx: Context) -> tuple[tuple, None]:
        position = ctx.segments.position
        return (*(reweighted(a, position, self.horizon) for a in (q, k)), None), None
