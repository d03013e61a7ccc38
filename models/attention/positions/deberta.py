"""DeBERTa's disentangled attention: positions are asked for by contents, and ask for them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from seqzoo.models.attention.positions.encodings import (
    Encoding,
    PlugIn,
    Scored,
    Scoring,
    Sizes,
    Tokens,
)
from seqzoo.models.attention.positions.relative import products
from seqzoo.models.linear import Linear
from seqzoo.models.ops.softmax.relative import Lookup, Relative, Terms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deberta(Encoding):
    """DeBERTa (He et al. 2020, arXiv:2006.03654, eq. 4): q_t . kr_(t-s) + k_s . qr_(t-s).

    Position keys kr and queries qr are projections of one table of distances; scores are divided by
    sqrt(3K). With `shared_projections` they are attention's own, of keys and of queries (v2's
    `share_att_key`). Where ours differs: each layer has a table, DeBERTa one for all. While
    streaming, k_s . qr is made again for the whole cache at every call.
    """

    kind = "deberta"
    num_buckets: int = 32  # rows of the table, both ways together; at least 4
    max_distance: int = 128  # from which on all have the last row; at least 2
    content_to_position: bool = True  # whether there is q . kr
    position_to_content: bool = True  # whether there is k . qr
    shared_projections: bool = False  # of positions by the projections of queries and keys
    table_norm: float | None = None  # eps of a layer norm of the table's rows; None: there is none

    def __post_init__(self) -> None:
        number, most = self.num_buckets, self.max_distance
        rule = "num_buckets is at least 4, half for each way, and max_distance at least 2"
        self.check(number >= 4 and most >= 2, rule, "num_buckets", "max_distance")

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """A table and projections of it."""
        equal = sizes.num_kv_heads == sizes.num_heads or not self.shared_projections
        rule = "shared_projections need a head of keys for every head of queries"
        self.check(equal, rule, "shared_projections")
        return Disentangled(self, sizes, rngs)


class Disentangled(PlugIn):
    """DeBERTa's table of 2 span distances, and its projections."""

    def __init__(self, options: Deberta, sizes: Sizes, rngs: nnx.Rngs):
        wanted = (options.content_to_position, options.position_to_content)
        if sizes.scale is None:
            sizes = dataclasses.replace(sizes, scale=(sizes.d_head * (1 + sum(wanted))) ** -0.5)
        super().__init__(sizes)
        max_distance = options.max_distance
        span = min(options.num_buckets // 2, max_distance)
        ahead = np.arange(-max_distance, max_distance + 1)
        rows = deberta_rows(ahead, span=span, max_distance=max_distance)
        self.term = Lookup.of(-max_distance, rows)
        self.num_heads = sizes.num_heads
        init = nnx.initializers.normal(0.02)
        self.embed = nnx.Param(init(rngs.params(), (2 * span, sizes.d_model), sizes.param_dtype))
        width = sizes.num_heads * sizes.d_head
        dtypes = {"dtype": sizes.dtype, "param_dtype": sizes.param_dtype}
        norm = None
        if options.table_norm is not None:
            norm = nnx.LayerNorm(sizes.d_model, epsilon=options.table_norm, **dtypes, rngs=rngs)
        self.norm = nnx.data(norm)
        self.wanted, self.shared = wanted, options.shared_projections
        made = [
            Linear(sizes.d_model, width, use_bias=sizes.use_bias, **dtypes, rngs=rngs)
            if one and not self.shared
            else None
            for one in wanted
        ]
        self.pos_k_proj, self.pos_q_proj = (nnx.data(projection) for projection in made)

    def beside(self, q_proj: Linear, k_proj: Linear) -> Scoring:
        """Itself, or with attention's projections for its own."""
        return Beside(self, q_proj, k_proj) if self.shared else self

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """A term of one number for each query, key and row of the table."""
        return self.term_of(q, k, self.pos_q_proj, self.pos_k_proj)

    def term_of(self, q: Array, k: Array, of_queries: Any, of_keys: Any) -> Scored:
        """The same with these projections of the table."""
        by_query = by_key = None
        if self.wanted[0]:
            by_query = products(q, self._rows(of_keys), self.scale)
        if self.wanted[1]:
            repeated = jnp.repeat(k, self.num_heads // k.shape[2], axis=2)
            by_key = products(repeated, self._rows(of_queries), self.scale)
        return q, k, Relative(self.term, Terms(None, by_query, by_key))

    def _rows(self, projection: Linear) -> Float[Array, "M H K"]:
        table = self.embed[...]
        rows = projection(table if self.norm is None else self.norm(table))
        return rows.reshape(len(rows), self.num_heads, -1)


class Beside(NamedTuple):
    """DeBERTa's table with the projections of the attention that it stands in."""

    table: Disentangled
    q_proj: Linear
    k_proj: Linear

    @property
    def scale(self) -> float:
        """Of the scores."""
        return self.table.scale

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """See `Disentangled`."""
        return self.table.term_of(q, k, self.q_proj, self.k_proj)


def deberta_rows(
    ahead: Int[np.ndarray, "*shape"], *, span: int, max_distance: int
) -> Int[np.ndarray, "*shape"]:
    """The row, of 2 span, of each distance, query minus key (He et al. 2020, arXiv:2006.03654).

    Distance 0 has row `span`. Where max_distance > span, distances above span/2 grow with the
    logarithm (DeBERTa v2 and v3); else they are clipped (their eq. 3).
    """
    ahead = np.asarray(ahead)
    if max_distance > span:
        middle = span // 2
        size = np.maximum(np.abs(ahead), middle)
        grown = np.log(size / middle) / math.log((max_distance - 1) / middle) * (middle - 1)
        far = (np.ceil(grown) + middle).astype(int) * np.sign(ahead)
        ahead = np.where(np.abs(ahead) <= middle, ahead, far)
    return np.clip(ahead + span, 0, 2 * span - 1)
