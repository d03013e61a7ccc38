"""A whole model for a task: encoder and head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models import door
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import StateGrowth, StreamState, forward, real_only
from seqzoo.models.ops.layout.packed import Packed
from seqzoo.models.ops.softmax.rope import sinusoidal
from seqzoo.models.registry import mixer
from seqzoo.models.selfsupervised.patches import ContrastHead
from seqzoo.models.selfsupervised.views import ViewHeads
from seqzoo.models.spec import ModelSpec
from seqzoo.models.whole.encoder import Encoder
from seqzoo.models.whole.readout import HeadTransform, attend, pool


class SequenceModel(nnx.Module):
    """A model for one task; `spec.head` decides what comes out.

    lm and regress: [B, L, outputs], one for every position. classify: [B, outputs] from the mean,
    last or first real token. two_tower: inputs [B, 2, L], both rows encoded with the same weights,
    [B, outputs] from (u, v, u - v, u * v) (the two-tower head of S4 and S5 on Long Range Arena).
    autoencode: [B, L, outputs] from the pooled row alone, to which each position adds its
    sinusoidal embedding before an MLP of width d that all share (MAD's compression task).
    contrast: [B, patches, 1 + steps, outputs], see `ContrastHead`. views: inputs [B, V, L], V views
    of an example; what comes out is a `Seen` (`ViewHeads`).
    """

    published: str | None = None  # config.json, where the weights are published ones
    kept: nnx.Dict | None = None  # tensors of theirs that nothing here computes with

    def __init__(
        self,
        spec: ModelSpec,
        pattern: tuple[str, ...],
        config: BackboneConfig,
        options: Mapping[str, Any] | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        """A model for `spec`: `pattern`, `config` and `options` as of `Backbone`.

        Raises ValueError where the task and the options do not fit each other.
        """
        _check(spec, config)
        _check_packing(spec, pattern)
        d = config.d_model
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype, "rngs": rngs}
        self.head, self.pooling = spec.head, spec.pooling or config.pooling
        self.features = spec.features is not None
        self.encoder = Encoder(spec, pattern, config, options or {}, rngs=rngs)
        self.tied = config.tie_embeddings
        # T5 makes embeddings of variance 1 and divides where they serve as head.
        self.head_scale = d**-0.5 if self.tied and config.init == "t5" else 1.0
        if spec.head == "two_tower":
            self.in_proj = Linear(4 * d, d, **dtypes)
        if spec.head == "autoencode":
            self.decoder = nnx.List([Linear(d, d, **dtypes) for _ in range(2)])
        if spec.head == "contrast":
            layout = {"patch": spec.patch, "steps": spec.steps}
            self.contrast = ContrastHead(d, spec.outputs, **layout, **dtypes)
        if spec.head == "views":
            self.views = ViewHeads(spec.views, spec.outputs, self.encoder, config, rngs=rngs)
        bias = not self.tied if config.head_bias is None else config.head_bias
        width = config.embed_width if self.tied and config.embed_width else d
        transform = None
        if config.head_transform:
            transform = HeadTransform(d, width, config, rngs=rngs)
        self.transform, self.cap = nnx.data(transform), config.logit_cap
        own = None
        if spec.head not in ("contrast", "views") and not self.tied:
            self.out_proj = Linear(width, spec.outputs, use_bias=bias, **dtypes)
        elif self.tied and bias:
            own = nnx.Param(jnp.zeros(spec.outputs, config.param_dtype))
        self.bias = nnx.data(own)

    def __call__(
        self,
        inputs: Array,
        segment_ids: Int[Array, "..."] | None = None,
        *,
        rngs: nnx.Rngs | Array | None = None,
        packed: Packed | None = None,
    ) -> Float[Array, "..."]:
        """Outputs in float32 at least; `rngs` in training mode only. See `Mixer` for the rest.

        `inputs` are tokens [B, L] or features [B, L, F]; of a two_tower [B, 2, L] and [B, 2, L, F].
        The encoder sees the rows as `packed` lays them out; what comes out is as without.
        """
        rngs = door.as_rngs(rngs, "a model")
        self.encoder.check(*self._rows(inputs, None, segment_ids))
        return door.through(_outputs, self, inputs, None, segment_ids, packed, rngs=rngs)[0]

    def init_state(self, batch_size: int) -> StreamState:
        """The state of `batch_size` rows before the first token, of one output a position."""
        self._check_streams()
        return self.encoder.init_state(batch_size)

    def extend(
        self,
        inputs: Array,
        state: StreamState,
        segment_ids: Int[Array, "B C"] | None = None,
        *,
        resets: Bool[Array, "B C"] | None = None,
        rngs: nnx.Rngs | Array | None = None,
    ) -> tuple[Float[Array, "B C O"], StreamState]:
        """Continues every row of `inputs` [B, C] or [B, C, F] from `state`; see `Mixer.extend`."""
        self._check_streams()
        rngs = door.as_rngs(rngs, "a model")
        self.encoder.check_state(state)
        segment_ids = door.ids_of(resets, segment_ids, state, "a model")
        self.encoder.check(inputs, state, segment_ids)
        return door.through(_continued, self, inputs, state, segment_ids, rngs=rngs)

    def streamed(
        self, inputs: Array, segment_ids: Int[Array, "..."] | None = None, *, chunk: int = 1
    ) -> Float[Array, "..."]:
        """What a call of `inputs` gives, by the streaming form: `chunk` tokens at a time, any head.

        Raises ValueError for a model that looks both ways, and for one of views.
        """
        if self.head == "views":
            raise ValueError("views are whole rows; stream model.encoder and pool what it gives")
        self.encoder.check(*self._rows(inputs, None, segment_ids))
        rows, _, ids = self._rows(inputs, None, segment_ids)
        valid = jnp.ones(rows.shape[:2], jnp.int32) if ids is None else ids
        count = -(-rows.shape[1] // chunk)

        def cut(x: Array) -> Array:
            room = [(0, 0), (0, count * chunk - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
            return jnp.moveaxis(jnp.pad(x, room).reshape(len(x), count, chunk, *x.shape[2:]), 1, 0)

        def step(state: StreamState, part: tuple[Array, Array]) -> tuple[StreamState, Array]:
            h, state = self.encoder.extend(part[0], state, part[1])
            return state, h

        state = self.encoder.init_state(len(rows))
        _, parts = jax.lax.scan(step, state, (cut(real_only(rows, valid > 0)), cut(valid)))
        h = jnp.moveaxis(parts, 0, 1).reshape(len(rows), count * chunk, -1)[:, : rows.shape[1]]
        return _answered(self, rows, h, ids)

    @property
    def state_growth(self) -> StateGrowth:
        """How the state grows with the tokens seen."""
        return self.encoder.state_growth

    def state_size(self) -> int:
        """Elements of recurrent state for one sequence; 0 where the model looks both ways."""
        return self.encoder.state_size() if self.encoder.causal else 0

    def read_out(self, h: Float[Array, "... D"]) -> Float[Array, "... O"]:
        """What the last layer makes of the encoder's vectors, each by itself."""
        h = h if self.transform is None else self.transform(h)
        logits = attend(self.encoder.embed, self.head_scale * h) if self.tied else self.out_proj(h)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if self.bias is not None:
            logits = logits + self.bias[...].astype(logits.dtype)
        return self.cap * jnp.tanh(logits / self.cap) if self.cap else logits

    def _rows(self, inputs: Array, state: None, ids: Array | None) -> tuple:
        """What the encoder reads: of pairs and views, one after the other."""
        if self.head not in ("two_tower", "views"):
            return inputs, state, ids
        count, who = (2, "pairs") if self.head == "two_tower" else (self.views.spec.views, "views")
        door.check_array(inputs, f"a model of {who}", "inputs")
        if inputs.ndim < 3 or inputs.shape[1] != count:
            raise ValueError(
                f"a {self.head} head compares {who}, inputs [B, {count}, L]; got "
                f"{tuple(inputs.shape)}"
            )
        door.check_ids(ids, inputs.shape[:3], f"a model of {who}")
        rows = inputs.reshape(count * inputs.shape[0], *inputs.shape[2:])
        return rows, state, None if ids is None else ids.reshape(rows.shape[:2])

    def _compared(self, h: Float[Array, "2B D"]) -> Float[Array, "B O"]:
        u, v = jnp.moveaxis(h.reshape(-1, 2, h.shape[-1]), 1, 0)
        return self.read_out(jax.nn.gelu(self.in_proj(jnp.concatenate([u, v, u - v, u * v], -1))))

    def _spread(self, h: Float[Array, "B D"], length: int) -> Float[Array, "B L D"]:
        """What the decoder makes of one vector at every position."""
        first, second = self.decoder
        places = sinusoidal(jnp.arange(length), h.shape[-1], dtype=self.encoder.wide)
        return second(jax.nn.gelu(first(h[:, None] + places.astype(h.dtype))))

    def _check_streams(self) -> None:
        if self.head not in ("lm", "regress"):
            raise ValueError(
                f"a {self.head} head needs the whole row and cannot be streamed; stream "
                "model.encoder and pool what it gives"
            )


def _outputs(
    model: SequenceModel,
    inputs: Array,
    state: None,
    ids: Array | None,
    packed: Packed | None,
    rngs: nnx.Rngs | None,
) -> tuple[Array, None]:
    return _read(model, inputs, ids, packed, rngs), None


def _read(
    model: SequenceModel,
    inputs: Array,
    ids: Array | None,
    packed: Packed | None,
    rngs: nnx.Rngs | None,
) -> Array:
    """Every head from what its encoder gives."""
    inputs, _, ids = model._rows(inputs, None, ids)
    inputs = real_only(inputs, None if ids is None else ids > 0)
    if model.head != "views":
        return _answered(model, inputs, _encoded(model.encoder, inputs, ids, packed, rngs), ids)

    def see(encoder: Encoder, first: int) -> Array:
        h = _encoded(encoder, inputs, ids, packed, rngs, rows=(model.views.spec.views, first))
        seen = ids if ids is None else _firsts(ids, model.views.spec.views, first)
        return pool(h, seen, model.pooling).reshape(-1, first, h.shape[-1])

    return model.views(model.encoder, see, rngs)


def _encoded(
    encoder: Encoder,
    inputs: Array,
    ids: Array | None,
    packed: Packed | None,
    rngs: nnx.Rngs | None,
    rows: tuple[int, int] = (1, 1),
) -> Float[Array, "B L D"]:
    """What an encoder gives; of `rows` (n, m), of each n rows the first m."""
    if packed is None:
        inputs, ids = (x if x is None else _firsts(x, *rows) for x in (inputs, ids))
        return forward(encoder, inputs, None, ids, rngs)[0]
    packed = packed._replace(places=packed.places.reshape(inputs.shape[:2]))
    made, _ = forward(encoder, packed.pack(inputs), None, packed.segment_ids(), rngs)
    return _firsts(packed.unpack(made), *rows)


def _firsts(x: Array, count: int, first: int) -> Array:
    """Of each `count` rows the first ones."""
    if count == first:
        return x
    return x.reshape(-1, count, *x.shape[1:])[:, :first].reshape(-1, *x.shape[1:])


def _answered(model: SequenceModel, inputs: Array, h: Array, ids: Array | None) -> Array:
    """What each head makes of the encoder's vectors."""
    valid = None if ids is None else ids > 0
    if model.head == "contrast":
        made = model.contrast(model.encoder.embed(inputs), h)
        return made.astype(jnp.promote_types(made.dtype, jnp.float32))
    if model.head in ("lm", "regress"):
        return real_only(model.read_out(h), valid)
    pooled = pool(h, ids, model.pooling)
    if model.head == "two_tower":
        return model._compared(pooled)
    if model.head == "autoencode":
        return real_only(model.read_out(model._spread(pooled, h.shape[1])), valid)
    return model.read_out(pooled)


def _continued(
    model: SequenceModel,
    inputs: Array,
    state: StreamState,
    ids: Array | None,
    rngs: nnx.Rngs | None,
) -> tuple[Array, StreamState]:
    h, state = forward(model.encoder, inputs, state, ids, rngs)
    return real_only(model.read_out(h), None if ids is None else ids > 0), state


def _check_packing(spec: ModelSpec, pattern: tuple[str, ...]) -> None:
    unpacked = [name for name in pattern if mixer(name).packing == "none"]
    if spec.packed and unpacked:
        raise ValueError(
            f"this task packs several segments into a row, and {unpacked[0]} takes one segment a "
            "row; choose another mixer or rows that are not packed"
        )


def _check(spec: ModelSpec, config: BackboneConfig) -> None:
    if spec.causal and not config.causal:
        raise ValueError(
            "this task predicts each input from those before it, and a model with causal=False "
            "sees what it should predict; set causal=True"
        )
    if spec.pooling == "first" and config.causal:
        raise ValueError(
            "this task reads its answer from the first position, where a causal model has seen one "
            "token; set causal=False, or choose another pooling or protocol"
        )
    if config.tie_embeddings and (spec.head != "lm" or spec.outputs != spec.vocab_size):
        raise ValueError(
            "tie_embeddings=True needs a language-model head over the input vocabulary; this task "
            f"has head={spec.head!r}, outputs={spec.outputs}, vocab_size={spec.vocab_size}"
        )
