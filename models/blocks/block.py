"""One residual block around any mixer, with its norms and its feed-forward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from seqzoo.models.attention.cross import Reader
from seqzoo.models.bidirectional import Bidirectional
from seqzoo.models.blocks.config import BackboneConfig
from seqzoo.models.blocks.initialization import deepnorm_skip, initialize
from seqzoo.models.blocks.layers import FeedForward, Norm, ShortConv, dropout
from seqzoo.models.blocks.mixture import MixtureOfExperts
from seqzoo.models.blocks.normformer import scale_heads
from seqzoo.models.composite import Composite, Run
from seqzoo.models.config import config_of
from seqzoo.models.linear_attention.channel_mix import ChannelMix
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.registry import build, mixer


class Block(Composite):
    """One residual block: x + mixer(norm(x)), then x + feedforward(norm(x)); or norm of the sum.

    Sandwich norm: CogView (Ding et al. 2021, arXiv:2105.13290, figure 3). NormFormer: Shleifer et
    al. 2021 (arXiv:2110.09456), without its learned scale of the residual. DeepNorm: Wang et al.
    2022 (arXiv:2203.00555), norm(alpha x + branch(x)). All work around any mixer.

    Mixers side by side read the same normed input; what comes of them is added up (Falcon-H1, Zuo
    et al. 2025, arXiv:2507.22448), or, with `branch_norm`, the mean of their norms (Hymba, Dong et
    al. 2024, arXiv:2411.13676).

    A decoder's block reads another sequence between the two, by a residual of the same kind.

    State: those of the short convolutions, the mixers and the feed-forward.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        config: BackboneConfig,
        *,
        beside: Sequence[tuple[str, Mapping[str, Any]]] = (),
        reader: Mapping[str, Any] | None = None,
        layer: Any = None,
        rngs: nnx.Rngs,
    ):
        """The mixer `name` with its `options`, in the block that `config` says.

        `beside`: the mixers in parallel with it, and their options. `reader`: the options of the
        cross-attention in a decoder (`Reader`). `layer` is (index, depth) in a
        stack, for what depends on it.
        """
        d, dtypes = config.d_model, {"dtype": config.dtype, "param_dtype": config.param_dtype}
        self.name, self.norm_position, self.rate = name, config.norm_position, config.dropout
        deep = deepnorm_skip(config.depth) if config.norm_position == "deep" else 1.0
        self.factors = (config.skip * deep, config.gain)
        self.ff_factors = (config.ff_skip * deep, config.ff_gain)
        norms = {"eps": config.norm_eps, **dtypes, "rngs": rngs}
        self.norm = Norm(config.norm, d, **norms)
        after = None if config.extra_norms == "none" else Norm(config.norm, d, **norms)
        self.after_norm = nnx.data(after)
        self.conv = nnx.data(_short_conv("a", config, rngs))
        self.mixer = _mixer(name, options, config, layer, rngs)
        self.beside = nnx.List([_mixer(*other, config, layer, rngs) for other in beside])
        normed = 1 + len(beside) if config.branch_norm else 0
        self.branch_norms = nnx.List([Norm(config.norm, d, **norms) for _ in range(normed)])
        self.reader = nnx.data(None)
        if reader is not None:
            self.reader_norm = Norm(config.norm, d, **norms)
            self.reader = nnx.data(Reader(d, **reader, **dtypes, rngs=rngs))
        ff = ff_conv = after = None
        if config.feedforward != "none":
            ff_conv = _short_conv("c", config, rngs)
            self.ff_norm = Norm(config.norm, d, **norms)
            ff = _feedforward(config, layer, rngs)
            after = Norm(config.norm, d, **norms) if config.extra_norms == "sandwich" else None
        self.feedforward, self.ff_after_norm = nnx.data(ff), nnx.data(after)
        self.ff_conv = nnx.data(ff_conv)
        self._take_after(*self.parts())
        initialize(self, config.init, config.depth)

    def parts(self) -> tuple[Mixer, ...]:
        """The mixers and the feed-forward, each behind its short convolution, if there is one."""
        mixers = (self.conv, self.mixer, *self.beside, self.reader)
        every = (*mixers, self.ff_conv, self.feedforward)
        return tuple(part for part in every if part is not None)

    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        def mix(h: Array) -> Array:
            with jax.named_scope(self.name):  # read in profiles
                h = h if self.conv is None else run(self.conv, h)
                made = [run(mixer, h) for mixer in (self.mixer, *self.beside)]
            if self.branch_norms:
                made = [n(y, ctx) / len(made) for n, y in zip(self.branch_norms, made, strict=True)]
            return sum(made[1:], start=made[0])

        def feed(h: Array) -> Array:
            with jax.named_scope("feedforward"):
                h = h if self.ff_conv is None else run(self.ff_conv, h)
                return run(self.feedforward, h)

        x = self._residual(x, mix, (self.norm, self.after_norm), self.factors, ctx)
        if self.reader is not None:
            read, norms = lambda h: run(self.reader, h), (self.reader_norm, None)
            x = self._residual(x, read, norms, self.factors, ctx)
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


def _mixer(
    name: str, options: Mapping[str, Any], config: BackboneConfig, layer: Any, rngs: nnx.Rngs
) -> Mixer:
    if config.short_conv and "b" in config.short_conv_at:
        options = _with_conv(name, options, config.short_conv)
    made = build(
        name,
        config.d_model,
        causal=config.causal,
        bidirectional={"shared": config.shared_directions},
        layer=layer,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        **options,
        rngs=rngs,
    )
    return (
        made
        if config.extra_norms != "normformer"
        else scale_heads(made, config.param_dtype, rngs=rngs)
    )


def _short_conv(place: str, config: BackboneConfig, rngs: nnx.Rngs) -> ShortConv | None:
    if not config.short_conv or place not in config.short_conv_at:
        return None
    dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
    return ShortConv(config.d_model, width=config.short_conv, **dtypes, rngs=rngs)


def _with_conv(name: str, options: Mapping[str, Any], width: int) -> dict[str, Any]:
    """A mixer's options with a short convolution of its own. Raises ValueError if it has none."""
    if "d_conv" not in {field.name for field in dataclasses.fields(config_of(mixer(name)))}:
        raise ValueError(
            f"short_conv_at: {name} has no option d_conv, and so no place b for a short "
            "convolution; take the others, acd"
        )
    return {"d_conv": width, **options}


def _feedforward(config: BackboneConfig, layer: Any, rngs: nnx.Rngs) -> Mixer:
    d = config.d_model
    options = {"expansion": config.expansion, "rngs": rngs}
    dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
    inside = config.short_conv if "d" in config.short_conv_at else 0
    if inside and config.feedforward in ("moe", "rwkv", "rwkv4", "rwkv7"):
        raise ValueError(
            f"short_conv_at: feedforward={config.feedforward!r} has no place d for a short "
            "convolution; take the others, abc"
        )
    if config.feedforward == "moe":
        sizes = {"num_experts": config.experts, "top_k": config.experts_per_token}
        sizes["capacity_factor"] = config.expert_capacity
        return MixtureOfExperts(d, routing=config.routing, **sizes, **options, **dtypes)
    if config.feedforward not in ("rwkv", "rwkv4", "rwkv7"):
        inner_norm = config.norm if config.extra_norms == "normformer" else None
        more = {"use_bias": config.feedforward_bias, "inner_norm": inner_norm}
        more["conv_width"] = inside
        return FeedForward(d, kind=config.feedforward, **more, **options, **dtypes)

    def make() -> ChannelMix:
        how = {"receptance": config.feedforward != "rwkv7"}
        how["share_of_now"] = config.feedforward == "rwkv4"
        return ChannelMix(d, layer=layer, **how, **options, **dtypes)

    if config.causal:
        return make()
    backward = None if config.shared_directions else make()
    return Bidirectional(make(), backward, d, **dtypes, rngs=rngs)
