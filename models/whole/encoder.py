"""Embedding, positions and backbone: what every task has below its head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from seqzoo.models import door
from seqzoo.models.backbone import Backbone, BackboneConfig
from seqzoo.models.blocks.layers import ConvPositions, Norm, dropout
from seqzoo.models.composite import Composite, Run
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.softmax.rope import sinusoidal
from seqzoo.models.registry import with_room
from seqzoo.models.spec import ModelSpec


class Encoder(Composite):
    """Embedding, positions and backbone: tokens [B, L] or features [B, L, F] to [B, L, D].

    Positions count the real tokens of a segment. State: the backbone's, and before it that of
    positions="conv".
    """

    def __init__(
        self,
        spec: ModelSpec,
        pattern: tuple[str, ...],
        config: BackboneConfig,
        options: Mapping[str, Any],
        *,
        rngs: nnx.Rngs,
    ):
        d, width = config.d_model, config.embed_width or config.d_model
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype, "rngs": rngs}
        if spec.vocab_size is not None:
            init = nnx.initializers.normal(1.0 if config.init == "t5" else d**-0.5)
            self.embed = nnx.Embed(spec.vocab_size, width, embedding_init=init, **dtypes)
        else:
            self.embed = Linear(spec.features, width, **dtypes)
        small = nnx.initializers.normal(0.02)
        if config.token_types:
            table = small(rngs.params(), (config.token_types, width), config.param_dtype)
            self.type_embed = nnx.Param(table)
        if config.positions == "learned":
            rows = spec.length + config.position_offset
            table = small(rngs.params(), (rows, width), config.param_dtype)
            self.position_embed = nnx.Param(table)
        conv = norm = None
        if config.positions == "conv":
            sizes = {"width": config.position_width, "causal": config.causal}
            conv = ConvPositions(width, **sizes, **dtypes)
        if config.embed_norm:
            norm = Norm(config.norm, width, eps=config.norm_eps, **dtypes)
        self.conv, self.norm = nnx.data(conv), nnx.data(norm)
        self.in_proj = nnx.data(Linear(width, d, **dtypes) if config.embed_width else None)
        self.scale, self.typed = config.embed_scale, config.token_types > 0
        self.offset, self.wide_residual = config.position_offset, config.wide_residual
        self.positions, self.length, self.rate = config.positions, spec.length, config.dropout
        options = with_room(pattern, options, spec.length)
        self.backbone = Backbone(pattern, config, options, rngs=rngs)
        self.bare, self.features = conv is None, spec.features
        self._take_after(*self.parts())
        if config.positions == "learned":  # there is no position after the last
            self.state_growth = "linear"
            self.max_length = min(self.length, self.max_length or self.length)

    def parts(self) -> tuple[Mixer, ...]:
        """The convolution of positions, where there is one, and the backbone."""
        return (self.backbone,) if self.conv is None else (self.conv, self.backbone)

    def initial_shared(self, x: Array) -> None:
        """Nothing: the backbone sees to it."""

    def _check_input(self, x: Array) -> None:
        if self.features is not None:
            return door.check_rows(x, self.features, "a model of real inputs", "inputs")
        return door.check_tokens(x, "a model of tokens")

    def _through(self, x: Array, run: Run, ctx: Context) -> Array:
        h = self.embed(x)
        if self.scale != 1.0:
            h = h * jnp.asarray(self.scale, h.dtype)
        if self.typed:
            h = h + self.type_embed[0].astype(h.dtype)
        if self.conv is not None:
            h = run(self.conv, h)
        if self.positions == "sinusoidal":
            waves = sinusoidal(ctx.segments.position, h.shape[-1], dtype=self.wide)
            h = h + waves.astype(h.dtype)
        elif self.positions == "learned":
            places = ctx.segments.position + self.offset
            h = h + self.position_embed[...].astype(h.dtype)[places]
        if self.norm is not None:
            h = self.norm(h, ctx)
        if self.in_proj is not None:
            h = self.in_proj(h)
        if self.wide_residual:
            h = h.astype(self.wide)
        return run(self.backbone, dropout(h, self.rate, ctx))
