"""The laws reject mixers with seeded bugs: a law that cannot fail proves nothing."""

import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.scan.linear import linear_scan
from tests.models import laws


class Decay(Mixer):
    """h_t = a h_{t-1} + W x_t, right; each bug below breaks one thing."""

    def __init__(self, bug: str, d_model: int, rngs: nnx.Rngs):
        self.bug, self.d_model = bug, d_model
        self.decay = nnx.Param(jnp.full(d_model, 0.8))
        self.in_proj = nnx.Linear(d_model, d_model, use_bias=False, rngs=rngs)

    def _initial(self, batch_size):
        return jnp.zeros((batch_size, self.d_model))

    def state_size(self):
        return self.d_model

    def _mix(self, x, inner, ctx):
        layout = ctx.segments
        b = self.in_proj(x)
        if self.bug == "looks ahead":
            b = b + 1e-3 * jnp.roll(b, -1, axis=1)
        if self.bug == "feels the longest row":
            b = b / jnp.max(jnp.abs(b))
        if self.bug == "forgets the state":
            inner = None
        if self.bug == "leaks between segments" and layout.masked:
            layout = layout._replace(run=jnp.zeros_like(layout.run))
        if self.bug == "padding counts" and layout.masked:
            layout = layout._replace(valid=jnp.ones_like(layout.valid))
        a = self.decay[...][None, None]
        h = linear_scan(a, b, inner, segment_ids=layout)
        return h, h[:, -1]


def failures(bug: str) -> set[str]:
    s = laws.Subject(lambda: Decay(bug, laws.D, nnx.Rngs(0)))
    failed = set()
    for name, law in laws.CAUSAL_LAWS.items():
        try:
            law(s)
        except AssertionError:
            failed.add(name)
    return failed


def test_the_right_one_passes():
    assert failures("none") == set()


@pytest.mark.parametrize(
    ("bug", "caught_by"),
    [
        ("looks ahead", {"causal", "steps"}),
        ("feels the longest row", {"causal", "rows"}),
        ("forgets the state", {"ragged-0", "steps", "gradients"}),
        ("leaks between segments", {"packed", "ragged-1"}),
        ("padding counts", {"padding", "packed", "idle"}),
    ],
)
def test_seeded_bugs_are_rejected(bug, caught_by):
    assert caught_by <= failures(bug)
