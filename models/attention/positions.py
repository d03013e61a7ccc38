"""Positions as plug-ins of softmax attention.

A plug-in may change queries and keys before they are kept (`turn`), and the scores (`score`): it
gives other queries and keys, or a term that attention makes block by block. All count the tokens of
a segment, and all but `turn` see differences of positions only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.linear import Linear
from seqzoo.models.ops.softmax import rope_scaling
from seqzoo.models.ops.softmax.relative import Lookup, Relative, Slopes, Terms
from seqzoo.models.ops.softmax.rope import angles, rope, xpos
from seqzoo.models.positions import (
    alibi_slopes,
    check_positions,
    deberta_rows,
    t5_buckets,
)

Scored = tuple[Float[Array, "B L H E"], Float[Array, "B S Hkv E"], Relative | None]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What every plug-in may need to know of its attention."""

    d_model: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    causal: bool
    scale: float | None  # of the scores; None for the usual one
    dtype: DTypeLike
    param_dtype: DTypeLike


class Positions(nnx.Module):
    """No positions at all, and what the others inherit."""

    def __init__(self, sizes: Sizes):
        self.scale = sizes.d_head**-0.5 if sizes.scale is None else sizes.scale

    def turn(self, x: Float[Array, "B L H K"], positions: Int[Array, "#B L"]) -> Array:
        """Queries or keys before keys are kept."""
        return x

    def score(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B S Hkv K"],
        q_positions: Int[Array, "#B L"],
        k_positions: Int[Array, "#B S"],
    ) -> Scored:
        """The queries and keys to multiply, and a term of the scaled scores."""
        return q, k, None


class Rotary(Positions):
    """RoPE (Su et al. 2021, arXiv:2104.09864), its frequencies scaled on request.

    With a `fraction` below 1 only the first channels of a head turn, as in a head of that width.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        base: float,
        interleaved: bool,
        fraction: float,
        scaling: str,
        factor: float,
        trained_length: int,
    ):
        """Raises ValueError for an odd width, a fraction outside (0, 1] or an unknown scaling."""
        super().__init__(sizes)
        self.width = _turned(sizes.d_head, fraction)
        self.interleaved = interleaved
        options: dict[str, Any] = {"factor": factor}
        if scaling in ("yarn", "llama3"):
            options["trained_length"] = trained_length
        elif scaling not in ("none", "linear", "ntk"):
            raise ValueError(
                f"unknown rope_scaling={scaling!r}; known: none, linear, ntk, yarn, llama3"
            )
        make = getattr(rope_scaling, f"{'linear' if scaling == 'none' else scaling}_scaling")
        if scaling == "none":
            options["factor"] = 1.0
        made = make(self.width, base, **options)
        self.frequencies = tuple(float(f) for f in made.frequencies)
        self.magnitude = made.magnitude

    def turn(self, x: Float[Array, "B L H K"], positions: Int[Array, "#B L"]) -> Array:
        """The rotation."""
        turned = rope(
            x[..., : self.width],
            positions,
            interleaved=self.interleaved,
            frequencies=self.frequencies,
            magnitude=self.magnitude,
        )
        return jnp.concatenate([turned, x[..., self.width :]], axis=-1)


class XPos(Positions):
    """RoPE whose scores decay with the distance (Sun et al. 2022, arXiv:2212.10554)."""

    def __init__(self, sizes: Sizes, *, base: float, interleaved: bool):
        """Raises ValueError for an odd head width and where queries see later keys."""
        super().__init__(sizes)
        _check_even(sizes.d_head)
        if not sizes.causal:
            raise ValueError(
                "positions='xpos' multiplies scores by zeta^(t - s) with zeta < 1, which grows "
                "without bound for keys after the query; use 'rope' where causal=False"
            )
        self.base, self.interleaved = base, interleaved

    def score(self, q: Array, k: Array, q_positions: Array, k_positions: Array) -> Scored:
        """Rotated and scaled around the middle of the queries, where factors are near 1."""
        if q.shape[1] > 2**16:
            raise ValueError(
                f"positions='xpos': factors of rows above {2**16} tokens pass the range of "
                f"float32; got L={q.shape[1]}. Use 'rope', or extend in chunks"
            )
        middle = q.shape[1] // 2
        options = {"base": self.base, "interleaved": self.interleaved}
        q = xpos(q, q_positions - middle, **options)
        return q, xpos(k, k_positions - middle, keys=True, **options), None


class Alibi(Positions):
    """-slope_h |t - s| (Press et al. 2021, arXiv:2108.12409); both ways it is symmetric."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.term = Slopes(alibi_slopes(sizes.num_heads))

    def score(self, q: Array, k: Array, q_positions: Array, k_positions: Array) -> Scored:
        """A term without parameters."""
        return q, k, Relative(self.term)


class T5(Positions):
    """A learned bias for each bucket of distances and head (Raffel et al. 2020, 1910.10683).

    Where ours differs: T5 has one table for all layers, here each layer has its own.
    """

    def __init__(self, sizes: Sizes, *, num_buckets: int, max_distance: int, rngs: nnx.Rngs):
        """Raises ValueError for less than 4 buckets or a maximum that they cover one by one."""
        super().__init__(sizes)
        if num_buckets < 4 or max_distance <= num_buckets // 2:
            raise ValueError(
                "positions='t5' needs num_buckets of at least 4 and max_distance above half of "
                f"it; got {num_buckets=}, {max_distance=}"
            )
        ahead = np.arange(-max_distance, max_distance + 1)
        options = {"num_buckets": num_buckets, "max_distance": max_distance}
        buckets = t5_buckets(ahead, **options, causal=sizes.causal)
        self.term = Lookup.of(-max_distance, buckets)
        init = nnx.initializers.normal(sizes.d_model**-0.5)
        shape = (num_buckets, sizes.num_heads)
        self.embed = nnx.Param(init(rngs.params(), shape, sizes.param_dtype))

    def score(self, q: Array, k: Array, q_positions: Array, k_positions: Array) -> Scored:
        """A term from the table."""
        table = self.embed[...].T
        return q, k, Relative(self.term, Terms(table.astype(_wide(table))))


class Shaw(Positions):
    """q_t . a_(t-s), distances clipped (Shaw et al. 2018, arXiv:1803.02155, eq. 4 and 5).

    One table for all heads. Where ours differs: only keys have it, not values (their table 3 finds
    no gain from these).
    """

    def __init__(self, sizes: Sizes, *, max_distance: int, ahead: int | None = None, rngs):
        """`ahead`: most distance of later keys, 0 if causal, else `max_distance` by default."""
        super().__init__(sizes)
        ahead = (0 if sizes.causal else max_distance) if ahead is None else ahead
        if max_distance < 1 or ahead < 0:
            raise ValueError(
                f"positions='shaw' needs max_distance of at least 1; got {max_distance=}, {ahead=}"
            )
        rows = max_distance + ahead + 1  # row 0 is the key farthest back, as published
        self.term = Lookup.of(-ahead, np.arange(rows)[::-1])
        init = nnx.initializers.normal(sizes.d_head**-0.5)
        self.embed = nnx.Param(init(rngs.params(), (rows, sizes.d_head), sizes.param_dtype))

    def score(self, q: Array, k: Array, q_positions: Array, k_positions: Array) -> Scored:
        """A term of one number for each query and row of the table."""
        return q, k, Relative(self.term, Terms(None, _products(q, self.embed, self.scale)))


class TransformerXL(Positions):
    """(q_t + u) . k_s + (q_t + v) . W R_(t-s) (Dai et al. 2019, arXiv:1901.02860, section 3.3).

    R_d holds the sines and cosines of d. Since those of t - s are sums of products of those of t
    and s, the second term is a product of D more channels of the queries with sines and cosines of
    the keys' positions: no table of distances, any length. Cost O(L S (K + D)) per head.
    """

    def __init__(self, sizes: Sizes, *, base: float, rngs: nnx.Rngs):
        """Raises ValueError for an odd d_model."""
        super().__init__(sizes)
        if sizes.d_model % 2:
            raise ValueError(
                "positions='transformer_xl' pairs sines with cosines: d_model must be even, got "
                f"{sizes.d_model}"
            )
        self.base, self.d_model = base, sizes.d_model
        heads, width = sizes.num_heads, sizes.d_head
        self.pos_proj = Linear(
            sizes.d_model, heads * width, use_bias=False, param_dtype=sizes.param_dtype, rngs=rngs
        )
        self.bias = nnx.Param(jnp.zeros((2, heads, width), sizes.param_dtype))  # u and v

    def score(self, q: Array, k: Array, q_positions: Array, k_positions: Array) -> Scored:
        """Queries and keys with D more channels."""
        wide = _wide(q)
        u, v = self.bias[...].astype(q.dtype)
        kernel = self.pos_proj.kernel[...].astype(q.dtype)
        kernel = kernel.reshape(-1, 2, *q.shape[2:])  # sines on even rows, cosines on odd ones
        along = jnp.einsum("blhk,dchk->blhcd", q + v, kernel, preferred_element_type=wide)
        sine, cosine = along[..., 0, :], along[..., 1, :]
        sin_t, cos_t = self._waves(q_positions, wide)
        by_cos = sine * sin_t + cosine * cos_t
        by_sin = cosine * sin_t - sine * cos_t
        more = jnp.concatenate([by_sin, by_cos], -1).astype(q.dtype)
        waves = jnp.concatenate(self._waves(k_positions, wide), -1).astype(k.dtype)
        waves = jnp.broadcast_to(waves, (*k.shape[:3], waves.shape[-1]))
        return jnp.concatenate([q + u, more], -1), jnp.concatenate([k, waves], -1), None

    def _waves(self, positions: Array, dtype: DTypeLike) -> tuple[Array, Array]:
        angle = angles(positions, self.d_model, self.base, dtype)[:, :, None]
        return jnp.sin(angle), jnp.cos(angle)


class Disentangled(Positions):
    """DeBERTa (He et al. 2020, arXiv:2006.03654, eq. 4): q_t . kr_(t-s) + k_s . qr_(t-s).

    Position keys kr and queries qr are projections of one table of 2 span distances; scores are
    divided by sqrt(3K). Where ours differs: each layer has a table, DeBERTa one for all; and
    projections are never shared with those of the content (v2's `share_att_key`). While streaming,
    k_s . qr is made again for the whole cache at every call.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        span: int,
        max_distance: int,
        use_bias: bool = False,
        content_to_position: bool = True,
        position_to_content: bool = True,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for a span below 2 or a maximum that is less than it."""
        number = 1 + content_to_position + position_to_content
        if sizes.scale is None:
            sizes = dataclasses.replace(sizes, scale=(sizes.d_head * number) ** -0.5)
        super().__init__(sizes)
        if span < 2 or max_distance < span:
            raise ValueError(
                "positions='deberta' needs num_buckets of at least 4, half of them for each way, "
                f"and max_distance of at least 1; got {2 * span} and {max_distance}"
            )
        ahead = np.arange(-max_distance, max_distance + 1)
        rows = deberta_rows(ahead, span=span, max_distance=max_distance)
        self.term = Lookup.of(-max_distance, rows)
        self.num_heads = sizes.num_heads
        init = nnx.initializers.normal(0.02)
        self.embed = nnx.Param(init(rngs.params(), (2 * span, sizes.d_model), sizes.param_dtype))
        width = sizes.num_heads * sizes.d_head
        options = {"use_bias": use_bias, "dtype": sizes.dtype, "param_dtype": sizes.param_dtype}
        made = [
            Linear(sizes.d_model, width, **options, rngs=rngs) if wanted else None
            for wanted in (content_to_position, position_to_content)
        ]
        self.pos_k_proj, self.pos_q_proj = (nnx.data(projection) for projection in made)

    def score(self, q: Array, k: Array, q_positions: Array, k_positions: Array) -> Scored:
        """A term of one number for each query, key and row of the table."""
        by_query = by_key = None
        if self.pos_k_proj is not None:
            by_query = _products(q, self._rows(self.pos_k_proj), self.scale)
        if self.pos_q_proj is not None:
            repeated = jnp.repeat(k, self.num_heads // k.shape[2], axis=2)
            by_key = _products(repeated, self._rows(self.pos_q_proj), self.scale)
        return q, k, Relative(self.term, Terms(None, by_query, by_key))

    def _rows(self, projection: Linear) -> Float[Array, "M H K"]:
        rows = projection(self.embed[...])
        return rows.reshape(len(rows), self.num_heads, -1)


def plug_in(
    name: str,
    sizes: Sizes,
    *,
    base: float,
    interleaved: bool,
    fraction: float,
    scaling: str,
    factor: float,
    trained_length: int,
    num_buckets: int,
    max_distance: int,
    use_bias: bool,
    rngs: nnx.Rngs,
) -> Positions:
    """The plug-in `name` with attention's options. Raises ValueError for what cannot be."""
    check_positions("attention", name, KNOWN)
    if name == "none":
        return Positions(sizes)
    if name == "rope":
        options = {"scaling": scaling, "factor": factor, "trained_length": trained_length}
        return Rotary(sizes, base=base, interleaved=interleaved, fraction=fraction, **options)
    if name == "xpos":
        return XPos(sizes, base=base, interleaved=interleaved)
    if name == "alibi":
        return Alibi(sizes)
    if name == "t5":
        return T5(sizes, num_buckets=num_buckets, max_distance=max_distance, rngs=rngs)
    if name == "shaw":
        return Shaw(sizes, max_distance=max_distance, rngs=rngs)
    if name == "transformer_xl":
        return TransformerXL(sizes, base=base, rngs=rngs)
    span = min(num_buckets // 2, max_distance)
    options = {"max_distance": max_distance, "use_bias": use_bias}
    return Disentangled(sizes, span=span, **options, rngs=rngs)


KNOWN = ("none", "rope", "xpos", "alibi", "t5", "shaw", "transformer_xl", "deberta")


def _turned(d_head: int, fraction: float) -> int:
    """The channels of a head that turn."""
    if not 0 < fraction <= 1:
        raise ValueError(
            f"rope_fraction is a share of each head's channels in (0, 1]; got {fraction}"
        )
    width = round(fraction * d_head)
    if width < 2 or width % 2:
        raise ValueError(
            "RoPE rotates pairs and needs an even head width, or an even part of it; got "
            f"{d_head=}, rope_fraction={fraction}"
        )
    return width


def _check_even(d_head: int) -> None:
    if d_head % 2:
        raise ValueError(f"RoPE rotates pairs and needs an even head width; got {d_head=}")


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _products(x: Float[Array, "B L H K"], rows: Any, scale: float) -> Float[Array, "B L H M"]:
    """scale x . rows, the rows [M, K] of all heads or [M, H, K]; at least float32."""
    rows = jnp.asarray(rows[...]).astype(x.dtype)
    equation = "blhk,mk->blhm" if rows.ndim == 2 else "blhk,mhk->blhm"
    with jax.named_scope("relative"):
        return scale * jnp.einsum(equation, x, rows, preferred_element_type=_wide(x))
