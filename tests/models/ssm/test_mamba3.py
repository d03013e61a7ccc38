"""Mamba-3 against its recurrence, one token, head and rank at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Mamba3
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs

D, HEADS, N, P = 6, 3, 4, 4
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def turned(x, scale, bias, theta):
    """The RMS norm of x, with a bias, and its pairs turned as complex numbers."""
    x = x / np.sqrt(np.mean(x**2) + 1e-5) * scale + bias
    count = len(theta)
    pairs = (x[:count] + 1j * x[count : 2 * count]) * np.exp(1j * theta)
    return np.concatenate([pairs.real, pairs.imag, x[2 * count :]])


def stepped(w, x, rank, groups, angles):
    """The equations of the module docstring."""
    inner, y = HEADS * P, np.zeros_like(x)
    sizes = (inner, inner, rank * groups * N, rank * groups * N, HEADS, HEADS, HEADS)
    for b, run in ((b, run) for b, row in enumerate(PACKED) for run in runs(row)):
        S, theta = np.zeros((HEADS, N, P)), np.zeros((HEADS, angles))
        before = None
        for t in run:
            parts = np.split(x[b, t] @ w["in_proj/kernel"], np.cumsum(sizes))
            z, v, B, C, dt, a, l, omega = parts
            z, v = z.reshape(HEADS, P), v.reshape(HEADS, P)
            B, C = B.reshape(rank, groups, N), C.reshape(rank, groups, N)
            dt, now = softplus(dt + w["dt_bias"]), sigmoid(l)
            alpha, out = np.exp(-np.maximum(softplus(a), 1e-4) * dt), np.zeros((HEADS, P))
            theta, keys = theta + np.pi * dt[:, None] * np.tanh(omega), {}
            for h in range(HEADS):
                S[h] *= alpha[h]
                for r in range(rank):
                    rows = v[h] * w["B_rank"][r, h] if rank > 1 else v[h]
                    k = B[r, h // (HEADS // groups)]
                    keys[r, h] = turned(k, w["norm/scale"], w["B_bias"][r, h], theta[h]), rows
                    if before is not None:
                        share = (1 - now[h]) * dt[h] * alpha[h]
                        S[h] += share * np.outer(*before[r, h])
                    S[h] += now[h] * dt[h] * np.outer(*keys[r, h])
                for r in range(rank):
                    q = C[r, h // (HEADS // groups)]
                    q = turned(q, w["q_norm/scale"], w["C_bias"][r, h], theta[h])
                    gate = z[h] * w["C_gate"][r, h] if rank > 1 else z[h]
                    o = (q @ S[h] + w["D"][h] * keys[r, h][1]) * gate * sigmoid(gate)
                    out[h] += o * w["C_rank"][r, h] if rank > 1 else o
            before = keys
            y[b, t] = out.ravel() @ w["out_proj/kernel"]
    return y


@pytest.mark.every_case
@pytest.mark.parametrize(("rank", "groups"), [(1, 3), (3, 1)])
def test_equals_the_steps(rank, groups):
    sizes = {"d_state": N, "d_head": P, "rank": rank, "num_groups": groups, "chunk_size": 5}
    with x64():
        mixer = Mamba3(D, **sizes, **F64, rngs=nnx.Rngs(0))
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.3))
        flat = nnx.to_flat_state(nnx.state(mixer, nnx.Param))
        w = {"/".join(path): np.asarray(leaf[...]) for path, leaf in flat}
        x = normal(0, *PACKED.shape, D).astype(np.float64)
        y = np.asarray(jax.jit(mixer)(jnp.asarray(x), PACKED))
    real = PACKED > 0
    assert_close(y[real], stepped(w, x, rank, groups, angles=1)[real], ratio=1e-12)


def test_no_output_feels_a_later_token_in_any_bit():
    """Weights that look one token ahead would: here they wait for it."""
    mixer = Mamba3(D, d_state=N, d_head=P, rngs=nnx.Rngs(0))
    x = jnp.asarray(normal(1, 1, 12, D))
    y, other = (jax.jit(mixer)(x.at[:, 8:].mul(f) if f > 1 else x) for f in (1.0, 1e4))
    np.testing.assert_array_equal(y[:, :8], other[:, :8])


@pytest.mark.parametrize(
    "options", [{"rank": 0}, {"num_groups": 2}, {"rope_fraction": 0.1}, {"d_head": 5}]
)
def test_what_cannot_be_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Mamba3(D, **{"d_state": N, "d_head": P, **options}, rngs=nnx.Rngs(0))
