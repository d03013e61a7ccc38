"""Retention against its equations."""

import numpy as np
import pytest
from flax import nnx

from seqzoo.models import RetNet
from tests.laws import PACKED
from tests.models.attention.test_softmax import rotate
from tests.models.linear_attention import by_hand as hand


def turned(x):
    place = hand.positions(PACKED)
    out = np.zeros_like(x)
    for b, t, h in np.ndindex(x.shape[:3]):
        out[b, t, h] = rotate(x[b, t, h], place[b, t])
    return out


def equations(w, x, zeta=1.0):
    q, k, v = (hand.heads(x @ w[n]) for n in ("q_proj", "k_proj", "v_proj"))
    decay = np.log([1 - 2.0**-5, 1 - 2.0**-6])[:, None] + np.log(zeta) / 512
    o = hand.recur(turned(q), turned(k), v, decay, scale=q.shape[-1] ** -0.5)
    o = hand.rms_norm(o, w["norm"], 1e-5).reshape(*x.shape[:2], -1)
    return (o * hand.silu(x @ w["gate_proj"])) @ w["out_proj"]


def test_equals_the_equations():
    hand.check(RetNet, equations, chunk_size=5)


def test_xpos_is_a_decay_of_its_own_for_every_pair():
    zeta = (np.array([0, 0.5, 0, 0.5]) + 0.4) / 1.4
    hand.check(RetNet, lambda w, x: equations(w, x, zeta), positions="xpos", chunk_size=5)


def test_widths():
    assert RetNet(8, num_heads=2, rngs=nnx.Rngs(0)).state_size() == 2 * 4 * 8
    with pytest.raises(ValueError, match="even"):
        RetNet(6, num_heads=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="positions='alibi'"):
        RetNet(8, positions="alibi", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="give d_key"):
        RetNet(7, num_heads=2, rngs=nnx.Rngs(0))
