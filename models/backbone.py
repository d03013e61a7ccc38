"""The backbone, once for all mixers: embed -> N x (norm, mixer, norm, feed-forward) -> norm.

Blocks and stacks are mixers themselves: they keep the contract of `mixer.py` and hand the same
`Context` to their parts. A stack of equal units is vmapped at birth and scanned in use, so that its
compile time does not grow with depth; what its blocks write (batch statistics, codebooks, auxiliary
losses) comes back as outputs of the scan.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from seqzoo.models.bidirectional import Bidirectional
from seqzoo.models.composite import Chain, Composite, Run
from seqzoo.models.initialization import InitKind, deepnorm_skip, initialize
from seqzoo.models.layers import (
    FeedForward,
    FeedForwardKind,
    Norm,
    NormKind,
    ShortConv,
    dropout,
)
from seqzoo.models.linear_attention.channel_mix import ChannelMix
from seqzoo.models.mixer import AuxLoss, Constant, Context, FloatName, Mixer
from seqzoo.models.mixture import MixtureOfExperts, Routing
from seqzoo.models.normformer import scale_heads
from seqzoo.models.ops.layout.sharding import by_rows
from seqzoo.models.registry import build, pattern_options

Remat = Literal["none", "full", "dots"]
REMAT_POLICIES: dict[str, Callable | None] = {
    "full": None,  # keep nothing but the block's input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep the projections
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Everything of a model that is not its mixer."""

    d_model: int = 64  # width of the residual stream
    depth: int = 2  # blocks; a multiple of the pattern's length
    # repeat: the pattern recurs; sections: each of its mixers takes an equal share in a row;
    # listed: it names every block
    arrangement: Literal["repeat", "sections", "listed"] = "repeat"
    # other values of a block's fields by place in the pattern, and under "mixer" options of it
    each: tuple[Mapping[str, Any], ...] = ()
    # rms, centered_rms (its scale kept less 1), layer, or batch (real tokens of the global batch)
    norm: NormKind = "rms"
    norm_eps: float | None = None  # added to the variance; None: 1e-6, batch 1e-5
    # pre: of each branch's input; both: of what goes through the branch and past it; post: of each
    # sum; deep: post with DeepNorm's larger skip
    norm_position: Literal["pre", "both", "post", "deep"] = "pre"
    skip: float = 1.0  # factor of what goes past the mixer
    gain: float = 1.0  # factor of what the mixer adds
    ff_skip: float = 1.0  # the same of the feed-forward
    ff_gain: float = 1.0
    # sandwich: each branch's output too; normformer: the mixer's output and inside the
    # feed-forward, and a learned gain for each head
    extra_norms: Literal["none", "sandwich", "normformer"] = "none"
    init: InitKind = "default"  # deepnorm (smaller branches), t5 (queries for unscaled scores)
    # mlp (GELU by tanh), gelu (exact), relu, glu, swiglu, geglu, rwkv (rwkv4: its shares are the
    # current token's), rwkv7, moe or none
    feedforward: FeedForwardKind = "mlp"
    feedforward_bias: bool = True  # whether the feed-forward's projections have biases
    expansion: float = 2.0  # hidden width of the feed-forward in units of d_model
    experts: int = 8  # of feedforward="moe"; `expansion` is that of each
    experts_per_token: int = 2
    expert_capacity: float = 1.25  # tokens an expert takes in training, in units of an even share
    routing: Routing = dataclasses.field(
        default_factory=Routing
    )  # what the experts are, and how tokens come to them
    dropout: float = 0.0  # of the embedding and of each branch, in [0, 1)
    short_conv: int = 0  # width of a causal convolution in front of every mixer; 0: none
    embed_scale: float = 1.0  # factor of the embedding
    embed_width: int = (
        0  # of the embedding, where it is projected to d_model; 0: d_model, it is not
    )
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
        if self.d_model < 1 or self.depth < 1:
            raise ValueError(
                f"d_model and depth must be at least 1; got {self.d_model=}, {self.depth=}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")
        if self.position_width < 1:
            raise ValueError(f"position_width must be at least 1; got {self.position_width}")
        if self.short_conv < 0:
            raise ValueError(f"short_conv is a width of at least 0; got {self.short_conv}")
        object.__setattr__(self, "each", tuple(_frozen(own) for own in self.each))
        if not isinstance(self.routing, Routing):  # as JSON has it
            object.__setattr__(self, "routing", Routing(**dict(self.routing)))
        for field, hint in typing.get_type_hints(BackboneConfig).items():
            known = typing.get_args(hint)
            if typing.get_origin(hint) is Literal and getattr(self, field) not in known:
                raise ValueError(
                    f"unknown {field}={getattr(self, field)!r} (known: {', '.join(known)})"
                )


class Block(Composite):
    """One residual block: x + mixer(norm(x)), then x + feedforward(norm(x)); or norm of the sum.

    Sandwich norm: CogView (Ding et al. 2021, arXiv:2105.13290, figure 3). NormFormer: Shleifer et
    al. 2021 (arXiv:2110.09456), without its learned scale of the residual. DeepNorm: Wang et al.
    2022 (arXiv:2203.00555), norm(alpha x + branch(x)). All work around any mixer.

    State: those of the short convolution, the mixer and the feed-forward.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        config: BackboneConfig,
        *,
        layer: Any = None,
        rngs: nnx.Rngs,
    ):
        d, dtypes = config.d_model, {"dtype": config.dtype, "param_dtype": config.param_dtype}
        self.name, self.norm_position, self.rate = name, config.norm_position, config.dropout
        deep = deepnorm_skip(config.depth) if config.norm_position == "deep" else 1.0
        self.factors = (config.skip * deep, config.gain)
        self.ff_factors = (config.ff_skip * deep, config.ff_gain)
        norms = {"eps": config.norm_eps, **dtypes, "rngs": rngs}
        self.norm = Norm(config.norm, d, **norms)
        after = None if config.extra_norms == "none" else Norm(config.norm, d, **norms)
        self.after_norm = nnx.data(after)
        conv = (
            ShortConv(d, width=config.short_conv, **dtypes, rngs=rngs)
            if config.short_conv
            else None
        )
        self.conv = nnx.data(conv)
        self.mixer = build(
            name,
            d,
            causal=config.causal,
            bidirectional={"shared": config.shared_directions},
            layer=layer,
            **dtypes,
            **options,
            rngs=rngs,
        )
        if config.extra_norms == "normformer":
            self.mixer = scale_heads(self.mixer, config.param_dtype, rngs=rngs)
        ff = after = None
        if config.feedforward != "none":
            self.ff_norm = Norm(config.norm, d, **norms)
            ff = _feedforward(config, layer, rngs)
            after = Norm(config.norm, d, **norms) if config.extra_norms == "sandwich" else None
        self.feedforward, self.ff_after_norm = nnx.data(ff), nnx.data(after)
        self._take_after(*self.parts())
        initialize(self, config.init, config.depth)

    def parts(self) -> tuple[Mixer, ...]:
        """The short convolution, the mixer and the feed-forward, where there are any."""
        return tuple(p for p in (self.conv, self.mixer, self.feedforward) if p is not None)

    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        def mix(h: Array) -> Array:
            with jax.named_scope(self.name):  # read in profiles
                return run(self.mixer, h if self.conv is None else run(self.conv, h))

        def feed(h: Array) -> Array:
            with jax.named_scope("feedforward"):
                return run(self.feedforward, h)

        x = self._residual(x, mix, (self.norm, self.after_norm), self.factors, ctx)
        if self.feedforward is None:
            return x
        return self._residual(x, feed, (self.ff_norm, self.ff_after_norm), self.ff_factors, ctx)

    def _residual(
        self,
        x: Array,
        branch: Callable[[Array], Array],
        norms: tuple[Norm, Norm | None],
        factors: tuple[float, float],
        ctx: Context,
    ) -> Array:
        (norm, after), (skip, gain) = norms, factors
        post = self.norm_position in ("post", "deep")
        normed = x if post else norm(x, ctx)
        h = branch(normed)
        h = dropout(h if after is None else after(h, ctx), self.rate, ctx)
        x = skip * (normed if self.norm_position == "both" else x) + gain * h
        return norm(x, ctx) if post else x


def _feedforward(config: BackboneConfig, layer: Any, rngs: nnx.Rngs) -> Mixer:
    d = config.d_model
    options = {"expansion": config.expansion, "rngs": rngs}
    dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
    if config.feedforward == "moe":
        sizes = {"num_experts": config.experts, "top_k": config.experts_per_token}
        sizes["capacity_factor"] = config.expert_capacity
        return MixtureOfExperts(d, routing=config.routing, **sizes, **options, **dtypes)
    if config.feedforward not in ("rwkv", "rwkv4", "rwkv7"):
        inner_norm = config.norm if config.extra_norms == "normformer" else None
        more = {"use_bias": config.feedforward_bias, "inner_norm": inner_norm}
        return FeedForward(d, kind=config.feedforward, **more, **options, **dtypes)

    def make() -> ChannelMix:
        how = {"receptance": config.feedforward != "rwkv7"}
        how["share_of_now"] = config.feedforward == "rwkv4"
        return ChannelMix(d, layer=layer, **how, **options, **dtypes)

    if config.causal:
        return make()
    backward = None if config.shared_directions else make()
    return Bidirectional(make(), backward, d, **dtypes, rngs=rngs)


WRITTEN = nnx.Not(nnx.Any(nnx.Param, Constant))  # what a call may change


class Stack(Composite):
    """`repeats` units of one structure, one after another, scanned or unrolled.

    State: that of a unit with a depth axis after the batch axis (scanned), or a tuple of them.
    """

    def __init__(
        self,
        make_unit: Callable[[Any, nnx.Rngs], Mixer],
        repeats: int,
        *,
        scan: bool = True,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ):
        """`make_unit(index, rngs)` makes a unit; `index` is traced where the stack is scanned."""
        self.repeats, self.scan, self.remat = repeats, scan, remat
        if scan:
            make = nnx.vmap(lambda index, r: make_unit(index, r))
            self.units = make(jnp.arange(repeats), rngs.split(repeats))
        else:
            self.units = nnx.List([make_unit(index, rngs) for index in range(repeats)])
        self._take_after(*self.parts())

    def parts(self) -> tuple[Mixer, ...]:
        """The units; scanned, they are one module, whose arrays have an axis of depth."""
        return (self.units,) if self.scan else tuple(self.units)

    def _initial(self, batch_size: int) -> PyTree:
        if not self.scan:
            return super()._initial(batch_size)

        def repeat(a: Array) -> Array:
            return jnp.repeat(a[:, None], self.repeats, axis=1)

        return jax.tree.map(repeat, self.units._initial(batch_size))

    def state_size(self) -> int:
        """`repeats` times that of a unit."""
        return self.repeats * self.parts()[0].state_size()

    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        raise NotImplementedError("a stack runs its units as one body; see _mix")

    def _mix(self, x: Float[Array, "B L D"], inner: PyTree, ctx: Context):
        keys = jax.random.split(ctx.key(), self.repeats) if ctx.training else None
        run = self._scan if self.scan else self._unroll
        return run(x, inner, keys, ctx)

    def _scan(self, x: Array, inner: PyTree, keys: Array | None, ctx: Context):
        states = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), inner)
        body, layers = self._body(self.units, ctx)
        carry, (written, states) = jax.lax.scan(body, (x, ctx.shared), (*layers, states, keys))
        x, ctx.shared = carry
        nnx.update(self.units, written)
        return x, jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), states)

    def _unroll(self, x: Array, inner: PyTree, keys: Array | None, ctx: Context):
        states = []
        for i, unit in enumerate(self.units):
            body, layer = self._body(unit, ctx)
            own = tuple(None if a is None else a[i] for a in (inner, keys))
            (x, ctx.shared), (written, state) = body((x, ctx.shared), (*layer, *own))
            nnx.update(unit, written)
            states.append(state)
        return x, None if inner is None else tuple(states)

    def _body(self, unit: Mixer, ctx: Context) -> tuple[Callable, tuple]:
        """One layer as a pure function of (x, shared) and (its arrays, its state, a key)."""
        graphdef, params, rest = nnx.split(unit, nnx.Param, ...)

        def body(carry: tuple, layer: tuple) -> tuple[tuple, tuple]:
            (x, shared), (params, rest, state, key) = carry, layer
            unit = nnx.merge(graphdef, params, rest, copy=True)
            own = Context(ctx.segments, None if key is None else nnx.Rngs(key), shared)
            x, state = unit.apply(by_rows(x), state, own)
            written = nnx.state(unit, WRITTEN if ctx.training else nnx.Nothing())
            return (x, own.shared), (written, state)

        if self.remat != "none":
            policy = REMAT_POLICIES[self.remat]
            body = jax.checkpoint(body, policy=policy, prevent_cse=not self.scan)
        return body, (params, rest)


class Backbone(Composite):
    """A stack of blocks by a pattern of mixers, with a final norm where the norms come first."""

    bare = True

    def __init__(
        self,
        pattern: tuple[str, ...],
        config: BackboneConfig,
        options: Mapping[str, Any] | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        """`options` as in `pattern_options`. Raises ValueError for a depth that does not fit."""
        kinds = _kinds(pattern, config, pattern_options(pattern, options or {}))

        def make_stack(start: int, period: int, repeats: int) -> Stack:
            def make_block(i: int, index: Any, rngs: nnx.Rngs) -> Block:
                name, own, changed = kinds[start + i]
                layer = (index * period + start + i, config.depth)
                return Block(name, own, changed, layer=layer, rngs=rngs)

            def make_unit(index: Any, rngs: nnx.Rngs) -> Mixer:
                blocks = [make_block(i, index, rngs) for i in range(period)]
                return blocks[0] if len(blocks) == 1 else Chain(blocks)

            scan = config.scan and (repeats > 1 or config.arrangement != "listed")
            return Stack(make_unit, repeats, scan=scan, remat=config.remat, rngs=rngs)

        stacks = [make_stack(*run) for run in _runs(kinds, len(pattern), config.arrangement)]
        self.stack = stacks[0] if len(stacks) == 1 else Chain(stacks)
        self._take_after(self.stack)
        final = None
        if config.norm_position in ("pre", "both"):
            dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
            final = Norm(config.norm, config.d_model, eps=config.norm_eps, **dtypes, rngs=rngs)
        self.norm = nnx.data(final)

    def parts(self) -> tuple[Mixer, ...]:
        """The stack."""
        return (self.stack,)

    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        if ctx.shared is None:
            ctx.shared = self.initial_shared(x)
        x = run(self.stack, x)
        return x if self.norm is None else self.norm(x, ctx)


Kind = tuple[str, Mapping[str, Any], BackboneConfig]  # a block's mixer, its options, the rest


def _kinds(
    pattern: tuple[str, ...], config: BackboneConfig, options: Sequence[Mapping[str, Any]]
) -> list[Kind]:
    """What each block of the depth is. Raises ValueError for a pattern that does not fit."""
    depth, count = config.depth, len(pattern)
    if config.arrangement == "listed" and depth != count:
        raise ValueError(
            f"arrangement='listed' names every block; got {count} names for {config.depth=}"
        )
    if depth % count:
        raise ValueError(
            f"depth must be a multiple of the pattern's length; got {config.depth=} for "
            f"{count} mixers ({', '.join(pattern)})"
        )
    if len(config.each) not in (0, count):
        raise ValueError(
            f"each has other fields for {len(config.each)} places of a pattern of {count} "
            f"({', '.join(pattern)}); give one mapping for each place, {{}} for none"
        )
    places = []
    for i, (name, own) in enumerate(zip(pattern, options, strict=True)):
        changed = dict(config.each[i]) if config.each else {}
        own = {**own, **dict(changed.pop("mixer", ()))}
        places.append((name, own, dataclasses.replace(config, each=(), **changed)))
    repeats = depth // count
    if config.arrangement == "sections":
        return [place for place in places for _ in range(repeats)]
    return places * repeats


def _runs(kinds: list[Kind], count: int, arrangement: str) -> list[tuple[int, int, int]]:
    """(first block, blocks of a unit, units) of stacks that make up the depth.

    Listed blocks recur as far as they do: the longest run of units from each block on.
    """
    if arrangement == "sections":
        repeats = len(kinds) // count
        return [(i * repeats, 1, repeats) for i in range(count)]
    if arrangement == "repeat":
        return [(0, count, len(kinds) // count)]
    runs, start = [], 0
    while start < len(kinds):
        period, repeats = max(
            ((p, _recurs(kinds[start:], p)) for p in range(1, len(kinds) - start + 1)),
            key=lambda run: (run[0] * run[1] if run[1] > 1 else 0, -run[0]),
        )
        runs.append((start, period, repeats))
        start += period * repeats
    return runs


def _recurs(kinds: list[Kind], period: int) -> int:
    """How often the first `period` blocks come in a row."""
    same = (i for i, kind in enumerate(kinds) if kind != kinds[i % period])
    return next(same, len(kinds)) // period


def _frozen(own: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """A mapping as pairs, which can be hashed and come back from JSON."""
    return tuple((k, _frozen(v) if isinstance(v, Mapping) else v) for k, v in dict(own).items())


def aux_losses(module: nnx.Module) -> Float[Array, ""]:
    """The sum of all auxiliary losses that the last call in training mode wrote."""
    terms = jax.tree.leaves(nnx.state(module, AuxLoss))
    return sum((term.sum() for term in terms), start=jnp.zeros(()))
