"""The laws reject mixers with seeded bugs: a law that cannot fail proves nothing."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.scan.linear import linear_scan
from tests import laws


class Decay(Mixer):
    """h_t = a h_{t-1} + W x_t, right; each bug below breaks one thing."""

    def __init__(self, d_model: int, *, bug: str = "none", causal: bool = True, rngs: nnx.Rngs):
        self.bug, self.d_model, self.causal = bug, d_model, causal
        self.decay = nnx.Param(jnp.full(d_model, 0.8))
        self.in_proj = nnx.Linear(d_model, d_model, use_bias=False, rngs=rngs)
        if bug == "has a parameter too many":
            self.bias = nnx.Param(jnp.zeros(d_model))

    def _initial(self, batch_size):
        dtype = jnp.bfloat16 if self.bug == "keeps a narrow state" else jnp.float32
        shape = (batch_size, self.d_model)
        return jnp.zeros(shape[::-1] if self.bug == "keeps columns" else shape, dtype)

    def state_size(self):
        return self.d_model + (self.bug == "declares another size")

    def _mix(self, x, inner, ctx):
        layout = ctx.segments
        if self.bug == "keeps columns" and inner is not None:
            inner = inner.T
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
}


@pytest.mark.parametrize("bug", CAUGHT)
def test_seeded_bugs_are_rejected(bug):
    assert failures(bug, among=CAUGHT[bug]) == CAUGHT[bug]


def test_one_that_feels_no_future_does_not_look_both_ways():
    assert failures("feels no future", causal=False, among={"both-ways"}) == {"both-ways"}


class Doorless(Decay):
    """Sees what stands at padding, which the base class keeps from `_mix`."""

    def __call__(self, x, segment_ids=None, *, rngs=None):
        return super().__call__(x, segment_ids, rngs=rngs) + 1e-3 * x.mean(1, keepdims=True)


def test_what_passes_by_the_base_class_is_rejected():
    report = laws.check_mixer(Doorless, laws=["padding"])
    assert [result.seen for result in report.broken] != []


def test_every_law_has_a_bug_to_see():
    assert set().union(*CAUGHT.values(), {"both-ways", "padding"}) == set(laws.LAWS)


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
