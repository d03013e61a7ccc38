"""Runs a mixer with a matrix per head in float64 against its equations written with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs
from tests.references.gated_linear_attention import gated_linear_attention
from tests.references.short_conv import short_conv

D, HEADS = 8, 2


def silu(x):
    return x * sigmoid(x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rms_norm(o, scale, eps):
    return o / np.sqrt(np.mean(o**2, axis=-1, keepdims=True) + eps) * scale


def heads(x):
    return x.reshape(*x.shape[:-1], HEADS, -1)


def positions(ids):
    """Real tokens of the segment before each token."""
    found = np.zeros(ids.shape, int)
    for row, own in zip(ids, found, strict=True):
        for run in runs(row):
            own[run] = np.arange(len(run))
    return found


def projected(w, x):
    """q, k, v of every head, queries and keys of unit length."""
    z = np.concatenate([x @ w[f"qkv/{n}_proj/kernel"] for n in "qkv"], -1)
    taps = w["qkv/conv/kernel"]
    z = silu(short_conv(z, taps, np.zeros((len(x), len(taps) - 1, z.shape[-1])), PACKED)[0])
    q, k, v = (heads(part) for part in np.split(z, 3, axis=-1))
    return *(z / np.sqrt(np.sum(z**2, -1, keepdims=True) + 1e-6) for z in (q, k)), v


def recur(q, k, v, log_decay, scale=1.0):
    """S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ over packed rows, one step at a time."""
    return gated_linear_attention(q, k, v, log_decay, scale=scale, segment_ids=PACKED)[0]


def check(kind, equations, **options):
    """`equations(w, x)` gives the outputs, `w` the parameters by their paths' first names.

    Those of parts of parts have their whole path too: qkv/q_proj/kernel.
    """
    with x64():
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        mixer = kind(D, num_heads=HEADS, **options, **dtypes, rngs=nnx.Rngs(0))
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.3))
        flat = nnx.to_flat_state(nnx.state(mixer, nnx.Param))
        w = {}
        for path, leaf in flat:
            w[path[0]] = w["/".join(map(str, path))] = np.asarray(leaf[...])
        x = normal(0, *PACKED.shape, D).astype(np.float64)
        expected = equations(w, x)
        y = np.asarray(jax.jit(mixer)(jnp.asarray(x), PACKED))
        real = PACKED > 0
        assert_close(y[real], expected[real], ratio=1e-12)
