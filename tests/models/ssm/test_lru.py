"""LRU against the published layer: outputs, states, gradients; its initialisation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import all_real
from seqzoo.models.param_groups import param_groups
from seqzoo.models.ssm.lru import LRU
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64
from tests.references.lru import lru as reference

NAMES = ("B_im", "B_re", "C_im", "C_re", "D", "gamma_log", "nu_log", "theta_log")


def core(d_model, d_state):
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    return LRU(d_model, d_state=d_state, **options)


def apply(mixer, params, x, inner=None):
    """Outputs and last state with the given parameters, a function to be differentiated."""
    layer = nnx.merge(*nnx.split(mixer), copy=True)
    for name, value in params.items():
        getattr(layer, name)[...] = value
    return layer._mix(x, inner, Context(all_real(x.shape[1])))


def load(g, prefix="param_"):
    return {name: jnp.asarray(g[prefix + name]) for name in NAMES}


@pytest.mark.parametrize("case", ["lru_0", "lru_1"])
def test_outputs_states_and_gradients_equal_the_published_ones(case):
    g = golden(f"lru/{case}")
    with x64():
        params, u = load(g), jnp.asarray(g["u"])[None]
        mixer = core(u.shape[-1], len(g["lambda_"]))
        cotangent = (g["cotangent"][None], np.zeros((1, 2, len(g["lambda_"]))))
        (y, last), (grads, du) = value_and_pullback(
            functools.partial(apply, mixer), cotangent, params, u
        )
    assert_close(y[0], g["y"], ratio=1e-10)
    final = g["states"][-1]
    assert_close(last[0], np.stack([final.real, final.imag]), ratio=1e-10, what="state")
    assert_close(du[0], g["grad_u"], ratio=1e-10, what="gradient of u")
    for name in NAMES:
        assert_close(grads[name], g[f"grad_{name}"], ratio=1e-9, what=name)


def norm(x, g):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * g["param_normalization/scale"] + g["param_normalization/bias"]


@pytest.mark.parametrize("case", ["layer_prenorm", "layer_postnorm"])
def test_inside_the_published_block(case):
    """Norm, GELU and GLU are the backbone's; composed around the mixer they give the layer."""
    g = golden(f"lru/{case}")
    with x64():
        x = jnp.asarray(g["u"])
        y = norm(x, g) if "pre" in case else x
        mixer = functools.partial(apply, core(4, 6))
        y = jax.jit(mixer)(load(g, "param_seq/"), y[None])[0][0]
        y = jax.nn.gelu(y, approximate=True)
        value, gate = (y @ g[f"param_{o}/kernel"] + g[f"param_{o}/bias"] for o in ("out1", "out2"))
        y = x + value * jax.nn.sigmoid(gate)
        y = y if "pre" in case else norm(y, g)
    assert_close(y, g["y"], ratio=1e-10)


@pytest.mark.parametrize("length", [1, 7, 64, 200])
def test_equals_the_paper_step_by_step(length):
    x = np.random.default_rng(length).normal(size=(length, 3))
    with x64():
        mixer = core(3, 5)
        p = {name: np.asarray(getattr(mixer, name)[...]) for name in NAMES}
        y = nnx.jit(LRU.__call__)(mixer, x[None])[0]
    B, C = p["B_re"] + 1j * p["B_im"], p["C_re"] + 1j * p["C_im"]
    expected, _ = reference(x, p["nu_log"], p["theta_log"], p["gamma_log"], B, C, p["D"])
    assert_close(y, expected, ratio=1e-12)


def test_ring():
    """|λ|² uniform between the radii, the phase below its maximum, γ = sqrt(1 - |λ|²)."""
    mixer = LRU(2, d_state=4096, r_min=0.6, r_max=0.9, max_phase=1.0, rngs=nnx.Rngs(3))
    radius = np.exp(-np.exp(mixer.nu_log[...]))
    area = (radius**2 - 0.6**2) / (0.9**2 - 0.6**2)
    assert np.all((area > -1e-5) & (area < 1 + 1e-5))
    assert abs(area.mean() - 0.5) < 0.02
    assert abs(area.var() - 1 / 12) < 0.005
    phase = np.exp(mixer.theta_log[...])
    assert np.all((phase > 0) & (phase <= 1))
    assert abs(phase.mean() - 0.5) < 0.02
    assert_close(np.exp(mixer.gamma_log[...]), np.sqrt(1 - radius**2), ratio=1e-5)


def test_gamma_keeps_the_variance_of_the_input():
    """Proposition 3.3: without γ the state of white noise grows as the ring nears 1."""
    x = np.random.default_rng(0).normal(size=(8, 400, 16)).astype(np.float32)

    def energy(normalize):
        mixer = LRU(16, d_state=128, r_min=0.9, r_max=0.99, normalize=normalize, rngs=nnx.Rngs(0))
        state = nnx.jit(lambda m, x: m.extend(x, m.init_state(8))[1])(mixer, x).inner
        return float(jnp.mean(jnp.sum(state**2, 1)))

    ratio = math.log((1 - 0.9**2) / (1 - 0.99**2)) / (0.99**2 - 0.9**2)
    assert abs(energy(True) - 1) < 0.15
    assert abs(energy(False) / ratio - 1) < 0.15


def test_extremes_of_the_ring_are_finite():
    mixer = LRU(2, d_state=512, r_min=0.0, r_max=1.0, rngs=nnx.Rngs(0))
    assert all(bool(jnp.isfinite(p).all()) for p in jax.tree.leaves(nnx.state(mixer)))


def test_recipe():
    groups = param_groups(LRU(2, rngs=nnx.Rngs(0)))
    dynamics = {name for name in NAMES if getattr(groups, name) == "dynamics"}
    assert dynamics == {"nu_log", "theta_log", "gamma_log", "B_re", "B_im"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_min": 0.9, "r_max": 0.5}, "0 <= r_min < r_max <= 1"),
        ({"max_phase": 7.0}, "max_phase"),
        ({"d_state": 0}, "d_state"),
    ],
)
def test_errors_name_the_rule(options, message):
    with pytest.raises(ValueError, match=message):
        LRU(4, rngs=nnx.Rngs(0), **options)
