"""What the published initialisations are for: without them a long delay is not learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqzoo.models import build, param_groups

LENGTH, DELAY, WIDTH, STEPS, BATCH = 320, 100, 8, 700, 8


def noise(key):
    """Rows of noise below a twentieth of the sampling rate, of variance one."""
    waves = LENGTH // 20
    re, im = jax.random.normal(key, (2, BATCH, waves))
    spectrum = jnp.zeros((BATCH, LENGTH // 2 + 1), jnp.complex64)
    x = jnp.fft.irfft(spectrum.at[:, 1 : waves + 1].set(jax.lax.complex(re, im)), LENGTH)
    return x * LENGTH / (2 * waves**0.5)


def error_of(name, options):
    """Mean squared error of predicting x at t - DELAY after training; 1 is that of zero."""
    graphdef, params, rest = nnx.split(
        build(name, WIDTH, rngs=nnx.Rngs(0), **options), nnx.Param, ...
    )
    rates = {"default": optax.adam(1e-2), "no_decay": optax.adam(1e-2)}
    rates["dynamics"] = optax.adam(1e-3)
    tx = optax.multi_transform(rates, param_groups(nnx.merge(graphdef, params, rest)))

    def loss(params, x):
        mixer = nnx.merge(graphdef, params, rest, copy=True)
        y = mixer(jnp.broadcast_to(x[..., None], (*x.shape, WIDTH))).mean(-1)
        return jnp.mean((y[:, DELAY:] - x[:, :-DELAY]) ** 2)

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, noise(key))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def train(params, keys):
        return jax.lax.scan(step, (params, tx.init(params)), keys)[1]

    losses = np.asarray(train(params, jax.random.split(jax.random.key(1), STEPS)))
    assert np.isfinite(losses).all()
    return losses[-20:].mean()


@pytest.mark.slow
def test_s4d_with_random_initialisation_is_worse():
    """Gu et al. 2022 (arXiv:2206.11893), section 5: structured imaginary parts matter."""
    options = {"d_state": 16, "gate": False}
    errors = {i: error_of("s4d", {"init": i, **options}) for i in ("lin", "random", "real")}
    assert errors["lin"] < 0.05, errors
    assert errors["random"] > 0.3, errors
    assert errors["real"] > 0.5, errors


@pytest.mark.slow
def test_lru_without_ring_initialisation_is_worse():
    """Orvieto et al. 2023 (arXiv:2303.06349), section 3.4: eigenvalues near the unit circle."""
    ring = {"r_min": 0.97, "r_max": 0.999, "max_phase": np.pi / 8}
    disk = {"r_min": 0.0, "r_max": 0.9, "max_phase": 2 * np.pi}
    errors = [error_of("lru", {"d_state": 64, **options}) for options in (ring, disk)]
    assert errors[0] < 0.1, errors
    assert errors[1] > 0.5, errors
