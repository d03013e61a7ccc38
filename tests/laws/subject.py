"""A mixer under the laws: perturbed parameters and a compiled program for each form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models.mixer import Constant, Mixer, StreamState

from .cases import PACKED, D
from .compare import assert_close, relative_error

GARBAGE = 77.0  # at the padding of chunks

Make = Callable[..., Mixer]  # called as make(d_model, rngs=rngs), as the class of a mixer is


class Rows(NamedTuple):
    """Of the parallel form."""

    y: np.ndarray  # [B, L, D]
    dparams: Any
    dx: np.ndarray
    dwithin: np.ndarray  # of what `_mix` finds at padding


class Chunks(NamedTuple):
    """Of the streaming form, chunk after chunk."""

    y: np.ndarray  # [N, B, C, D]
    states: StreamState  # after each chunk, leaves [N, B, ...]
    dparams: Any
    dx: np.ndarray


class Plain(NamedTuple):
    """Without segment ids."""

    y: np.ndarray  # [B, L, D], the parallel form
    steps: np.ndarray  # [B, L, D], token by token; y itself where nothing streams
    state: StreamState | None


class Subject:
    """A mixer and what the laws look at.

    Attributes:
        mixer: as `make` built it.
        params: its parameters, moved away from where they start.
        ids: a layout of rows that it takes: packed, or one segment with padding.
        streams: whether it has a streaming form.
        ratio: the largest relative rms error between forms of the same numbers.
        errors: what `close` has measured since the list was last emptied.
        compiler_options: XLA's, of the forms that are named: "rows", "chunks", "plain".
        pullbacks: the forms of which one program gives values and pullback; another has two, of
            which that of the values is compiled much faster.
    """

    def __init__(
        self,
        make: Make,
        d_model: int = D,
        *,
        ratio: float = 1e-5,
        compiler_options: Mapping[str, Mapping[str, Any]] | None = None,
        pullbacks: Collection[str] = ("rows", "chunks"),
    ):
        self.make, self.d_model, self.ratio = make, d_model, ratio
        self.mixer = make(d_model, rngs=nnx.Rngs(0))
        self.graphdef, params, self.rest = nnx.split(self.mixer, nnx.Param, ...)
        self.params = perturbed(params)
        native = self.mixer.packing == "native"
        self.ids = PACKED if native else (PACKED > 0).astype(np.int32)
        self.streams = self.mixer.causal and self.mixer.state_growth != "undeclared"
        self.errors: list[float] = []
        self.pullbacks = pullbacks
        self.compiler_options = compiler_options or {}

    def merge(self, params) -> Mixer:
        """The mixer with `params`, to be called inside a transformation."""
        return nnx.merge(self.graphdef, params, self.rest, copy=True)

    def rows(
        self,
        x: np.ndarray,
        ids: np.ndarray,
        dy: np.ndarray | None = None,
        *,
        within: np.ndarray | None = None,
    ) -> Rows:
        """The parallel form of x [B, L, D] and its pullback of `dy`, `ids` [B, L] always given.

        `within` is what `_mix` finds at padding, where the base class has put 0: inside of a block
        it is whatever came out of the parts before.
        """
        within = np.zeros_like(x) if within is None else within
        if dy is None and "rows" not in self.pullbacks:
            y = jax.device_get(self._rows_values(self.params, x, ids, within))
            return Rows(y, None, None, None)
        dy = np.zeros_like(x) if dy is None else dy
        return jax.device_get(self._rows(self.params, x, ids, dy, within))

    def chunks(self, x: np.ndarray, ids: np.ndarray, dy: np.ndarray | None = None) -> Chunks:
        """The stream over chunks x [N, B, C, D] from the first state, and its pullback of `dy`.

        `ids` are [N, B, C]. `_mix` finds `GARBAGE` at padding.
        """
        if dy is None and "chunks" not in self.pullbacks:
            return Chunks(*jax.device_get(self._chunks_values(self.params, x, ids)), None, None)
        dy = np.zeros_like(x) if dy is None else dy
        return jax.device_get(self._chunks(self.params, x, ids, dy))

    def plain(self, x: np.ndarray) -> Plain:
        """Both forms of x [B, L, D] without segment ids."""
        return jax.device_get(self._plain(self.params, x))

    def close(self, actual, desired, *, ratio: float | None = None, what: str = "value") -> None:
        """Fails where `actual` differs from `desired` by more than `ratio`; `what` names it.

        `ratio` None: that of the subject. Raises AssertionError.
        """
        self.errors.append(relative_error(actual, desired))
        assert_close(actual, desired, ratio=self.ratio if ratio is None else ratio, what=what)

    def _jit(self, form: str, run: Callable):
        return jax.jit(run, compiler_options=self.compiler_options.get(form))

    @functools.cached_property
    def _rows(self):
        def run(params, x, ids, dy, within):
            y, pull = jax.vjp(functools.partial(self._call, ids), params, x, within)
            return Rows(y, *pull(dy))

        return self._jit("rows", run)

    @functools.cached_property
    def _rows_values(self):
        def run(params, x, ids, within):
            return self._call(ids, params, x, within)

        return self._jit("rows", run)

    def _call(self, ids, params, x, within):
        return _spoilt(self.merge(params), within)(x, ids)

    @functools.cached_property
    def _chunks(self):
        def run(params, x, ids, dy):
            y, pull, states = jax.vjp(functools.partial(self._stream, ids), params, x, has_aux=True)
            return Chunks(y, states, *pull(dy))

        return self._jit("chunks", run)

    @functools.cached_property
    def _chunks_values(self):
        return self._jit("chunks", lambda params, x, ids: self._stream(ids, params, x))

    def _stream(self, ids, params, x):
        def chunk(state, inputs):
            mixer = _spoilt(self.merge(params), jnp.full_like(inputs[0], GARBAGE))
            y, state = mixer.extend(inputs[0], state, inputs[1])
            return state, (y, state)

        start = self.merge(params).init_state(x.shape[1])
        return jax.lax.scan(chunk, start, (x, ids))[1]

    @functools.cached_property
    def _plain(self):
        def run(params, x):
            y = self.merge(params)(x)
            if not self.streams:
                return Plain(y, y, None)

            def step(state, token):
                y, state = self.merge(params).extend(token[:, None], state)
                return state, y[:, 0]

            start = self.merge(params).init_state(x.shape[0])
            state, steps = jax.lax.scan(step, start, jnp.moveaxis(x, 1, 0))
            return Plain(y, jnp.moveaxis(steps, 0, 1), state)

        return self._jit("plain", run)


def _spoilt(mixer: Mixer, garbage: jax.Array) -> Mixer:
    """The mixer, of which `_mix` finds `garbage` [B, L, D] at padding."""
    mixer.garbage = Constant(garbage)
    mixer.__class__ = _spoilt_class(type(mixer))
    return mixer


@functools.cache
def _spoilt_class(kind: type[Mixer]) -> type[Mixer]:
    def _mix(self, x, inner, ctx):
        valid = ctx.segments.valid
        if valid is not None:
            x = jnp.where(valid[..., None], x, self.garbage[...].astype(x.dtype))
        return kind._mix(self, x, inner, ctx)

    return type(kind)(kind.__name__, (kind,), {"_mix": _mix})


def perturbed(params, scale: float = 0.1):
    """`params` moved by `scale` times normal numbers: zero gates would make laws vacuous."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(7)
    moved = [
        jnp.asarray((np.asarray(p, np.float64) + scale * rng.normal(size=p.shape)).astype(p.dtype))
        for p in leaves
    ]
    return jax.tree.unflatten(structure, moved)


def flat(tree) -> np.ndarray:
    """All numbers of a tree in one row."""
    return np.concatenate([np.zeros(0, np.float32), *map(np.ravel, jax.tree.leaves(tree))])
