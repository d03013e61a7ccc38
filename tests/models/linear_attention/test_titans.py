"""Titans' memory against gradient descent with momentum and forgetting, step by step in float64."""

import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Titans
from tests.laws import PACKED, runs
from tests.models.linear_attention import by_hand as hand

C = 3


def answer(M, x):
    """The memory's answer, and the inputs of its layers."""
    inputs = []
    for i, W in enumerate(M):
        inputs.append(hand.silu(x) if i else x)
        x = inputs[-1] @ W
    return x, inputs


def gradients(M, k, v):
    """Of |M(k) - v|² / 2 in every weight, by the chain rule."""
    y, inputs = answer(M, k)
    slope, found = y - v, []
    for i in reversed(range(len(M))):
        found.insert(0, np.outer(inputs[i], slope))
        z = inputs[i - 1] @ M[i - 1] if i else k
        gate = hand.sigmoid(z)
        slope = (M[i] @ slope) * gate * (1 + z * (1 - gate))
    return found


def read(M, q, k, v, theta, eta, alpha):
    """One head of one segment, by the equations of the paper's sections 3.1 and 3.2."""
    S, out = [np.zeros_like(W) for W in M], []
    for t in range(len(q)):
        if t % C == 0:
            start = M
        slopes = gradients(start, k[t], v[t])
        S = [eta[t] * s - theta[t] * g for s, g in zip(S, slopes, strict=True)]
        M = [(1 - alpha[t]) * W + s for W, s in zip(M, S, strict=True)]
        out.append(answer(M, q[t])[0])
    return np.stack(out)


@pytest.mark.parametrize("depth", [1, 2])
def test_equals_the_memory_trained_step_by_step(depth):
    def equations(w, x):
        q, k, v = hand.projected(w, x)
        gates = hand.sigmoid(x @ w["in_proj/kernel"] + w["in_proj/bias"])
        theta, eta, alpha = np.split(gates, 3, axis=-1)
        o = np.zeros_like(v)
        for row, run in ((b, run) for b, ids in enumerate(PACKED) for run in runs(ids)):
            for h in range(hand.HEADS):
                M = [w[f"hidden_kernel/{i}"][h] for i in range(depth)]
                tokens = (z[row, run, h] for z in (q, k, v, 0.7 / C * theta, eta, alpha))
                o[row, run, h] = read(M, *tokens)
        o = hand.rms_norm(o, w["norm"], 1e-5).reshape(*o.shape[:2], -1)
        return (o * hand.silu(x @ w["gate_proj"])) @ w["out_proj"]

    hand.check(Titans, equations, depth=depth, expansion=1.5, batch_size=C, base_lr=0.7)


@pytest.mark.parametrize(
    "options", [{"depth": 0}, {"batch_size": 0}, {"base_lr": 0.0}, {"expansion": 0.1}]
)
def test_what_cannot_be_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Titans(8, **options, rngs=nnx.Rngs(0))
