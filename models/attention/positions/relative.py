"""Encodings of position that learn something for each distance; see encodings.py.

Their terms of the scores are made block by block from a table, and from one row of numbers for each
query or key.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.attention.positions.encodings import (
    Encoding,
    PlugIn,
    Scored,
    Sizes,
    Tokens,
)
from seqzoo.models.linear import Linear
from seqzoo.models.ops.softmax.relative import Lookup, Relative, Terms
from seqzoo.models.ops.softmax.rope import angles


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5(Encoding):
    """A learned bias for each bucket of distances and head (Raffel et al. 2020, 1910.10683).

    Where ours differs: T5 has one table for all layers, here each layer has its own.
    """

    kind = "t5"
    num_buckets: int = 32  # both ways together; at least 4
    max_distance: int = 128  # from which on all have the last bucket; above num_buckets / 2

    def __post_init__(self) -> None:
        number, most = self.num_buckets, self.max_distance
        rule = "num_buckets is at least 4 and max_distance above half of it"
        self.check(number >= 4 and most > number // 2, rule, "num_buckets", "max_distance")

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """A table."""
        return Bucketed(self, sizes, rngs)


class Bucketed(PlugIn):
    """T5's table of biases."""

    def __init__(self, options: T5, sizes: Sizes, rngs: nnx.Rngs):
        super().__init__(sizes)
        most = options.max_distance
        ahead = np.arange(-most, most + 1)
        buckets = t5_buckets(ahead, **dataclasses.asdict(options), causal=sizes.causal)
        self.term = Lookup.of(-most, buckets)
        init = nnx.initializers.normal(sizes.d_model**-0.5)
        shape = (options.num_buckets, sizes.num_heads)
        self.embed = nnx.Param(init(rngs.params(), shape, sizes.param_dtype))

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """A term from the table."""
        table = self.embed[...].T
        return q, k, Relative(self.term, Terms(table.astype(_wide(table))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shaw(Encoding):
    """q_t . a_(t-s), distances clipped (Shaw et al. 2018, arXiv:1803.02155, eq. 4 and 5).

    One table for all heads. Where ours differs: only keys have it, not values (their table 3 finds
    no gain from these).
    """

    kind = "shaw"
    max_distance: int = 128  # of earlier keys, at least 1
    ahead: int | None = None  # the same of later keys; None: 0 if causal, else max_distance

    def __post_init__(self) -> None:
        rule = "max_distance is at least 1, and ahead at least 0"
        self.check(self.max_distance >= 1, rule, "max_distance")
        self.check(self.ahead is None or self.ahead >= 0, rule, "ahead")

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """A table."""
        return Clipped(self, sizes, rngs)


class Clipped(PlugIn):
    """Shaw's table of keys."""

    def __init__(self, options: Shaw, sizes: Sizes, rngs: nnx.Rngs):
        super().__init__(sizes)
        max_distance, ahead = options.max_distance, options.ahead
        if ahead is None:
            ahead = 0 if sizes.causal else max_distance
        rows = max_distance + ahead + 1  # row 0 is the key farthest back, as published
        self.term = Lookup.of(-ahead, np.arange(rows)[::-1])
        init = nnx.initializers.normal(sizes.d_head**-0.5)
        self.embed = nnx.Param(init(rngs.params(), (rows, sizes.d_head), sizes.param_dtype))

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """A term of one number for each query and row of the table."""
        return q, k, Relative(self.term, Terms(None, products(q, self.embed, self.scale)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerXL(Encoding):
    """(q_t + u) . k_s + (q_t + v) . W R_(t-s) (Dai et al. 2019, arXiv:1901.02860, section 3.3).

    R_d holds the sines and cosines of d. Since those of t - s are sums of products of those of t
    and s, the second term is a product of D more channels of the queries with sines and cosines of
    the keys' positions: no table of distances, any length. Cost O(L S (K + D)) per head.
    """

    kind = "transformer_xl"
    base: float = 10000.0  # of the wavelengths of the sines

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """Raises ValueError for an odd d_model."""
        return Waves(self, sizes, rngs)


class Waves(PlugIn):
    """Transformer-XL's projection of sines, and its biases of queries."""

    def __init__(self, options: TransformerXL, sizes: Sizes, rngs: nnx.Rngs):
        super().__init__(sizes)
        if sizes.d_model % 2:
            raise ValueError(
                "positions='transformer_xl' pairs sines with cosines: d_model must be even, got "
                f"{sizes.d_model}"
            )
        self.base, self.d_model = options.base, sizes.d_model
        heads, width = sizes.num_heads, sizes.d_head
        self.pos_proj = Linear(
            sizes.d_model, heads * width, use_bias=False, param_dtype=sizes.param_dtype, rngs=rngs
        )
        self.bias = nnx.Param(jnp.zeros((2, heads, width), sizes.param_dtype))  # u and v

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """Queries and keys with D more channels."""
        wide = _wide(q)
        u, v = self.bias[...].astype(q.dtype)
        kernel = self.pos_proj.matrix().astype(q.dtype)
        kernel = kernel.reshape(-1, 2, *q.shape[2:])  # sines on even rows, cosines on odd ones
        along = jnp.einsum("blhk,dchk->blhcd", q + v, kernel, preferred_element_type=wide)
        sine, cosine = along[..., 0, :], along[..., 1, :]
        sin_t, cos_t = self._waves(q_at.position, wide)
        by_cos = sine * sin_t + cosine * cos_t
        by_sin = cosine * sin_t - sine * cos_t
        more = jnp.concatenate([by_sin, by_cos], -1).astype(q.dtype)
        waves = jnp.concatenate(self._waves(k_at.position, wide), -1).astype(k.dtype)
        waves = jnp.broadcast_to(waves, (*k.shape[:3], waves.shape[-1]))
        return jnp.concatenate([q + u, more], -1), jnp.concatenate([k, waves], -1), None

    def _waves(self, positions: Array, dtype: DTypeLike) -> tuple[Array, Array]:
        angle = angles(positions, self.d_model, self.base, dtype)[:, :, None]
        return jnp.sin(angle), jnp.cos(angle)


def t5_buckets(
    ahead: Int[np.ndarray, "*shape"], *, num_buckets: int, max_distance: int, causal: bool
) -> Int[np.ndarray, "*shape"]:
    """The bucket of each distance, query minus key (Raffel et al. 2020, arXiv:1910.10683, 2.1).

    Half of the buckets are distances of their own, the others grow with the logarithm up to
    `max_distance`. Both ways, keys ahead of the query have the upper half of the buckets.
    """
    ahead = np.asarray(ahead)
    offset = 0
    if not causal:
        num_buckets //= 2
        offset = np.where(ahead < 0, num_buckets, 0)
        ahead = np.abs(ahead)
    ahead = np.maximum(ahead, 0)
    exact = num_buckets // 2
    # In float32, as published: a border of two buckets is where its logarithm falls.
    ratio = np.log(np.maximum(ahead, 1).astype(np.float32) / exact)
    grown = ratio / np.float32(math.log(max_distance / exact)) * (num_buckets - exact)
    far = np.minimum(exact + np.trunc(grown).astype(int), num_buckets - 1)
    return offset + np.where(ahead < exact, ahead, far)


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def products(x: Float[Array, "B L H K"], rows: Any, scale: float) -> Float[Array, "B L H M"]:
    """scale x . rows, the rows [M, K] of all heads or [M, H, K]; at least float32."""
    rows = jnp.asarray(rows[...]).astype(x.dtype)
    equation = "blhk,mk->blhm" if rows.ndim == 2 else "blhk,mhk->blhm"
    with jax.named_scope("relative"):
        return scale * jnp.einsum(equation, x, rows, preferred_element_type=_wide(x))
