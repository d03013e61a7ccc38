"""What an encoding of position is to softmax attention, and those that have no parameters.

An encoding is two things: a small dataclass of its options, a value (`Rope(base=5e5)`), and the
plug-in that it makes for one attention, a module. A plug-in may change queries, keys and values
before keys and values are kept (`turn`), and the scores (`score`): it gives other queries and keys,
or a term that attention makes block by block. All count the tokens of a segment, and all but `turn`
see differences of positions only. Positions may also come from what the tokens say: a plug-in that
marks tokens (`mark`) with numbers of its own, a running sum for one, finds them in `score`, and
streams keep them beside keys. A new kind is such a dataclass, its plug-in, and a place in the list
of `kinds.py`; `Attention` takes one's own as it is.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.errors import unknown
from seqzoo.models.linear import Linear
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax import rope_scaling
from seqzoo.models.ops.softmax.relative import Relative, Slopes
from seqzoo.models.ops.softmax.rope import rope, xpos

Scored = tuple[Float[Array, "B L H E"], Float[Array, "B S Hkv E"], Relative | None]
Turned = tuple[Float[Array, "B L H K"], Float[Array, "B L Hkv K"], Float[Array, "B L Hkv K"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What every plug-in may need to know of its attention."""

    d_model: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    causal: bool
    scale: float | None = None  # of the scores; None for the usual one
    use_bias: bool = False  # of the projections
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32


class Tokens(NamedTuple):
    """What scores may read of tokens besides queries and keys."""

    position: Int[Array, "#B L"]  # in the segment; where a stream continues, less what came before
    marks: Float[Array, "B L M"] | None = None


class Scoring(Protocol):
    """What attention asks for the scores of its queries and keys."""

    scale: float

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """See `PlugIn.score`."""


class PlugIn(nnx.Module):
    """No positions at all, and what the others inherit."""

    num_marks: int = 0  # M, of a token

    def __init__(self, sizes: Sizes):
        self.scale = sizes.d_head**-0.5 if sizes.scale is None else sizes.scale

    def turn(self, q: Array, k: Array, v: Array, positions: Int[Array, "#B L"]) -> Turned:
        """Queries, keys and values before keys and values are kept."""
        return q, k, v

    def mark(
        self, x: Float[Array, "B L D"], layout: Segments, before: Float[Array, "B M"] | None
    ) -> Float[Array, "B L M"] | None:
        """The marks of tokens from attention's input, at least float32.

        `before` are those of the token to whose segment the first run belongs, if one streams.
        """
        return None

    def beside(self, q_proj: Linear, k_proj: Linear) -> Scoring:
        """What scores for an attention with these projections, which it may use too."""
        return self

    def score(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B S Hkv K"],
        q_at: Tokens,
        k_at: Tokens,
    ) -> Scored:
        """The queries and keys to multiply, and a term of the scaled scores."""
        return q, k, None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """No positions: the order of tokens is seen through the mask of causal attention alone."""

    kind: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(field.default, float):
                positive = 0 < getattr(self, field.name) < math.inf
                self.check(positive, f"{field.name} is a positive number", field.name)
        for name, hint in typing.get_type_hints(type(self)).items():
            known = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
            if known and getattr(self, name) not in known:
                raise unknown(f"{name} of positions={self.kind!r}", getattr(self, name), known)

    def check(self, holds: bool, rule: str, *names: str) -> None:
        """Raises ValueError with the rule and the values of options `names`, unless it `holds`."""
        if not holds:
            got = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            raise ValueError(f"positions={self.kind!r}: {rule}; got {got}")

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """What attention of these sizes calls. Raises ValueError for sizes that cannot be."""
        return PlugIn(sizes)

    def __str__(self) -> str:
        """The text that `positions.encoding` reads: the kind, and options that are no defaults."""
        own = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        options = ",".join(f"{name}={value}" for name, value, default in own if value != default)
        return f"{self.kind}:{options}" if options else self.kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope(Encoding):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864), frequencies scaled on request."""

    kind = "rope"
    base: float = 10000.0  # of the wavelengths, 2 pi base^(2 i / K) tokens
    interleaved: bool = False  # pairs of neighbours, as in the paper, else of halves
    # of a head's channels, the first ones, that turn (GPT-NeoX, Black et al. 2022, 2204.06745)
    fraction: float = 1.0
    values: bool = False  # turn too, as RoFormer's code can
    scaling: Literal["none", "linear", "ntk", "yarn", "llama3"] = "none"  # of the wavelengths
    factor: float = 1.0  # of the length, for `scaling`
    trained_length: int = 2048  # tokens, of yarn and llama3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.fraction <= 1, "a share of each head's channels is in (0, 1]", "fraction")
        self.check(self.trained_length > 0, "a length is at least 1", "trained_length")

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """Raises ValueError for a width that does not turn in pairs."""
        return Rotary(self, sizes)


class Rotary(PlugIn):
    """The rotation of queries and keys, which are kept rotated."""

    def __init__(self, options: Rope, sizes: Sizes):
        super().__init__(sizes)
        width = self.width = round(options.fraction * sizes.d_head)
        if width < 2 or width % 2:
            raise ValueError(
                "RoPE rotates pairs and needs an even head width, or an even part of it; got "
                f"d_head={sizes.d_head}, fraction={options.fraction}"
            )
        self.interleaved, self.values = options.interleaved, options.values
        kind, more = options.scaling, {"factor": options.factor}
        if kind == "none":
            kind, more = "linear", {"factor": 1.0}
        elif kind in ("yarn", "llama3"):
            more["trained_length"] = options.trained_length
        made = getattr(rope_scaling, f"{kind}_scaling")(width, options.base, **more)
        self.frequencies = tuple(float(f) for f in made.frequencies)
        self.magnitude = made.magnitude

    def turn(self, q: Array, k: Array, v: Array, positions: Int[Array, "#B L"]) -> Turned:
        """The rotation."""
        q, k = (self._turned(x, positions) for x in (q, k))
        return q, k, self._turned(v, positions) if self.values else v

    def _turned(self, x: Float[Array, "B L H K"], positions: Int[Array, "#B L"]) -> Array:
        turned = rope(
            x[..., : self.width],
            positions,
            interleaved=self.interleaved,
            frequencies=self.frequencies,
            magnitude=self.magnitude,
        )
        return jnp.concatenate([turned, x[..., self.width :]], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class XPos(Encoding):
    """RoPE whose scores decay with the distance (Sun et al. 2022, arXiv:2212.10554)."""

    kind = "xpos"
    base: float = 10000.0  # as of `Rope`
    interleaved: bool = False  # as of `Rope`

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """Raises ValueError for an odd head width and where queries see later keys."""
        return DecayedRotary(self, sizes)


class DecayedRotary(PlugIn):
    """Queries and keys turned and scaled when they are multiplied."""

    def __init__(self, options: XPos, sizes: Sizes):
        super().__init__(sizes)
        if sizes.d_head % 2:
            raise ValueError(f"RoPE rotates pairs and needs an even head width; got {sizes.d_head}")
        if not sizes.causal:
            raise ValueError(
                "positions='xpos' multiplies scores by zeta^(t - s) with zeta < 1, which grows "
                "without bound for keys after the query; use 'rope' where causal=False"
            )
        self.options: dict[str, Any] = dataclasses.asdict(options)

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """Rotated and scaled around the middle of the queries, where factors are near 1."""
        if q.shape[1] > 2**16:
            raise ValueError(
                f"positions='xpos': factors of rows above {2**16} tokens pass the range of "
                f"float32; got L={q.shape[1]}. Use 'rope', or extend in chunks"
            )
        middle = q.shape[1] // 2
        q = xpos(q, q_at.position - middle, **self.options)
        return q, xpos(k, k_at.position - middle, keys=True, **self.options), None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alibi(Encoding):
    """-slope_h |t - s| (Press et al. 2021, arXiv:2108.12409); both ways it is symmetric."""

    kind = "alibi"

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """A term without parameters."""
        return Sloped(sizes)


class Sloped(PlugIn):
    """The term of ALiBi."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.term = Slopes(alibi_slopes(sizes.num_heads))

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """A term without parameters."""
        return q, k, Relative(self.term)


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """2^(-8h/H) for heads h = 1 .. H where H is a power of two (Press et al. 2021).

    arXiv:2108.12409, section 3. For another H, as published: those of the next lower power of two,
    then every other one of twice that power.
    """
    lower = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * h / lower) for h in range(1, lower + 1)]
    between = [2 ** (-4 * h / lower) for h in range(1, 2 * lower + 1, 2)]
    return tuple(slopes + between[: num_heads - lower])
