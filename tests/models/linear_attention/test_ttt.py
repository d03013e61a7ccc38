"""TTT-Linear against the inner model trained token by token in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import TTT
from seqzoo.models.ops import rope
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs

D, HEADS, K, C = 8, 2, 4, 3
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def normed(y, w, h, eps=1e-6):
    y = y - y.mean()
    return y / np.sqrt((y**2).mean() + eps) * w["scale"][h] + w["bias"][h]


def gradient(y, target, w, h):
    """Of |normed(y) - target|² / 2 by central differences."""
    step, out = 1e-6, np.zeros(K)
    for i in range(K):
        e = step * np.eye(K)[i]
        one, two = (((normed(z, w, h) - target) ** 2).sum() / 2 for z in (y + e, y - e))
        out[i] = (one - two) / (2 * step)
    return out


def inner(q, k, v, rate, w, h):
    """One head of one segment, by the equations of the module docstring."""
    W, out, grads = np.vstack([w["hidden_kernel"][h], w["hidden_bias"][h]]), [], []
    for t in range(len(q)):
        if t % C == 0:
            W, grads = W - sum(grads, np.zeros_like(W)), []
        key, asked = np.append(k[t], 1), np.append(q[t], 1)
        g = np.outer(key, gradient(key @ W, v[t] - k[t], w, h))
        share = [max(1 / i + b, 0) for i, b in enumerate(w["bonus"], 1)]
        grads = [g_s / share[t % C - 1] for g_s in grads] if t % C else []
        grads = [g_s * share[t % C] for g_s in [*grads, rate[t] * g]]
        out.append(q[t] + normed(asked @ (W - sum(grads)), w, h))
    return np.stack(out)


def test_equals_the_inner_model_trained_step_by_step():
    with x64():
        mixer = TTT(D, num_heads=HEADS, batch_size=C, **F64, rngs=nnx.Rngs(0))
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.2))
        flat = nnx.to_flat_state(nnx.state(mixer, nnx.Param))
        w = {"/".join(path): np.asarray(leaf[...]) for path, leaf in flat}
        x = normal(0, *PACKED.shape, D).astype(np.float64)
        y = np.asarray(jax.jit(mixer)(jnp.asarray(x), PACKED))
        q, k, v = ((x @ w[f"{n}_proj/kernel"]).reshape(*PACKED.shape, HEADS, K) for n in "qkv")
        rate = 1 / (1 + np.exp(-(x @ w["in_proj/kernel"] + w["in_proj/bias"]))) / K
        want = np.zeros_like(y)
        for row, run in ((b, run) for b, ids in enumerate(PACKED) for run in runs(ids)):
            at = jnp.arange(len(run)) % C
            qs, ks = (np.asarray(rope(jnp.asarray(z[row, run][None]), at))[0] for z in (q, k))
            heads = [
                inner(qs[:, h], ks[:, h], v[row, run, h], rate[row, run, h], w, h)
                for h in range(HEADS)
            ]
            o = np.stack(heads, 1).reshape(len(run), D)
            o = o - o.mean(-1, keepdims=True)
            o = o / np.sqrt((o**2).mean(-1, keepdims=True) + 1e-6)
            want[row, run] = (o * w["norm/scale"] + w["norm/bias"]) @ w["out_proj/kernel"]
    real = PACKED > 0
    assert_close(y[real], want[real], ratio=1e-8)  # the differences'


@pytest.mark.parametrize("options", [{"num_heads": 3}, {"batch_size": 0}, {"base_lr": 0.0}])
def test_what_cannot_be_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TTT(D, **options, rngs=nnx.Rngs(0))
