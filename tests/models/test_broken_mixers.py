"""The laws reject mixers with seeded bugs: a law that cannot fail proves nothing."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.scan.linear import linear_scan
from tests import laws


@jax.custom_vjp
def one_way(x):
    return x


one_way.defvjp(lambda x: (x, None), lambda _, dy: (dy,))


class Decay(Mixer):
    """h_t = a h_{t-1} + W x_t, right; each bug below breaks one thing."""

    def __init__(
        self,
        d_model: int,
        *,
        bug: str = "none",
        causal: bool = True,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.bug, self.causal = bug, causal
        wide = jnp.float32 if bug == "has one width of parameters" else param_dtype
        self.decay = nnx.Param(jnp.full(d_model, 0.8, wide))
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.promote_types(param_dtype, jnp.float32)))
        if bug == "keeps a function of its own":
            self.activation = lambda x: x
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = nnx.Linear(d_model, d_model, use_bias=False, **options)
        if bug == "has a parameter too many":
            self.bias = nnx.Param(jnp.zeros(d_model))

    def _initial(self, batch_size):
        dtype = jnp.bfloat16 if self.bug == "keeps a narrow state" else self.wide
        shape = (batch_size, self.d_model)
        return jnp.zeros(shape[::-1] if self.bug == "keeps columns" else shape, dtype)

    def state_size(self):
        return self.d_model + (self.bug == "declares another size")

    def _mix(self, x, inner, ctx):
        layout = ctx.segments
        if self.bug == "keeps columns" and inner is not None:
            inner = inner.T
        if self.bug == "writes in evaluation":
            self.calls[...] += 1
        if self.bug == "learns from padding" and ctx.training:
            self.calls[...] += 1
        if self.bug == "computes in float32":
            x = x.astype(jnp.float32)
        if self.bug == "lets padding through":
            x = x + 1e-6 * x.mean(1, keepdims=True)
        if self.bug == "cannot go forward":
            x = one_way(x)
        if self.bug == "counts its rows":
            x = x * min(len(x), 1)
        b = self.in_proj(x)
        if self.bug == "has a parameter too many":
            b = b + 0 * self.bias[...]
        if self.bug == "other numbers without ids" and not layout.masked:
            b = 1.001 * b
        if self.bug == "looks ahead":
            b = b + 1e-3 * jnp.roll(b, -1, axis=1)
        if self.bug == "feels the longest row":
            b = b / jnp.max(jnp.abs(b))
        if self.bug == "forgets the state":
            inner = None
        if self.bug == "stops gradients at the state" and inner is not None:
            inner = jax.lax.stop_gradient(inner)
        if self.bug == "leaks between segments" and layout.masked:
            layout = layout._replace(run=jnp.zeros_like(layout.run))
        if self.bug == "padding counts" and layout.masked:
            layout = layout._replace(valid=jnp.ones_like(layout.valid))
        a = self.decay[...][None, None]
        if self.bug == "feels no past":
            a = 0 * a
        h = linear_scan(a, b, inner, segment_ids=layout)
        state = h[:, -1]
        if self.bug == "padding wears the state" and layout.masked:
            state = jnp.where(layout.valid.any(1)[:, None], state, 0.999 * state)
        if not self.causal and self.bug != "feels no future":
            ahead = linear_scan(a, jnp.flip(b, 1), segment_ids=layout.flip())
            h = h + jnp.flip(ahead, 1)
        if self.bug == "is silent":
            h = 1e-4 * h
        if self.bug == "widens":
            h = jnp.concatenate([h, h], -1)
        if self.bug == "keeps columns":
            state = state.T
        if self.bug == "keeps a narrow state":
            state = state.astype(jnp.bfloat16)
        return h, state


def failures(bug: str, causal: bool = True, among=None) -> set[str]:
    report = laws.check_mixer(functools.partial(Decay, bug=bug, causal=causal), laws=among)
    return {result.law for result in report.broken}


@pytest.mark.of_the_day("the right one")
def test_the_right_one_passes():
    assert failures("none") == set()
    assert failures("none", causal=False) == set()


CAUGHT = {
    "is silent": {"shapes"},
    "widens": {"shapes"},
    "other numbers without ids": {"shapes"},
    "looks ahead": {"causal", "steps"},
    "feels no past": {"causal"},
    "feels the longest row": {"causal", "rows"},
    "forgets the state": {"ragged", "ragged-packed", "steps", "gradients"},
    "stops gradients at the state": {"gradients"},
    "leaks between segments": {"packed", "ragged-packed"},
    "padding counts": {"packed", "idle"},
    "padding wears the state": {"idle"},
    "has a parameter too many": {"parameters"},
    "declares another size": {"state"},
    "keeps columns": {"state"},
    "keeps a narrow state": {"state"},
    "has one width of parameters": {"parameter-dtypes", "float64"},
    "computes in float32": {"float64"},
    "keeps a function of its own": {"copies"},
    "writes in evaluation": {"closure"},
    "learns from padding": {"idle-training"},
    "lets padding through": {"padding"},
    "cannot go forward": {"derivatives"},
    "counts its rows": {"export"},
}


@pytest.mark.parametrize("bug", CAUGHT)
def test_seeded_bugs_are_rejected(bug):
    assert failures(bug, among=CAUGHT[bug]) == CAUGHT[bug]


def test_one_that_feels_no_future_does_not_look_both_ways():
    assert failures("feels no future", causal=False, among={"both-ways"}) == {"both-ways"}


class Shares(Decay):
    """Two leaves of the state are one array, and one is a parameter's."""

    def init_state(self, batch_size):
        state = super().init_state(batch_size)
        return state._replace(position=state.segment_id)


class Takes(Decay):
    """Takes whatever it gets, as it is."""

    def check(self, x, state, ids):
        """Nothing is looked at."""


class Widens(Decay):
    """Gives what it computes in."""

    def __call__(self, x, segment_ids=None, *, rngs=None):
        return super().__call__(x, segment_ids, rngs=rngs).astype(jnp.float32)


class Counts(Decay):
    """Divides by the number of tokens."""

    def __call__(self, x, segment_ids=None, *, rngs=None):
        y = super().__call__(x, segment_ids, rngs=rngs)
        return y * (x.shape[1] // x.shape[1])


class Endless(Decay):
    """Says that it has an end, and goes on."""

    max_length = 20

    def _check_known(self, shape, state, ids):
        """Nothing is looked at."""


class Compiles(Decay):
    """Makes a new program of every call."""

    def __call__(self, x, segment_ids=None, *, rngs=None):
        return jax.jit(lambda y: y)(super().__call__(x, segment_ids, rngs=rngs))


class Loops(Decay):
    """Begins a loop with zeros that lie elsewhere than its rows."""

    def __call__(self, x, segment_ids=None, *, rngs=None):
        y = jnp.moveaxis(super().__call__(x, segment_ids, rngs=rngs), 1, 0)
        y = jax.lax.scan(lambda h, y: (y, y), jnp.zeros(y.shape[1:], y.dtype), y)[1]
        return jnp.moveaxis(y, 0, 1)


class Doorless(Decay):
    """Sees what stands at padding, which the base class keeps from `_mix`."""

    def __call__(self, x, segment_ids=None, *, rngs=None):
        return super().__call__(x, segment_ids, rngs=rngs) + 1e-3 * x.mean(1, keepdims=True)


BY_THE_BASE_CLASS = {
    Doorless: {"padding", "spoilt-padding"},
    Shares: {"donation"},
    Takes: {"wrong-inputs"},
    Widens: {"dtypes"},
    Counts: {"nothing"},
    Endless: {"past-the-end"},
    Compiles: {"compiled-once"},
    Loops: {"mesh"},
}


@pytest.mark.parametrize("kind", BY_THE_BASE_CLASS)
def test_what_passes_by_the_base_class_is_rejected(kind):
    names = BY_THE_BASE_CLASS[kind]
    assert {result.law for result in laws.check_mixer(kind, laws=names).broken} == names


def test_every_law_has_a_bug_to_see():
    seen = set().union(*CAUGHT.values(), *BY_THE_BASE_CLASS.values(), {"both-ways"})
    assert seen == set(laws.LAWS)


def test_a_report_names_each_law_with_what_was_expected_and_seen():
    make = functools.partial(Decay, bug="stops gradients at the state")
    report = laws.check_mixer(make, laws=["steps", "gradients"])
    assert [(r.law, r.kept) for r in report.results] == [("steps", True), ("gradients", False)]
    text = str(report)
    assert "Decay keeps 1 of 2 laws" in text
    assert "BROKEN gradients: Back-propagation through ragged chunks" in text
    assert "gradient of x: relative rms error" in text


def test_what_a_mixer_raises_is_in_the_report():
    class Raises(Decay):
        def _mix(self, x, inner, ctx):
            raise RuntimeError("out of order")

    (result,) = laws.check_mixer(Raises, laws=["shapes"]).results
    assert not result.kept
    assert result.seen == "RuntimeError: out of order"


def test_an_unknown_law_is_an_error_with_the_nearest_name():
    with pytest.raises(ValueError, match="no law 'step' of this mixer; did you mean 'steps'"):
        laws.check_mixer(Decay, laws=["step"])
