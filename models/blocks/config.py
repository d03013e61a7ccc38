"""Every option of a model that is not its mixer."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from seqzoo.models.blocks.initialization import InitKind
from seqzoo.models.blocks.layers import FeedForwardKind, NormKind
from seqzoo.models.blocks.mixture import Routing
from seqzoo.models.mixer import FloatName

Remat = Literal["none", "full", "dots"]
LARGEST = 2**24  # width or depth; arrays of more numbers than there are addresses cannot be drawn
COUNTS = {  # field -> the least and the most that it can be
    **dict.fromkeys(("d_model", "depth", "experts", "position_width"), (1, LARGEST)),
    **dict.fromkeys(("embed_width", "token_types", "position_offset"), (0, LARGEST)),
    "experts_per_token": (1, LARGEST),
    "short_conv": (0, 4096),  # one shifted copy of the input each; `long_conv` is for more
}
NUMBERS: Mapping[str, tuple[str, Callable[[float], bool]]] = {  # field -> what it must be
    **dict.fromkeys(
        ("skip", "gain", "ff_skip", "ff_gain", "embed_scale"), ("a finite number", math.isfinite)
    ),
    **dict.fromkeys(("norm_eps", "logit_cap"), ("at least 0", lambda x: x >= 0)),
    **dict.fromkeys(("expansion", "expert_capacity"), ("above 0", lambda x: x > 0)),
    "dropout": ("in [0, 1)", lambda x: 0 <= x < 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Everything of a model that is not its mixer."""

    d_model: int = 64  # width of the residual stream
    depth: int = 2  # blocks; a multiple of the pattern's length
    # repeat: the pattern recurs; sections: each of its mixers takes an equal share in a row;
    # listed: it names every block; parallel: all its mixers read the same input in every block
    arrangement: Literal["repeat", "sections", "listed", "parallel"] = "repeat"
    branch_norm: bool = False  # parallel mixers: the mean of their normed outputs, not the sum
    # in `each`, of the pattern's last place: one block, which comes back wherever the pattern does
    tied: bool = False
    # other values of a block's fields by place in the pattern, and under "mixer" options of it
    each: tuple[Mapping[str, Any], ...] = ()
    # rms, centered_rms (its scale kept less 1), layer, batch (real tokens of the global batch) or
    # none
    norm: NormKind = "rms"
    norm_eps: float | None = None  # added to the variance; None: 1e-6, batch 1e-5
    # pre: of each branch's input; both: of what goes through the branch and past it; post: of each
    # sum; deep: post with DeepNorm's larger skip
    norm_position: Literal["pre", "both", "post", "deep"] = "pre"
    skip: float = 1.0  # factor of what goes past the mixer
    gain: float = 1.0  # factor of what the mixer adds
    ff_skip: float = 1.0  # factor of what goes past the feed-forward
    ff_gain: float = 1.0  # factor of what the feed-forward adds
    # sandwich: each branch's output too; normformer: the mixer's output and inside the
    # feed-forward, and a learned gain for each head
    extra_norms: Literal["none", "sandwich", "normformer"] = "none"
    init: InitKind = "default"  # deepnorm (smaller branches), t5 (queries for unscaled scores)
    # mlp (GELU by tanh), gelu (exact), relu, relu2 (its square), glu, swiglu, geglu, rwkv (rwkv4:
    # its shares are the current token's), rwkv7, moe or none
    feedforward: FeedForwardKind = "mlp"
    feedforward_bias: bool = True  # whether the feed-forward's projections have biases
    expansion: float = 2.0  # hidden width of the feed-forward in units of d_model
    experts: int = 8  # of feedforward="moe"; `expansion` is that of each
    experts_per_token: int = 2  # that see it
    expert_capacity: float = 1.25  # tokens an expert takes in training, in units of an even share
    routing: Routing = dataclasses.field(
        default_factory=Routing
    )  # what the experts are, and how tokens come to them
    dropout: float = 0.0  # of the embedding and of each branch, in [0, 1)
    short_conv: int = 0  # width of causal convolutions at `short_conv_at`; 0: none
    # any of a (a mixer's input), b (its queries, keys and values: the option d_conv), c (a
    # feed-forward's input), d (its hidden units); abcd: Canon layers (2512.17351)
    short_conv_at: str = "a"
    embed_scale: float = 1.0  # factor of the embedding
    embed_width: int = 0  # of the embedding, which is then projected; 0: d_model, it is not
    token_types: int = 0  # kinds of tokens that the embedding tells apart; all are of the first
    positions: Literal["none", "sinusoidal", "learned", "conv"] = "none"  # added to the embedding
    position_offset: int = 0  # rows of learned positions before the first one
    position_width: int = 16  # tokens on a side that positions="conv" sees, its own counted
    embed_norm: bool = False  # normalise the sum of embedding and positions
    pooling: Literal["mean", "last", "first"] = "mean"  # over real tokens, for classifiers
    tie_embeddings: bool = False  # use the embedding as language-model head
    head_bias: bool | None = None  # of the outputs; None: where they have weights of their own
    # a layer, the feed-forward's activation and a norm before the outputs, as in BERT
    head_transform: bool = False
    logit_cap: float = 0.0  # c: outputs are c tanh(y / c); 0: as they are
    wide_residual: bool = False  # sums between blocks in at least float32, whatever dtype is
    causal: bool = True  # False: mixers look both ways
    shared_directions: bool = False  # one set of weights for both ways, where they are wrapped
    remat: Remat = "none"  # what the backward pass recomputes: none, full or dots
    scan: bool = True  # one compiled unit for the whole depth
    dtype: FloatName = "float32"  # of matrix products
    param_dtype: FloatName = "float32"  # of parameters

    def __post_init__(self) -> None:
        for field, (least, most) in COUNTS.items():
            if not least <= getattr(self, field) <= most:
                raise ValueError(
                    f"{field} must be {least} to {most}; got {field}={getattr(self, field)}"
                )
        for field, (rule, holds) in NUMBERS.items():
            value = getattr(self, field)
            if value is not None and not (abs(value) <= LARGEST and holds(value)):
                raise ValueError(f"{field} must be {rule}, at most {LARGEST}; got {field}={value}")
        if not self.short_conv_at or not set(self.short_conv_at) <= set("abcd"):
            raise ValueError(
                "short_conv_at has some of the letters a (a mixer's input), b (its queries, keys "
                "and values), c (a feed-forward's input), d (its hidden units); got "
                f"{self.short_conv_at!r}"
            )
        object.__setattr__(self, "each", tuple(_frozen(own) for own in self.each))
        if not isinstance(self.routing, Routing):  # as JSON has it
            object.__setattr__(self, "routing", Routing(**dict(self.routing)))
        for field, hint in typing.get_type_hints(BackboneConfig).items():
            known = typing.get_args(hint)
            if typing.get_origin(hint) is Literal and getattr(self, field) not in known:
                raise ValueError(
                    f"unknown {field}={getattr(self, field)!r} (known: {', '.join(known)})"
                )


def _frozen(own: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """A mapping as pairs, which can be hashed and come back from JSON."""
    return tuple((k, _frozen(v) if isinstance(v, Mapping) else v) for k, v in dict(own).items())
