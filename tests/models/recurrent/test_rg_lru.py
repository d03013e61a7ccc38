"""RG-LRU against the released layer and the paper's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.ops.layout.segments import segments
from seqzoo.models.param_groups import param_groups
from seqzoo.models.recurrent.rg_lru import RGLRU, BlockDiagonal, bounded_sqrt, decay_init, rg_lru
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64
from tests.references.rg_lru import rg_lru as reference

WIDE = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def released(p, x, position, h0):
    """The released layer with its gates, by our parts."""
    blocks, size = p["input_gate.w"].shape[:2]
    gates = []
    for name in ("input_gate", "a_gate"):
        gate = BlockDiagonal(blocks * size, blocks, **WIDE, rngs=nnx.Rngs(0))
        gate.kernel[...], gate.bias[...] = p[f"{name}.w"], p[f"{name}.b"]
        gates.append(jax.nn.sigmoid(gate(x)))
    return rg_lru(x, *gates, p["a_param"], position, h0)


@pytest.mark.parametrize("name", ["rglru_0", "rglru_1"])
def test_outputs_states_and_gradients_equal_the_released_ones(name):
    g = golden(f"rg_lru/{name}")
    with x64():
        p = {k.removeprefix("param_"): jnp.asarray(g[k]) for k in g if k.startswith("param_")}
        h0 = jnp.asarray(g["h0"]) if "h0" in g else None

        def f(p, x):
            return released(p, x, g["segment_pos"], h0)

        y, (dp, dx) = value_and_pullback(f, jnp.asarray(g["cotangent"]), p, jnp.asarray(g["x"]))
    assert_close(y, g["y"], ratio=1e-10)
    assert_close(y[:, -1], g["last_h"], ratio=1e-10)
    assert_close(dx, g["grad_x"], ratio=1e-10)
    for k in p:
        assert_close(dp[k], g[f"grad_{k}"], ratio=1e-9, what=k)


def test_the_convolution_equals_the_released_one():
    g = golden("rg_lru/temporal_conv1d")
    with x64():
        conv = DepthwiseConv(5, 4, **WIDE, rngs=nnx.Rngs(0))
        conv.kernel[...], conv.bias[...] = jnp.asarray(g["param_w"]), jnp.asarray(g["param_b"])
        ids = np.cumsum(g["segment_pos"] == 0, axis=1)
        y, window = conv(jnp.asarray(g["x"]), None, segments(ids))
    assert_close(y, g["y"], ratio=1e-10)
    # Where a segment is shorter than the window ours holds zeros, theirs the segment before.
    own = (ids[:, -3:] == ids[:, -1:])[..., None]
    assert_close(window, np.where(own, g["cache"], 0), ratio=1e-10)


@pytest.mark.parametrize("length", [1, 12])
@pytest.mark.parametrize("carried", [False, True])
def test_equals_the_equations(length, carried):
    rng = np.random.default_rng(0)
    x, i, r = rng.normal(size=(3, 2, length, 5))
    i, r = (1 / (1 + np.exp(-a)) for a in (i, r))
    decay, h0 = rng.normal(size=5) - 3, rng.normal(size=(2, 5))
    position = np.tile(np.arange(length) % 5, (2, 1)) + 3 * carried
    with x64():
        h = rg_lru(*map(jnp.asarray, (x, i, r, decay, position, h0)))
    assert_close(h, reference(x, i, r, decay, position, h0), ratio=1e-12)


def test_extreme_gates_are_finite():
    """Gates of 0 and 1, decays of 0 and 1: values and gradients."""
    x = jnp.ones((1, 32, 4))
    position = jnp.arange(32)[None]
    for gate in (0.0, 1.0):
        for decay in (-1e3, 1e3):

            def loss(x, gate, decay):
                return rg_lru(x, gate, gate, decay, position).sum()

            grads = jax.grad(loss, (0, 1, 2))(x, jnp.full_like(x, gate), jnp.full(4, decay))
            assert all(np.isfinite(g).all() for g in grads)


def test_the_bounded_root():
    x = jnp.array([0.0, 1e-12, 1e-4, 0.25])
    np.testing.assert_allclose(bounded_sqrt(x), np.sqrt(x))
    slope = jax.vmap(jax.grad(bounded_sqrt))(x)
    np.testing.assert_allclose(slope, [1000, 1000, 50, 1], rtol=1e-5)


def test_the_decays_start_on_the_ring():
    decay = decay_init(jax.random.key(0), 2000, 0.9, 0.999, jnp.float32)
    radius = np.exp(-np.log1p(np.exp(np.asarray(decay, np.float64))))
    assert radius.min() >= 0.9 - 1e-5
    assert radius.max() <= 0.999 + 1e-5
    assert abs((radius**2).mean() - (0.81 + 0.998) / 2) < 0.006
    groups = param_groups(RGLRU(8, rngs=nnx.Rngs(0)))
    assert groups["decay"] == "dynamics"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 3}, "num_blocks"),
        ({"decay_max": 1.0}, "decay_max"),
        ({"d_conv": 0}, "width"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        RGLRU(8, **options, rngs=nnx.Rngs(0))
