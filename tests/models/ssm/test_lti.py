"""Linear time-invariant mixers: convolution = recurrence = chunks, packed rows, sampling rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import build
from seqzoo.models.ssm.discretize import discretize
from seqzoo.models.ssm.dplr import s4_kernel
from seqzoo.models.ssm.s4d import s4d_kernel
from tests.helpers import assert_close, relative_error, x64

D, LENGTHS = 2, (1, 7, 64, 1000)
OPTIONS = {
    "s4": {"d_state": 4, "gate": False},
    "s4d": {"d_state": 6, "init": "inv", "gate": False},
    "dss": {"d_state": 4, "kernel": "exp", "gate": False},
    "s5": {"d_state": 4, "gate": "none"},
    "lru": {"d_state": 3, "r_min": 0.9, "r_max": 0.999},
}


def make(name, **more):
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    return build(name, D, **OPTIONS[name], **more, **options)


def each_alone(kernel):
    """The kernels of separate channels [D, L] as [L, D, D]."""
    return np.einsum("DL,DE->LDE", kernel, np.eye(D))


def dense(decay, B, C, length):
    """Re C diag(decay)^l B, [L, D, D]."""
    return np.einsum("DP,LP,PE->LDE", C, decay ** np.arange(length)[:, None], B).real


def complex_of(mixer, name):
    return np.asarray(getattr(mixer, f"{name}_re")[...]) + 1j * getattr(mixer, f"{name}_im")[...]


def kernel_of(name, mixer, length):
    """The impulse response without D, from the published formulas."""
    if name == "lru":
        gamma = np.exp(mixer.gamma_log[...])[:, None]
        decay = np.exp(-np.exp(mixer.nu_log[...]) + 1j * np.exp(mixer.theta_log[...]))
        return dense(decay, gamma * complex_of(mixer, "B"), complex_of(mixer, "C"), length)
    dt = np.exp(mixer.log_dt[...])
    if name == "s5":
        lam = np.asarray(mixer.A_real[...]) + 1j * mixer.A_imag[...]
        decay = np.exp(dt * lam)
        B = ((decay - 1) / lam)[:, None] * complex_of(mixer, "B")
        return 2 * dense(decay, B, complex_of(mixer, "C"), length)
    lam = -np.exp(mixer.log_A_real[...]) + 1j * mixer.A_imag[...]
    c = complex_of(mixer, "C")
    if name == "s4":
        kernel = jax.jit(s4_kernel, static_argnums=5)
        p, b = (complex_of(mixer, k) for k in "PB")
        return each_alone(kernel(lam, p, b, c, dt, length))
    kernel = jax.jit(s4d_kernel, static_argnums=3)(lam, c, dt, length)
    return each_alone(kernel) / (2 if name == "dss" else 1)


def convolved(kernel, D, x):
    """[L, D] of x [L, D]."""
    kernel = kernel[: len(x)].copy()
    kernel[0] += np.diag(D)
    size = 2 * len(x)
    product = np.einsum("LDE,LE->LD", np.fft.rfft(kernel, size, 0), np.fft.rfft(x, size, 0))
    return np.fft.irfft(product, size, 0)[: len(x)]


@functools.partial(jax.jit, static_argnums=0)
def stepped(graphdef, state, x):
    """One token at a time."""
    mixer = nnx.merge(graphdef, state)

    def step(carry, token):
        y, carry = mixer.extend(token[:, None], carry)
        return carry, y[:, 0]

    return jnp.swapaxes(jax.lax.scan(step, mixer.init_state(1), jnp.swapaxes(x, 0, 1))[1], 0, 1)


@pytest.mark.parametrize("name", OPTIONS)
def test_convolution_equals_recurrence_equals_chunks(name):
    longest = max(LENGTHS)
    x = np.random.default_rng(0).normal(size=(longest, D))
    # segments of each length, with padding before, between and behind
    ids, places, start = np.zeros(longest, int), [], 1
    for i, length in enumerate((1, 7, 64, 900)):
        places.append(np.arange(start, start + length))
        ids[places[-1]] = i + 1
        start += length + i
    with x64():
        mixer = make(name)
        skip = np.asarray(mixer.D[...])
        kernel = np.asarray(kernel_of(name, mixer, longest))
        whole = convolved(kernel, skip, x)
        assert_close(stepped(*nnx.split(mixer), x[None])[0], whole, ratio=1e-10, what="steps")
        run = nnx.jit(lambda mixer, x, ids: mixer(x, ids))
        for length in LENGTHS:
            y = run(mixer, jnp.asarray(x[None, :length]), None)[0]
            assert_close(y, whole[:length], ratio=1e-10, what=f"chunks, L = {length}")
        packed = np.asarray(run(mixer, jnp.asarray(x)[None], jnp.asarray(ids)[None])[0])
    for place in places:
        what = f"packed segment of {len(place)}"
        assert_close(packed[place], convolved(kernel, skip, x[place]), ratio=1e-10, what=what)


@pytest.mark.parametrize("name", ["s4", "s4d", "dss", "s5"])
def test_steps_are_rescaled_for_another_sampling_rate(name):
    """At twice the rate and half the steps, every other output is that of the old rate."""
    time = np.arange(200)[:, None]
    x = np.sin(2 * np.pi * time / np.array([90, 47]))[None]
    twice = np.repeat(x, 2, axis=1)  # held, as zoh takes it
    with x64():
        run = nnx.jit(lambda mixer, x: mixer(x))
        expected = run(make(name), jnp.asarray(x))
        rescaled = run(make(name, step_rescale=0.5), jnp.asarray(twice))[:, 1::2]
        plain = run(make(name), jnp.asarray(twice))[:, 1::2]
    # zoh is exact for inputs that are held; bilinear steps are for smooth ones
    assert_close(rescaled, expected, ratio=0.02 if name == "s4" else 1e-10)
    assert relative_error(plain, expected) > 0.05


def test_softmax_kernels_keep_their_duration_at_another_rate():
    x = np.random.default_rng(0).normal(size=(1, 30, D)).repeat(2, axis=1)
    options = {"kernel": "softmax", "length": 40, "gate": False, "rngs": nnx.Rngs(0)}
    run = nnx.jit(lambda mixer, x: mixer(x))
    slow = run(build("dss", D, **options), jnp.asarray(x[:, ::2]))
    options["rngs"] = nnx.Rngs(0)
    fast = run(build("dss", D, step_rescale=0.5, **options), jnp.asarray(x))
    assert_close(fast[:, 1::2], slow, ratio=1e-4)


def test_discretisations_are_of_the_declared_order():
    """The error after unit time falls with the step: first order for Euler, second for bilinear."""
    A = np.array([-0.5 + 2j])
    errors = {}
    with x64():
        for method in ("forward", "backward", "bilinear", "zoh"):
            for steps in (50, 100):
                dA, dB = discretize(A, 1.0, 1 / steps, method=method)
                x = dB * (1 - dA**steps) / (1 - dA)  # of the input 1
                errors[method, steps] = abs(complex(x[0]) - (np.exp(A[0]) - 1) / A[0])
    for method, order in (("forward", 1), ("backward", 1), ("bilinear", 2)):
        assert abs(np.log2(errors[method, 50] / errors[method, 100]) - order) < 0.1
    assert errors["zoh", 50] < 1e-12
