"""Laws of use in numbers, where the daily ones only trace: every mixer, and blocks that write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seqzoo.models import MIXERS
from tests import laws
from tests.helpers import assert_close, x64
from tests.laws.programs import EVEN
from tests.laws.subject import flat, perturbed
from tests.models.test_use_laws import BLOCKS, subject

NAMES = [*MIXERS, *BLOCKS]
# Straight-through estimators, whose gradients are those of no function.
NO_GRADIENT = ("transformer_vq",)
# What gradients hold fixed, differences see: a stabiliser, a bound on weights.
FIXED = ("performer", "indrnn")
STEP = 1e-6  # of finite differences
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_compositions_of_derivatives_are_those_of_finite_differences(name):
    """J(∇f) v is ∇(∇f · v) and the slope of ∇f along v; forward over forward is u · J(∇f) v."""
    s = subject(name)
    with x64():
        mixer = s.make(s.d_model, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)
        params = perturbed(params)
        rng = np.random.default_rng(0)
        at = params, rng.normal(size=(2, laws.L, s.d_model))
        u, v = (jax.tree.map(lambda a: rng.normal(size=a.shape), at) for _ in "uv")
        ids = s.ids[:2]

        def loss(params, x):
            y = nnx.merge(graphdef, params, rest, copy=True)(x, ids)
            return jnp.vdot(jnp.cos(jnp.arange(y.size)), jnp.square(y).ravel())

        slope = jax.grad(loss, argnums=(0, 1))

        def along(way):
            return lambda *at: jax.jvp(loss, at, way)[1]

        @jax.jit
        def compositions(at, u, v):
            return {
                "forward over reverse": jax.jvp(slope, at, v)[1],
                "reverse over forward": jax.grad(along(v), argnums=(0, 1))(*at),
                "forward over forward": jax.jvp(along(v), at, u)[1],
            }

        found = jax.device_get(compositions(at, u, v))
        slopes = jax.jit(slope)
        ahead, behind = (
            flat(slopes(*jax.tree.map(lambda a, b, d=d: a + d * STEP * b, at, v))) for d in (1, -1)
        )
        hv = flat(found["forward over reverse"])
        assert np.abs(hv).max() > 1e-3
        forward = found["forward over forward"]
        if name not in NO_GRADIENT:
            assert_close(flat(found["reverse over forward"]), hv, ratio=1e-9)
            scale = np.linalg.norm(hv) * np.linalg.norm(flat(u))
            assert abs(forward - flat(u) @ hv) <= 1e-9 * scale
        if name not in (*NO_GRADIENT, *FIXED):
            assert_close((ahead - behind) / (2 * STEP), hv, ratio=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_on_an_explicit_mesh_is_as_on_one_device(name):
    """Of calls and gradients, rows and their tokens divided."""
    s = subject(name)
    x, dy = (laws.normal(seed, 2, laws.B, EVEN, s.d_model) for seed in (51, 52))

    def run(params, x, dy):
        y, pull = jax.vjp(lambda params, x: s.merge(params)(x), params, x)
        return y, *pull(dy)

    several = jax.jit(jax.vmap(run, in_axes=(None, 0, 0)))
    expected = jax.device_get(several(s.params, x, dy))
    mesh = jax.make_mesh((2, 2), ("data", "seq"))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P(None, "data", "seq"))
        found = several(s.params, jax.device_put(x, rows), jax.device_put(dy, rows))
        assert jax.typeof(found[0]).sharding.spec[1] == "data"
    for what, one, other in zip(("outputs", "parameters", "rows"), found, expected, strict=True):
        assert_close(flat(one), flat(other), ratio=1e-5, what=what)
