"""The contract that every sequence mixer keeps.

    y = mixer(x, segment_ids)                           # the parallel form, for training
    state = mixer.init_state(batch_size)
    y, state = mixer.extend(x, state, segment_ids)      # continue by any number of tokens

`segment_ids` [B, L] holds 0 at padding, which is invisible; a maximal run of one positive id,
padding taken out, is a segment, and nothing passes between segments. Without it every token is real
and belongs to one segment. In `extend`, padding leaves a row's state untouched, and a token with
another id than the one kept in the state starts afresh. `extend` over any split equals the parallel
form. Whatever stands at padding (NaN, a token outside the vocabulary) is not seen; outputs there
are 0 and pass no gradient. Rows may have no tokens, and batches no rows.

x is floating-point of any width. It is computed in the mixer's `dtype`; the output has x's dtype,
and states keep the one that `init_state` gives them: at least float32, but for the keys and values
of attention, which are kept in `dtype`.

`rngs`, streams or a key, is given in training mode and only then: it switches on dropout and batch
statistics. Evaluation writes nothing into the module.

A mixer writes two methods: `_initial` (the state before the first token) and `_mix` (both forms).
Composite modules (a block, a whole backbone) are mixers too and call `apply` of their parts with
the same `Context`, so that segments are read once. All of this knows nothing of any single mixer.

Parameter names come from this vocabulary, so that one table of sharding rules serves all:
  embed; in_proj, q_proj, k_proj, v_proj, gate_proj, out_proj (kernels [in, out], biases);
  up_proj, down_proj (feed-forward); conv (short convolutions [W, D]); norm, scale, bias;
  hidden_kernel, hidden_bias (recurrent matrices); log_dt, log_A_real, A_real, A_imag, B_*, C_*,
  P_*, D, nu_log, theta_log, gamma_log, decay, dt_bias, bonus, initial (dynamics, per channel or per
  channel and state); mix (how much of the token before, per channel).
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from seqzoo.models import door
from seqzoo.models.construct import Construction
from seqzoo.models.ops.layout.segments import Segments, all_real, first_id, last_real, segments
from seqzoo.models.ops.layout.states import stream_state

FloatName = Literal["float32", "bfloat16", "float16", "float64"]
Packing = Literal["native", "none"]
StateGrowth = Literal["constant", "window", "linear", "undeclared"]


class AuxLoss(nnx.Variable):
    """A term for the training loss, a mean over real tokens; the trainer adds all of this type."""


class Constant(nnx.Variable):
    """What is fixed at construction, neither trained nor written, such as a layer's own decay."""


@stream_state
class StreamState(NamedTuple):
    """What `extend` carries; the batch axis comes first in every leaf."""

    segment_id: Int[Array, "B"]  # id of the last real token, 0 before the first
    position: Int[Array, "B"]  # real tokens of that segment so far
    inner: PyTree  # the mixer's own state


class Context:
    """What the parts of one call share.

    Attributes:
        segments: the layout of the rows.
        rngs: random streams in training mode, else None.
        shared: a pytree that travels through the layers of a stack (RWKV-7's first value), or None;
            a mixer may replace it by one of the same structure.
    """

    def __init__(self, segments: Segments, rngs: nnx.Rngs | None = None, shared: PyTree = None):
        self.segments = segments
        self.rngs = rngs
        self.shared = shared

    @property
    def training(self) -> bool:
        """Whether dropout is on and batch statistics are taken from the batch."""
        return self.rngs is not None

    def key(self) -> Array:
        """The next key of the stream `dropout`, in training mode."""
        return door.stream(self.rngs, "dropout", "training mode")


class Mixer(nnx.Module, metaclass=Construction):
    """A map [B, L, D] -> [B, L, D] along the sequence; see the module docstring for its laws.

    `d_model` and `dtype` are those of the constructor, read there for all mixers alike.
    """

    d_model: int | None = None  # D; None: any
    dtype: DTypeLike = jnp.float32  # in which x comes to `_mix`
    cache_dtype: DTypeLike | None = None  # of cached keys and values; None: `dtype`
    causal: bool = True
    packing: Packing = "native"  # "none": static shapes forbid packed rows; padding holds
    state_growth: StateGrowth = "constant"
    looks_both_ways: ClassVar[bool] = False  # whether causal=False is native (else it is wrapped)
    causal_form: ClassVar[bool] = True  # False: it mixes whole rows, and there is no causal=True
    max_length: int | None = None  # most tokens of a segment, where there is such a limit
    depends_on_layer: ClassVar[bool] = False  # whether the constructor takes layer=(index, depth)
    usual_queries: float = 1.0  # factor of queries that gives scores their usual variance
    num_heads: int = 1  # equal parts of what comes to `out_proj`, each with a gain in NormFormer

    @property
    def wide(self) -> jnp.dtype:
        """`dtype`, but at least float32: of recurrences, decays, norms and states."""
        return jnp.promote_types(self.dtype, jnp.float32)

    @property
    def kept(self) -> jnp.dtype:
        """The dtype of cached keys and values."""
        return jnp.dtype(self.dtype if self.cache_dtype is None else self.cache_dtype)

    @abc.abstractmethod
    def _initial(self, batch_size: int) -> PyTree:
        """The state before the first token; leaves have the batch axis first."""

    @abc.abstractmethod
    def _mix(self, x: Float[Array, "B L D"], inner: PyTree, ctx: Context) -> tuple[Array, PyTree]:
        """Outputs and the state after the last real token, in any dtypes.

        `inner` is None in the parallel form, where what comes back as state is ignored. In the
        streaming form run 0 of `ctx.segments` continues `inner`.
        """

    @abc.abstractmethod
    def state_size(self) -> int:
        """Elements of `inner` for one sequence, by the formula of the class's docstring."""

    @classmethod
    def longer(cls, options: Mapping[str, Any], length: int) -> dict[str, Any]:
        """What makes `max_length` of `options` to `length` and changes nothing else."""
        return {"max_length": length}

    def initial_shared(self, x: Float[Array, "B L D"]) -> PyTree:
        """What `ctx.shared` holds before the first layer; None where nothing is shared."""
        return None

    def apply(self, x: Float[Array, "B L D"], inner: PyTree, ctx: Context) -> tuple[Array, PyTree]:
        """`_mix` with outputs in x's dtype and states in theirs, for modules made of mixers.

        `inner` is the state's, None in the parallel form; `ctx` what the parts of a call share.
        """
        y, after = self._mix(x, inner, ctx)
        if inner is not None:
            after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, inner)
        return y.astype(self._given(x)), None if inner is None else after

    def __call__(
        self,
        x: Float[Array, "B L D"],
        segment_ids: Int[Array, "B L"] | None = None,
        *,
        rngs: nnx.Rngs | Array | None = None,
    ) -> Float[Array, "B L D"]:
        """The parallel form: every position of every row at once.

        Raises ValueError for anything but floating-point rows of width `d_model`, and for segments
        longer than `max_length` where there is such a limit (inside jit, where that cannot be
        known, what lies past it becomes NaN).
        """
        rngs = door.as_rngs(rngs, type(self).__name__)
        self.check(x, None, segment_ids)
        return door.through(forward, self, x, None, segment_ids, rngs=rngs)[0]

    def init_state(self, batch_size: int) -> StreamState:
        """The state of `batch_size` rows before the first token.

        Raises ValueError for a mixer that looks both ways.
        """
        self._check_causal()
        nothing = jnp.zeros(batch_size, jnp.int32)
        # Each leaf a buffer of its own, so that a step may be given them all (`donate_argnums`).
        return jax.tree.map(jnp.copy, StreamState(nothing, nothing, self._initial(batch_size)))

    def extend(
        self,
        x: Float[Array, "B C D"],
        state: StreamState,
        segment_ids: Int[Array, "B C"] | None = None,
        *,
        resets: Bool[Array, "B C"] | None = None,
        rngs: nnx.Rngs | Array | None = None,
    ) -> tuple[Float[Array, "B C D"], StreamState]:
        """Continues every row by C tokens: prefill, a chunk or one step.

        Without `segment_ids` all tokens are real and continue the current segment, but where
        `resets` says that one begins: `resets[b, t]` is true if token t is the first of an episode,
        that is, if the one before ended its own. `rngs` as in a call, for training on a text in
        parts (truncated back-propagation). Raises ValueError as a call does, for a mixer that looks
        both ways, and for a state of another batch size.
        """
        rngs = door.as_rngs(rngs, type(self).__name__)
        self.check_state(state)
        segment_ids = door.ids_of(resets, segment_ids, state, type(self).__name__)
        self.check(x, state, segment_ids)
        return door.through(forward, self, x, state, segment_ids, rngs=rngs)

    def check_state(self, state: StreamState) -> None:
        """Raises ValueError where `state` cannot be continued."""
        self._check_causal()
        if not isinstance(state, StreamState):
            raise ValueError(
                f"{type(self).__name__}.extend continues a state, init_state(batch_size) or what "
                f"the last call gave; got {type(state).__name__}"
            )

    def check(self, x: Array, state: StreamState | None, ids: Array | None) -> None:
        """Raises ValueError for rows `x`, a `state` and segment `ids` that a call cannot take."""
        name = type(self).__name__
        self._check_input(x)
        door.check_ids(ids, x.shape[:2], name)
        if state is not None and state.position.shape != x.shape[:1]:
            raise ValueError(
                f"{name}: x has {x.shape[0]} rows and the state {len(state.position)}; "
                f"begin with init_state({x.shape[0]})"
            )
        self._check_known(x.shape, state, ids)

    def _check_input(self, x: Array) -> None:
        door.check_rows(x, self.d_model, type(self).__name__)

    def _given(self, x: Array) -> jnp.dtype:
        """The dtype of the outputs for x."""
        return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.dtype(self.dtype)

    def _check_causal(self) -> None:
        if not self.causal:
            raise ValueError(
                f"{type(self).__name__} was built with causal=False and sees the future, so it "
                "cannot be extended token by token; build it with causal=True to stream"
            )

    def _check_known(self, shape: tuple[int, ...], state: StreamState | None, ids) -> None:
        """Raises ValueError for what a limit forbids, where shapes or values tell."""
        if 0 in shape[:2] or (self.max_length is None and self.packing == "native"):
            return
        most, packed = shape[1] if ids is None else 0, False
        last = (None, None) if state is None else (state.segment_id, state.position)
        if door.known((ids, last)) and (ids is not None or state is not None):
            most, packed = door.extent(shape[1], ids, *last)
        if self.max_length is not None and most > self.max_length:
            raise ValueError(
                f"{type(self).__name__} takes at most max_length={self.max_length} tokens of a "
                f"segment; this call goes to {int(most)}. Build it with a larger max_length"
                + ("" if state is None else " or reset the state")
            )
        if self.packing == "none" and packed:
            raise ValueError(
                f"{type(self).__name__} mixes whole rows and takes one segment a row (padding may "
                "be anywhere); got packed rows: give each segment a row of its own"
            )


def forward(
    mixer: Mixer,
    x: Array,
    state: StreamState | None,
    ids: Array | None,
    rngs: nnx.Rngs | None,
    shared: PyTree = None,
) -> tuple[Array, StreamState | None]:
    """Both forms of any mixer: outputs, and the state after them where there is one before.

    `shared`: what its layers share, where that comes from elsewhere.
    """
    given, inner = mixer._given(x), None
    if 0 in x.shape[:2]:
        width = x.shape[2] if mixer.d_model is None else mixer.d_model
        return jnp.zeros((*x.shape[:2], width), given), state
    x = x.astype(mixer.dtype) if x.dtype == given else x
    ids = None if ids is None else ids.astype(jnp.int32)
    if state is None:
        layout = all_real(x.shape[1]) if ids is None else segments(ids)
    elif ids is None:
        layout, inner = all_real(x.shape[1], state.position), state.inner
        segment_id, position = jnp.maximum(state.segment_id, 1), state.position + x.shape[1]
    else:
        layout, inner = segments(ids, state.segment_id, state.position), _forget(mixer, ids, state)
        segment_id, position = _last_token(ids, layout, state)
    x = real_only(x, layout.valid)
    shared = mixer.initial_shared(x) if shared is None else shared
    y, inner = mixer.apply(x, inner, Context(layout, rngs, shared))
    bad = _forbidden(mixer, layout, state is not None)
    y = real_only(y if bad is None else jnp.where(bad[..., None], jnp.nan, y), layout.valid)
    if state is None:
        return y.astype(given), None
    after = StreamState(segment_id, position, inner)
    return y.astype(given), jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)


def real_only(x: Shaped[Array, "B L ..."], valid: Bool[Array, "B L"] | None) -> Array:
    """x with 0 at padding, whatever stood there; no gradient passes there."""
    if valid is None:
        return x
    return jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, 0)


def _forget(mixer: Mixer, ids: Int[Array, "B C"], state: StreamState) -> PyTree:
    """The inner state, begun anew in rows whose first real token belongs to another segment."""
    first = first_id(ids)
    afresh = (first > 0) & (first != state.segment_id)

    def pick(new: Array, old: Array) -> Array:
        return jnp.where(afresh.reshape(afresh.shape + (1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(pick, mixer._initial(ids.shape[0]), state.inner)


def _last_token(ids: Int[Array, "B C"], layout: Segments, state: StreamState):
    """The id of each row's last real token, and how many its segment has with it."""
    last = last_real(layout.valid)[:, None]
    at = jnp.maximum(last, 0)
    position = jnp.take_along_axis(layout.position, at, axis=1)[:, 0] + 1
    segment_id = jnp.take_along_axis(ids, at, axis=1)[:, 0]
    some = last[:, 0] >= 0
    return (
        jnp.where(some, segment_id, state.segment_id),
        jnp.where(some, position, state.position),
    )


def _forbidden(mixer: Mixer, layout: Segments, streams: bool) -> Array | None:
    """Where values forbid an output that shapes did not: past `max_length`, and packed rows."""
    bad = []
    if mixer.max_length is not None and (streams or layout.masked):
        bad.append(layout.position >= mixer.max_length)
    if mixer.packing == "none" and layout.masked:
        bad.append((layout.run > 0).any(1, keepdims=True))
    return functools.reduce(jnp.logical_or, bad) if bad else None
