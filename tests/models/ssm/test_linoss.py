"""LinOSS and D-LinOSS against their steps of position and speed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import LinOSS
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs

D, P = 6, 4
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def stepped(w, x, kind):
    """The equations of the module docstring, one step of one oscillator at a time."""
    dt, stiff = 1 / (1 + np.exp(-w["dt_bias"])), np.maximum(w["A_real"], 0)
    damping = np.maximum(w["decay"], 0) if kind == "damped" else np.zeros(P)
    y = np.zeros_like(x)
    for b, run in ((b, run) for b, row in enumerate(PACKED) for run in runs(row)):
        speed, position = np.zeros(P), np.zeros(P)
        for t in run:
            force = x[b, t] @ w["in_proj"]
            pull = stiff * (position if kind != "im" else 0)
            speed = speed + dt * (force - pull)
            if kind == "im":  # the position is that after the step
                speed = (speed - dt * stiff * position) / (1 + dt**2 * stiff)
            speed = speed / (1 + dt * damping)
            position = position + dt * speed
            y[b, t] = position @ w["C_re"] + w["D"] * x[b, t]
    return y


@pytest.mark.every_case
@pytest.mark.parametrize("kind", ["im", "imex", "damped"])
def test_equals_the_steps(kind):
    with x64():
        mixer = LinOSS(D, d_state=P, kind=kind, gate=False, chunk_size=4, **F64, rngs=nnx.Rngs(0))
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.1))
        if kind == "damped":  # inside of what is stable, where nothing is clipped
            mixer.A_real[...] = jnp.linspace(1.0, 8.0, P)
            mixer.decay[...] = jnp.linspace(0.0, 1.0, P)
        w = {
            path[0]: np.asarray(leaf[...])
            for path, leaf in nnx.to_flat_state(nnx.state(mixer, nnx.Param))
        }
        x = normal(0, *PACKED.shape, D).astype(np.float64)
        y = np.asarray(jax.jit(mixer)(jnp.asarray(x), PACKED))
    real = PACKED > 0
    assert_close(y[real], stepped(w, x, kind)[real], ratio=1e-11)


@pytest.mark.every_case
@pytest.mark.parametrize("kind", ["im", "imex", "damped"])
def test_modes_are_stable_and_their_gradients_finite_however_stiff(kind):
    """Without stiffness, at its least and largest, far beyond both."""
    mixer = LinOSS(D, d_state=P, kind=kind, rngs=nnx.Rngs(0))
    mixer.A_real[...] = jnp.array([-1.0, 0.0, 4.0, 1e4])

    def both(mixer):
        lam, size = mixer.modes()
        return lam.real.sum() + lam.imag.sum() + size.sum(), (lam, size)

    grads, (lam, size) = nnx.grad(both, has_aux=True)(mixer)
    assert np.all(np.abs(lam) <= 1 + 1e-6)
    assert np.all(np.isfinite(size))
    assert np.all(lam.imag > 0)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_damped_modes_start_on_the_ring():
    lam, _ = LinOSS(D, d_state=256, kind="damped", r_min=0.5, r_max=0.8, rngs=nnx.Rngs(0)).modes()
    radius, phase = np.abs(lam), np.angle(lam)
    assert 0.5 - 1e-3 <= radius.min() < 0.55
    assert 0.75 < radius.max() <= 0.8 + 1e-3
    assert phase.min() < 0.1
    assert phase.max() > 3


@pytest.mark.parametrize(
    "options", [{"kind": "more"}, {"d_state": 0}, {"r_min": 0.0}, {"chunk_size": 3}]
)
def test_what_cannot_be_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LinOSS(D, **options, rngs=nnx.Rngs(0))
