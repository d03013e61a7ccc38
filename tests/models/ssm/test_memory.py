"""Online approximation by HiPPO, its picture, and the recurrent network with such a memory."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.signal import cont2discrete

from seqzoo.models.ssm.hippo import hippo, nplr
from seqzoo.models.ssm.hippo_cell import HippoCell
from seqzoo.models.ssm.memory import basis, discretize_dense, reconstruct, remember
from tests.helpers import assert_close, relative_error, x64
from tests.scripts import redrawn

LENGTH = 400


def signal():
    rng = np.random.default_rng(0)
    time = np.arange(LENGTH) / LENGTH
    return sum(rng.normal() * np.sin(2 * np.pi * (k * time + rng.uniform())) for k in range(1, 6))


def error(measure, n, *, window=None, span=LENGTH, method="bilinear"):
    f = signal()
    x = remember(f, measure, n, window=window, method=method)[-1]
    ages = (np.arange(span) + 0.5) / (window or span)
    return relative_error(reconstruct(x, measure, ages), f[::-1][:span])


def test_legs_keeps_the_whole_past():
    """Published: the error falls with the number of coefficients, and needs no time scale."""
    errors = [error("legs", n) for n in (8, 16, 32)]
    assert errors[0] > 0.3
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02
    assert error("legs", 32, method="zoh") < 0.001


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("measure", "bound"), [("legt", 0.002), ("lmu", 0.002), ("fourier", 0.2), ("fourier2", 0.2)]
)
def test_windows_keep_what_is_in_them(measure, bound):
    """A window that does not end as it began costs Fourier's waves more than polynomials."""
    assert error(measure, 32, window=160, span=160) < bound
    assert error(measure, 4, window=160, span=160) > 0.5


def test_laguerre_keeps_the_recent_past():
    assert error("lagt", 64, window=10, span=60) < 0.03
    assert error("lagt", 16, window=10, span=60) > 0.3


def test_laguerre_functions_are_orthonormal():
    ages = np.arange(0, 120, 0.01)
    values = basis("lagt", 6, ages)
    assert_close(0.01 * values @ values.T, np.eye(6), ratio=0.02)


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("forward", "euler"), ("backward", "backward_diff"), ("bilinear", "bilinear"), ("zoh", "zoh")],
)
def test_dense_discretisation_equals_scipy(ours, theirs):
    A, B = hippo("legt", 6)
    dA, dB = discretize_dense(A, B, 0.03, ours)
    system = (A, B[:, None], np.eye(6), np.zeros((6, 1)))
    expected = cont2discrete(system, 0.03, method=theirs)
    assert_close(dA, expected[0], ratio=1e-12)
    assert_close(dB, expected[1][:, 0], ratio=1e-12)


def test_the_picture_is_drawn(tmp_path):
    assert redrawn("hippo", tmp_path) == 16


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_the_cells_memory_is_the_online_approximation(measure):
    """With f = h, h = tanh(x) the memory, seen from the real basis, is what `remember` gives."""
    n, length = 8, 40
    x = np.random.default_rng(0).normal(size=(1, length, 1))
    with x64():
        options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        cell = HippoCell(1, d_state=n, measure=measure, window=20.0, **options)
        cell.in_proj.kernel[...] = jnp.array([[1.0, 0.0]])
        cell.in_proj.bias[...] = jnp.array([0.0, 1e3])  # the gate is open
        cell.hidden_kernel[...] = jnp.zeros_like(cell.hidden_kernel[...])
        cell.memory_proj.kernel[...] = jnp.ones((1, 1))
        run = nnx.jit(lambda cell, x: cell.extend(x, cell.init_state(1)))
        y, state = run(cell, jnp.asarray(x))
    m = np.asarray(state.inner[1])[0, 0]
    z = m[: n // 2] + 1j * m[n // 2 :]
    coefficients = 2 * (nplr(measure, n).v @ z).real
    A, B = hippo(measure, n)
    expected = np.zeros(n)
    for t, f in enumerate(np.tanh(x[0, :, 0]), 1):
        dA, dB = discretize_dense(A, B, 1 / t if measure == "legs" else 0.1, "bilinear")
        expected = dA @ expected + dB * f
    assert_close(y, np.tanh(x), ratio=1e-12)
    assert_close(coefficients, expected, ratio=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: remember(np.ones(3), "glagt", 4), "no reconstruction from 'glagt'"),
        (lambda: remember(np.ones(3), "legt", 4), "a positive window belongs"),
        (lambda: remember(np.ones(3), "legs", 4, window=3), "a positive window belongs"),
        (lambda: remember(np.ones(3), "lagt", 4, window=3, method="rk4"), "known: zoh"),
        (lambda: HippoCell(4, measure="lmu", rngs=nnx.Rngs(0)), "known: legs, legt"),
        (lambda: HippoCell(4, d_state=5, rngs=nnx.Rngs(0)), "got 5: use 6"),
        (lambda: HippoCell(4, memories=0, rngs=nnx.Rngs(0)), "must be positive"),
    ],
)
def test_errors_name_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
