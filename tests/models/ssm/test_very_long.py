"""State spaces on 65,536 tokens, with durations and decays at their extremes."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo.models import build
from tests import laws

LENGTH = 65_536
pytestmark = pytest.mark.slow

# Durations far below and far above the published bounds.
STILL = {"d_state": 4, "dt_min": 1e-6, "dt_max": 2e-6}
QUICK = {"d_state": 4, "dt_min": 5.0, "dt_max": 9.0}
EXTREMES = {
    "s4": [STILL, QUICK],
    "s4d": [STILL, QUICK],
    "dss": [STILL, QUICK],
    "s5": [STILL, QUICK],
    "lru": [{"d_state": 4, "r_min": 0.99999, "r_max": 0.999999}, {"d_state": 4, "r_max": 1e-3}],
    "mamba": [{"d_state": 3}],
    "mamba2": [{"d_state": 3, "d_head": 4}],
}
CASES = [(name, options) for name, many in EXTREMES.items() for options in many]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_values_and_gradients_are_finite(name, options):
    mixer = build(name, 8, rngs=nnx.Rngs(0), **options)
    graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)

    @jax.jit
    def run(params, x):
        y, pull = jax.vjp(lambda p, x: nnx.merge(graphdef, p, rest, copy=True)(x), params, x)
        return y, pull(x)

    for path, leaf in jax.tree_util.tree_leaves_with_path(
        run(params, laws.normal(0, 1, LENGTH, 8))
    ):
        assert bool(jnp.isfinite(leaf).all()), jax.tree_util.keystr(path)
