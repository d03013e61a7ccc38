"""The contract that every sequence mixer keeps.

    y = mixer(x, segment_ids)                           # the parallel form, for training
    state = mixer.init_state(batch_size)
    y, state = mixer.extend(x, state, segment_ids)      # continue by any number of tokens

`segment_ids` [B, L] holds 0 at padding, which is invisible; a maximal run of one positive id,
padding taken out, is a segment, and nothing passes between segments. Without it every token is real
and belongs to one segment. In `extend`, padding leaves a row's state untouched, and a token with
another id than the one kept in the state starts afresh. `extend` over any split equals the parallel
form.

`rngs` is given in training mode and only then: it switches on dropout and batch statistics.

A mixer writes two methods: `_initial` (the state before the first token) and `_mix` (both forms).
Composite modules (a block, a whole backbone) are mixers too and call `_mix` of their parts with the
same `Context`, so that segments are read once. All of this knows nothing of any single mixer.

Parameter names come from this vocabulary, so that one table of sharding rules serves all:
  embed; in_proj, q_proj, k_proj, v_proj, gate_proj, out_proj (kernels [in, out], biases);
  up_proj, down_proj (feed-forward); conv (short convolutions [W, D]); norm, scale, bias;
  hidden_kernel, hidden_bias (recurrent matrices); log_dt, log_A_real, A_real, A_imag, B_*, C_*,
  P_*, D, nu_log, theta_log, gamma_log, decay, dt_bias, bonus, initial (dynamics, per channel or per
  channel and state); mix (how much of the token before, per channel).
"""

from __future__ import annotations

import abc
import dataclasses
import inspect
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from seqzoo.models.ops.layout.segments import Segments, all_real, first_id, last_real, segments

Packing = Literal["native", "none"]
StateGrowth = Literal["constant", "window", "linear"]


class AuxLoss(nnx.Variable):
    """A term for the training loss, a mean over real tokens; the trainer adds all of this type."""


class Constant(nnx.Variable):
    """What is fixed at construction, neither trained nor written, such as a layer's own decay."""


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


class Mixer(nnx.Module, abc.ABC):
    """A map [B, L, D] -> [B, L, D] along the sequence; see the module docstring for its laws."""

    causal: bool = True
    packing: ClassVar[Packing] = "native"  # "none": static shapes forbid packed rows; padding holds
    state_growth: StateGrowth = "constant"
    looks_both_ways: ClassVar[bool] = False  # whether causal=False is native (else it is wrapped)
    causal_form: ClassVar[bool] = True  # False: it mixes whole rows, and there is no causal=True
    max_length: int | None = None  # most tokens of a segment, where state_growth is "linear"

    @abc.abstractmethod
    def _initial(self, batch_size: int) -> PyTree:
        """The state before the first token; leaves have the batch axis first."""

    @abc.abstractmethod
    def _mix(self, x: Float[Array, "B L D"], inner: PyTree, ctx: Context) -> tuple[Array, PyTree]:
        """Outputs and the state after the last real token.

        `inner` is None in the parallel form, where what comes back as state is ignored. In the
        streaming form run 0 of `ctx.segments` continues `inner`.
        """

    @abc.abstractmethod
    def state_size(self) -> int:
        """Elements of `inner` for one sequence, by the formula of the class's docstring."""

    def initial_shared(self, x: Float[Array, "B L D"]) -> PyTree:
        """What `ctx.shared` holds before the first layer; None where nothing is shared."""
        return None

    def __call__(
        self,
        x: Float[Array, "B L D"],
        segment_ids: Int[Array, "B L"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B L D"]:
        """The parallel form: every position of every row at once."""
        self._check(x, segment_ids)
        layout = all_real(x.shape[1]) if segment_ids is None else segments(segment_ids)
        ctx = Context(layout, rngs, self.initial_shared(x))
        return self._mix(x, None, ctx)[0]

    def init_state(self, batch_size: int) -> StreamState:
        """The state before the first token. Raises ValueError for a mixer that looks both ways."""
        self._check_causal()
        nothing = jnp.zeros(batch_size, jnp.int32)
        return StreamState(nothing, nothing, self._initial(batch_size))

    def extend(
        self,
        x: Float[Array, "B C D"],
        state: StreamState,
        segment_ids: Int[Array, "B C"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "B C D"], StreamState]:
        """Continues every row by C tokens: prefill, a chunk or one step.

        Without `segment_ids` all tokens are real and continue the current segment. `rngs` as in a
        call, for training on a text in parts (truncated back-propagation). Raises
        ValueError for a mixer that looks both ways, and where a state of declared maximum is full
        (inside jit, where that cannot be known, such rows become NaN).
        """
        self._check_causal()
        self._check(x, segment_ids)
        if segment_ids is None:
            layout = all_real(x.shape[1], state.position)
            segment_id = jnp.maximum(state.segment_id, 1)
            position = state.position + x.shape[1]
        else:
            layout = segments(segment_ids, state.segment_id, state.position)
            first = first_id(segment_ids)
            afresh = (first > 0) & (first != state.segment_id)
            fresh = self._initial(x.shape[0])
            state = state._replace(inner=_where_rows(afresh, fresh, state.inner))
            last = last_real(layout.valid)[:, None]
            some = last[:, 0] >= 0
            last = jnp.maximum(last, 0)
            at_last = jnp.take_along_axis(layout.position, last, axis=1)[:, 0] + 1
            position = jnp.where(some, at_last, state.position)
            last_id = jnp.take_along_axis(segment_ids, last, axis=1)[:, 0]
            segment_id = jnp.where(some, last_id, state.segment_id)
        full = self._check_room(layout)
        y, inner = self._mix(x, state.inner, Context(layout, rngs, self.initial_shared(x)))
        if full is not None:
            y = jnp.where(full[..., None], jnp.nan, y)
        dtype = state.position.dtype
        return y, StreamState(segment_id.astype(dtype), position.astype(dtype), inner)

    def _check(self, x: Array, segment_ids: Array | None) -> None:
        name = type(self).__name__
        if segment_ids is None:
            return
        if segment_ids.shape != x.shape[:2]:
            raise ValueError(
                f"{name}: segment_ids must have the shape {x.shape[:2]} of x's batch and length; "
                f"got {segment_ids.shape}"
            )
        if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
            raise ValueError(f"{name}: segment_ids must be integers; got {segment_ids.dtype}")

    def _check_causal(self) -> None:
        if not self.causal:
            raise ValueError(
                f"{type(self).__name__} was built with causal=False and sees the future, so it "
                "cannot be extended token by token; build it with causal=True to stream"
            )

    def _one_segment(self, y: Float[Array, "B L D"], layout: Segments) -> Float[Array, "B L D"]:
        """For packing = "none": an error for packed rows where they are known, else NaN in them."""
        if not layout.masked:
            return y
        packed = (layout.run > 0).any(1)
        if not isinstance(packed, jax.core.Tracer) and bool(packed.any()):
            raise ValueError(
                f"{type(self).__name__} mixes whole rows and takes one segment a row (padding may "
                "be anywhere); got packed rows: give each segment a row of its own"
            )
        return jnp.where(packed[:, None, None], jnp.nan, y)

    def _check_room(self, layout: Segments) -> Array | None:
        """Positions past a declared maximum: an error where they are known, else a mask."""
        if self.state_growth != "linear" or self.max_length is None:
            return None
        full = layout.position >= self.max_length
        if layout.valid is not None:
            full = full & layout.valid
        if not isinstance(full, jax.core.Tracer) and bool(full.any()):
            raise ValueError(
                f"{type(self).__name__} keeps at most max_length={self.max_length} tokens of a "
                f"segment; this call goes to {int(layout.position.max()) + 1}. Build it with a "
                "larger max_length or reset the state"
            )
        return full


def only_both_ways(mixer: type[Mixer], causal: bool) -> None:
    """Raises ValueError for causal=True where there is no such form."""
    if causal:
        raise ValueError(
            f"{mixer.__name__} mixes whole rows: it has no causal form, so it cannot stream or "
            "predict what comes next; set causal=False"
        )


def _where_rows(rows: Array, new: PyTree, old: PyTree) -> PyTree:
    def pick(new: Array, old: Array) -> Array:
        return jnp.where(rows.reshape(rows.shape + (1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(pick, new, old)


# Configurations: the same fields as the constructor, written once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """The options of one mixer; `build` makes it."""

    module: ClassVar[type[Mixer]]

    def build(self, d_model: int, *, rngs: nnx.Rngs, **more: Any) -> Mixer:
        """The mixer of width `d_model`; `more` overrides fields and adds what is no option."""
        return self.module(d_model, **{**dataclasses.asdict(self), **more}, rngs=rngs)


# Arguments that the stack sets for all its layers alike, so that they are no options of one mixer.
NOT_OPTIONS = ("self", "d_model", "rngs", "causal", "dtype", "param_dtype", "layer")


def config_of(module: type[Mixer]) -> type[MixerConfig]:
    """The config dataclass with the keyword arguments of `module` as fields."""
    hints = inspect.get_annotations(module.__init__, eval_str=True)
    fields = []
    for name, argument in inspect.signature(module.__init__).parameters.items():
        if name in NOT_OPTIONS:
            continue
        if argument.default is inspect.Parameter.empty:
            raise TypeError(f"{module.__name__}: option {name!r} needs a default")
        fields.append((name, hints[name], dataclasses.field(default=argument.default)))
    made = dataclasses.make_dataclass(
        f"{module.__name__}Config", fields, bases=(MixerConfig,), frozen=True, kw_only=True
    )
    made.module = module
    made.__module__ = module.__module__
    made.__doc__ = f"Options of {module.__name__}."
    return made
