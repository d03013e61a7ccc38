"""S4D against published initialisations, kernels, states, layers and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.ops.ssm.diagonal import diagonal_ssm
from seqzoo.models.param_groups import param_groups
from seqzoo.models.ssm.discretize import discretize
from seqzoo.models.ssm.s4d import S4D, s4d_init, s4d_kernel
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64

KERNELS = {
    "diag_kernel_diag-lin_zoh_0": "zoh",
    "diag_kernel_diag-inv_bilinear_1": "bilinear",
    "diag_kernel_diag-legs_zoh_2": "zoh",
}
run = jax.jit(functools.partial(diagonal_ssm, chunk_size=8))
kernel_of = jax.jit(s4d_kernel, static_argnums=3, static_argnames="method")
discrete = jax.jit(discretize, static_argnames="method")


@pytest.mark.every_case
@pytest.mark.parametrize("name", ["lin", "inv", "inv2", "quad", "legs", "real"])
@pytest.mark.parametrize("n", [8, 16])
def test_initialisations_equal_the_published_ones(name, n):
    assert_close(s4d_init(name, n), golden("s4/s4d_inits")[f"A_{name}_{n}"], ratio=1e-13)


def test_random_initialisation_differs_between_channels_and_is_stable():
    mixer = S4D(50, d_state=16, init="random", rngs=nnx.Rngs(0))
    real, imag = np.exp(mixer.log_A_real[...]), np.asarray(mixer.A_imag[...])
    assert real.std(0).min() > 0.1
    assert np.all((real > 0) & (real < 1) & (imag <= 0) & (imag > -8))
    assert abs(imag.mean() + 4) < 0.5


@pytest.mark.parametrize("case", KERNELS)
def test_kernels_equal_the_published_ones(case):
    g = golden(f"s4/{case}")
    with x64():
        dA, dB = discrete(g["A"], g["B"], g["dt"], method=KERNELS[case])
        kernel = kernel_of(g["A"], g["C"] * g["B"], g["dt"], g["u"].shape[-1], method=KERNELS[case])
    for actual, name in ((dA, "dA"), (dB, "dB"), (kernel, "K")):
        if name in g:
            assert_close(actual, g[name], ratio=1e-10, what=name)


@pytest.mark.parametrize("case", KERNELS)
def test_outputs_states_and_continuation_equal_the_published_ones(case):
    g = golden(f"s4/{case}")
    u = np.swapaxes(g["u"], 1, 2)
    with x64():
        dA, dB = discrete(g["A"], g["B"], g["dt"], method=KERNELS[case])
        for channel, c in enumerate(g["C"]):
            y, h = run(u, dA, dB, c, np.zeros((*u.shape[::2], 2 * c.shape[1])))
            more, _ = run(np.zeros_like(u), dA, dB, c, h)
            assert_close(jnp.swapaxes(y, 1, 2), g["y"][:, channel], ratio=1e-10)
            assert_close(jnp.swapaxes(more, 1, 2), g["K_state"][:, channel], ratio=1e-10)
    state = np.concatenate([g["final_state"].real, g["final_state"].imag], -1)
    assert_close(h, state, ratio=1e-10, what="final state")


def test_steps_may_be_per_channel_or_per_state():
    rng = np.random.default_rng(0)
    A, dt = s4d_init("inv", 6), rng.uniform(0.01, 0.1, 4)
    c = rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3))
    with x64():
        one = kernel_of(np.tile(A, (4, 1)), c, dt, 33)
        for again in (
            kernel_of(A, c, dt, 33),
            kernel_of(A, c, dt[:, None], 33),
            kernel_of(np.tile(A, (4, 1)), c, np.tile(dt[:, None], 3), 33),
            kernel_of(A, c[None], dt, 33)[0],
        ):
            assert_close(again, one, ratio=1e-13)
        separate = [kernel_of(A, c[i], dt[i], 33) for i in range(4)]
    assert_close(np.stack(separate), one, ratio=1e-13)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_discretisation_keeps_float32_precision_at_small_steps(method):
    A, dt = np.array([-0.5 - 3j, -0.5, 0.0]), np.float32(1e-4)
    dA, dB = discrete(A.astype(np.complex64), np.ones(3, np.complex64), dt, method=method)
    with x64():
        exact = discrete(A, np.ones(3), float(dt), method=method)
    assert_close(dA, exact[0], ratio=1e-7)
    assert_close(dB, exact[1], ratio=2e-7)
    grad = jax.grad(lambda A: discrete(A, 1.0, dt, method=method)[1].real.sum())(np.zeros(1))
    assert np.isfinite(grad).all()


def published(mixer, tree, x):
    """The layer's output as a function of raw parameters, by name."""
    graphdef, state = nnx.split(mixer)
    layer = nnx.merge(graphdef, state, copy=True)
    for name, value in tree.items():
        module = layer.out_proj if name in ("kernel", "bias") else layer
        getattr(module, name)[...] = value
    return layer(x)


def build(width, size):
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    return S4D(width, d_state=size, chunk_size=8, **options)


def test_layer_and_gradients_equal_the_published_ones():
    g = golden("s4/s4d_layer")
    names = {
        "D": "D",
        "C": "kernel.C",
        "log_dt": "kernel.log_dt",
        "log_A_real": "kernel.log_A_real",
        "A_imag": "kernel.A_imag",
        "weight": "output_linear.0.weight",
        "bias": "output_linear.0.bias",
    }

    def layer(p, u):
        tree = {k: p[k] for k in ("D", "log_dt", "log_A_real", "A_imag", "bias")}
        tree |= {"C_re": p["C"][..., 0], "C_im": p["C"][..., 1], "kernel": p["weight"][..., 0].T}
        return jnp.swapaxes(published(mixer, tree, jnp.swapaxes(u, 1, 2)), 1, 2)

    with x64():
        mixer = build(4, 8)
        p = {ours: jnp.asarray(g[f"param_{theirs}"]) for ours, theirs in names.items()}
        y, (grads, du) = value_and_pullback(layer, g["cotangent"], p, g["u"])
    assert_close(y, g["y"], ratio=1e-10)
    assert_close(du, g["grad_u"], ratio=1e-10, what="gradient of u")
    for ours, theirs in names.items():
        assert_close(grads[ours], g[f"grad_{theirs}"], ratio=1e-9, what=theirs)


def test_block_and_gradients_equal_the_published_ones():
    """The reference has its own B; folded into c it gives our layer, gradients included."""
    g = golden("s4/s4block_diag_uni_0")
    names = {
        "D": "layer.D",
        "C": "layer.kernel.C",
        "B": "layer.kernel.B",
        "inv_dt": "layer.kernel.inv_dt",
        "A_real": "layer.kernel.A_real",
        "A_imag": "layer.kernel.A_imag",
        "weight": "output_linear.0.weight",
        "bias": "output_linear.0.bias",
    }

    def layer(p, x):
        b, c = (jax.lax.complex(p[k][0, ..., 0], p[k][0, ..., 1]) for k in "BC")
        tree = {"D": p["D"][0], "C_re": (b * c).real, "C_im": (b * c).imag}
        tree |= {"log_dt": p["inv_dt"][:, 0], "log_A_real": p["A_real"], "A_imag": -p["A_imag"]}
        return published(mixer, tree | {"kernel": p["weight"].T, "bias": p["bias"]}, x)

    with x64():
        mixer = build(4, 8)
        p = {ours: jnp.asarray(g[f"param_{theirs}"]) for ours, theirs in names.items()}
        y, (grads, dx) = value_and_pullback(layer, g["cotangent"], p, g["x"])
    assert_close(y, g["y"], ratio=1e-10)
    assert_close(dx, g["grad_x"], ratio=1e-10, what="gradient of x")
    for ours, theirs in names.items():
        assert_close(grads[ours], g[f"grad_{theirs}"], ratio=1e-9, what=theirs)


def test_recipe_and_sizes():
    mixer = S4D(5, d_state=8, rngs=nnx.Rngs(0))
    groups = param_groups(mixer)
    dynamics = {
        k
        for k in ("log_dt", "log_A_real", "A_imag", "C_re", "C_im", "D")
        if getattr(groups, k) == "dynamics"
    }
    assert dynamics == {"log_dt", "log_A_real", "A_imag"}
    assert mixer.init_state(2).inner.shape == (2, 5, 8)
    assert mixer.state_size() == 40
    assert np.all((np.exp(mixer.log_dt[...]) >= 0.001) & (np.exp(mixer.log_dt[...]) <= 0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_state": 7}, "got 7: use 8"),
        ({"init": "linear"}, "unknown initialisation 'linear'"),
        ({"discretization": "euler"}, "known: zoh, bilinear"),
        ({"dt_min": 0.2}, "0 < dt_min <= dt_max"),
        ({"chunk_size": 12}, "power of two"),
    ],
)
def test_errors_name_the_rule(options, message):
    with pytest.raises(ValueError, match=message):
        S4D(4, rngs=nnx.Rngs(0), **options)
