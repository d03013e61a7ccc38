"""Longhorn against its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Longhorn
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs
from tests.references.short_conv import short_conv

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def stepped(w, x):
    u, z = np.split(x @ w["in_proj/kernel"], 2, axis=-1)
    window = np.zeros((len(x), len(w["conv/kernel"]) - 1, u.shape[-1]))
    u = short_conv(u, w["conv/kernel"], window, PACKED)[0] + w["conv/bias"]
    u = u * sigmoid(u)
    r, k, q = np.split(u @ w["x_proj/kernel"], [2, 5], axis=-1)
    y = np.zeros_like(u)
    for b, run in ((b, run) for b, row in enumerate(PACKED) for run in runs(row)):
        h = np.zeros((u.shape[-1], 3))
        for t in run:
            beta = sigmoid(r[b, t] @ w["dt_proj/kernel"] + w["dt_bias"])
            share = (beta / (1 + beta * np.sum(k[b, t] ** 2)))[:, None]
            h = h - share * k[b, t] ** 2 * h + share * u[b, t, :, None] * k[b, t]
            y[b, t] = h @ q[b, t] + w["D"] * u[b, t]
    return (y * z * sigmoid(z)) @ w["out_proj/kernel"]


def test_equals_the_steps():
    with x64():
        mixer = Longhorn(6, d_state=3, dt_rank=2, d_conv=3, **F64, rngs=nnx.Rngs(0))
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.3))
        flat = nnx.to_flat_state(nnx.state(mixer, nnx.Param))
        w = {"/".join(path): np.asarray(leaf[...]) for path, leaf in flat}
        x = normal(0, *PACKED.shape, 6).astype(np.float64)
        y = np.asarray(jax.jit(mixer)(jnp.asarray(x), PACKED))
    real = PACKED > 0
    assert_close(y[real], stepped(w, x)[real], ratio=1e-12)


def test_rates_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="beta_max"):
        Longhorn(6, beta_max=1.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="d_state=0"):
        Longhorn(6, d_state=0, rngs=nnx.Rngs(0))
