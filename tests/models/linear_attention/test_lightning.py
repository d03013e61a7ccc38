"""Lightning attention against its equations."""

import numpy as np
import pytest
from flax import nnx

from seqzoo.models import LightningAttention
from tests.models.linear_attention import by_hand as hand


def equations(w, x):
    q, k, v = (hand.silu(hand.heads(x @ w[n])) for n in ("q_proj", "k_proj", "v_proj"))
    decay = -0.5 * np.array([2.0**-4, 2.0**-8])[:, None]
    o = hand.rms_norm(hand.recur(q, k, v, decay).reshape(*x.shape[:2], -1), w["norm"], 1e-5)
    return (hand.sigmoid(x @ w["gate_proj"]) * o) @ w["out_proj"]


def test_equals_the_equations():
    hand.check(LightningAttention, equations, decay_scale=0.5, chunk_size=5)


def test_a_negative_decay_is_an_error():
    with pytest.raises(ValueError, match="decay_scale"):
        LightningAttention(8, decay_scale=-1.0, rngs=nnx.Rngs(0))
