"""An encoder-decoder: one text is read whole, another written token by token (Vaswani et al. 2017).

    logits = model(inputs, tokens)                    # [B, L] and [B, T] to [B, T, V], for training
    state = model.start(inputs, segment_ids)          # what is read, once
    logits, state = model.extend(tokens, state)       # any chunks of what is written

The encoder is that of every model here; the decoder the same backbone, causal, with cross-attention
in its blocks. Both share the embedding. Keys and values of what is read are made once for every
layer and travel with the state. Cost: that of both backbones, and O(L T K) a head for reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from seqzoo.models import door
from seqzoo.models.attention.cross import CrossAttention, Memory
from seqzoo.models.backbone import Backbone, BackboneConfig, Stack
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import StateGrowth, StreamState, forward, real_only
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.registry import with_room
from seqzoo.models.spec import ModelSpec
from seqzoo.models.whole.encoder import Encoder
from seqzoo.models.whole.readout import attend


@stream_state
class DecoderState(NamedTuple):
    """What `extend` carries; the batch axis comes first in every leaf."""

    stream: StreamState  # the decoder's own
    memory: Memory  # of what is read

    @property
    def position(self) -> Int[Array, "B"]:
        """Tokens that each row has written."""
        return self.stream.position


class EncoderDecoder(nnx.Module):
    """A language model of one text given another, as T5 is.

    Tokens with segment id i read the tokens of the other text with the id i, so that rows of pairs
    can be packed; 0 is padding in both.
    """

    published: str | None = None  # config.json, where the weights are published ones
    kept: nnx.Dict | None = None  # tensors of theirs that nothing here computes with
    head = "lm"

    def __init__(
        self,
        spec: ModelSpec,
        pattern: tuple[str, ...],
        config: BackboneConfig,
        options: Mapping[str, Any],
        *,
        decoder: BackboneConfig,
        reader: Mapping[str, Any],
        scale: float = 1.0,
        begin: int = 0,
        rngs: nnx.Rngs,
    ):
        """`config` of the encoder, `decoder` of the other; `pattern` and mixer `options` of both.

        `spec`: tokens of both texts, and how many are written at most.

        `reader`: options of `CrossAttention`; `scale`: of the vectors that the head reads; `begin`:
        the token before the first that is written.

        Raises ValueError for an encoder that is causal and a decoder that is not, for several kinds
        of blocks, and for unequal widths.
        """
        if config.causal or not decoder.causal or len(pattern) != 1:
            raise ValueError(
                "an encoder looks both ways, a decoder is causal, and their blocks are of one "
                f"kind; got {config.causal=}, {decoder.causal=}, {pattern=}"
            )
        if config.d_model != decoder.d_model or config.embed_width:
            raise ValueError(
                "encoder and decoder share an embedding of their width; got "
                f"{config.d_model=}, {decoder.d_model=}, {config.embed_width=}"
            )
        self.encoder = Encoder(spec, pattern, config, options, rngs=rngs)
        own = with_room(pattern, options, spec.length)
        self.decoder = Backbone(pattern, decoder, own, reader=reader, rngs=rngs)
        self.tied, self.scale, self.begin = decoder.tie_embeddings, scale, begin
        if not self.tied:
            dtypes = {"dtype": decoder.dtype, "param_dtype": decoder.param_dtype}
            self.out_proj = Linear(
                decoder.d_model, spec.outputs, use_bias=False, **dtypes, rngs=rngs
            )

    @property
    def state_growth(self) -> StateGrowth:
        """How the state grows with the tokens written."""
        return self.decoder.state_growth

    def __call__(
        self,
        inputs: Int[Array, "B L"],
        tokens: Int[Array, "B T"],
        segment_ids: Int[Array, "B L"] | None = None,
        token_segment_ids: Int[Array, "B T"] | None = None,
        *,
        rngs: nnx.Rngs | Array | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits after each of `tokens`, which begin with `begin`; `rngs` in training mode only.

        Raises ValueError for what are no tokens, for unequal numbers of rows, and ids that do not
        belong to them.
        """
        rngs = door.as_rngs(rngs, "a model")
        self._check(inputs, segment_ids)
        door.check_tokens(tokens, "a decoder")
        door.check_ids(token_segment_ids, tokens.shape, "a decoder", "token_segment_ids")
        if len(tokens) != len(inputs):
            raise ValueError(
                f"a decoder writes a row for each one read; got {len(tokens)} rows of tokens and "
                f"{len(inputs)} of inputs"
            )
        ids = (segment_ids, token_segment_ids)
        return door.through(_whole, self, inputs, None, tokens, *ids, rngs=rngs)[0]

    def start(
        self, inputs: Int[Array, "B L"], segment_ids: Int[Array, "B L"] | None = None
    ) -> DecoderState:
        """The state after `inputs` are read and before the first token is written.

        Rows have one text each; `segment_ids` are 1, and 0 at padding.
        """
        self._check(inputs, segment_ids)
        memory = door.through(_remembered, self, inputs, None, segment_ids, rngs=None)[0]
        return DecoderState(self.decoder.init_state(len(inputs)), memory)

    def extend(
        self,
        tokens: Int[Array, "B C"],
        state: DecoderState,
        segment_ids: Int[Array, "B C"] | None = None,
    ) -> tuple[Float[Array, "B C V"], DecoderState]:
        """Continues what every row writes by C tokens; `segment_ids` are 1, and 0 at padding.

        Raises ValueError as a call does, and for a state that `start` did not begin.
        """
        if not isinstance(state, DecoderState):
            raise ValueError(
                "an encoder-decoder continues what start(inputs) gave, or the last call; got "
                f"{type(state).__name__}"
            )
        door.check_tokens(tokens, "a decoder")
        self.decoder.check(self._shape(tokens), state.stream, segment_ids)
        return door.through(_continued, self, tokens, state, segment_ids, rngs=None)

    def read_out(self, h: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """What the head makes of the decoder's vectors, each by itself."""
        logits = attend(self.encoder.embed, self.scale * h) if self.tied else self.out_proj(h)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def remember(self, inputs: Array, ids: Array | None, rngs: nnx.Rngs | None) -> Memory:
        """What the decoder's layers read of `inputs` [B, L] with segment `ids`."""
        h, _ = forward(self.encoder, inputs, None, ids, rngs)
        every = [_kept(reader, h) for reader in _readers(self.decoder.stack)]
        keys, values = (jnp.concatenate(part, axis=1) for part in zip(*every, strict=True))
        ids = jnp.ones(inputs.shape, jnp.int32) if ids is None else ids.astype(jnp.int32)
        return Memory(keys, values, ids)

    def write(
        self,
        tokens: Array,
        state: StreamState | None,
        ids: Array | None,
        memory: Memory,
        rngs: nnx.Rngs | None,
    ) -> tuple[Array, StreamState | None]:
        """What the decoder makes of `tokens` [B, T] with segment `ids`, given a `memory`.

        `state`: of the decoder, None in the parallel form.
        """
        x = self.encoder.embed(real_only(tokens, None if ids is None else ids > 0))
        reading = None if ids is None else ids.astype(jnp.int32)
        shared = memory._replace(reading=reading, layer=jnp.int32(0))
        return forward(self.decoder, x, state, ids, rngs, shared)

    def opened(
        self, inputs: Int[Array, "B L"], segment_ids: Int[Array, "B L"]
    ) -> tuple[Float[Array, "B 1 D"], DecoderState]:
        """What is read, and what the decoder makes of `begin`: `read_out` draws the first token."""
        memory = self.remember(inputs, segment_ids, None)
        tokens = jnp.full((len(inputs), 1), self.begin, jnp.int32)
        h, stream = self.write(tokens, self.decoder.init_state(len(inputs)), None, memory, None)
        return h, DecoderState(stream, memory)

    def _check(self, inputs: Array, ids: Array | None) -> None:
        self.encoder.check(inputs, None, ids)

    def _shape(self, tokens: Array) -> jax.ShapeDtypeStruct:
        """What the decoder is given of these tokens, for its checks."""
        return jax.ShapeDtypeStruct((*tokens.shape, self.decoder.d_model), jnp.float32)


def _whole(
    model: EncoderDecoder,
    inputs: Array,
    state: None,
    tokens: Array,
    ids: Array | None,
    token_ids: Array | None,
    rngs: nnx.Rngs | None,
) -> tuple[Array, None]:
    memory = model.remember(inputs, ids, rngs)
    h, _ = model.write(tokens, None, token_ids, memory, rngs)
    return _answer(model, h, token_ids), state


def _remembered(
    model: EncoderDecoder, inputs: Array, state: None, ids: Array | None, rngs: None
) -> tuple[Memory, None]:
    return model.remember(inputs, ids, rngs), state


def _continued(
    model: EncoderDecoder, tokens: Array, state: DecoderState, ids: Array | None, rngs: None
) -> tuple[Array, DecoderState]:
    h, stream = model.write(tokens, state.stream, ids, state.memory, rngs)
    return _answer(model, h, ids), DecoderState(stream, state.memory)


def _answer(model: EncoderDecoder, h: Array, ids: Array | None) -> Array:
    """Logits, 0 at padding."""
    return real_only(model.read_out(h), None if ids is None else ids > 0)


def _readers(stack: Stack) -> list[CrossAttention]:
    """The cross-attentions of a stack; scanned, one whose arrays have an axis of depth."""
    units = [stack.units] if stack.scan else stack.units
    return [unit.reader.cross for unit in units]


def _kept(reader: CrossAttention, h: Float[Array, "B S D"]) -> tuple[Array, Array]:
    """Keys and values [B, N, S, H, K] of the N layers that one reader stands for."""
    graphdef, arrays = nnx.split(reader)

    def make(arrays: nnx.State) -> tuple[Array, Array]:
        return nnx.merge(graphdef, arrays).kept_of(h)

    stacked = reader.k_proj.kernel.ndim == 3
    made = jax.vmap(make, out_axes=1)(arrays) if stacked else make(arrays)
    return made if stacked else tuple(part[:, None] for part in made)
