"""Gated linear attention, per channel and per head, against its equations."""

import numpy as np
import pytest
from flax import nnx

from seqzoo.models import GLA, SimpleGLA
from tests.models.linear_attention import by_hand as hand


def equations(w, x, temperature):
    q, k, v = (hand.heads(x @ w[n]) for n in ("q_proj", "k_proj", "v_proj"))
    a = x @ w["in_proj"] if "in_proj" in w else x
    gate = hand.sigmoid(a @ w["decay_proj"] + w["decay"]) ** (1 / temperature)
    o = hand.recur(q, k, v, np.log(hand.heads(gate)), scale=q.shape[-1] ** -0.5)
    o = hand.rms_norm(o, w["norm"], 1e-5).reshape(*x.shape[:2], -1)
    return (o * hand.silu(x @ w["gate_proj"])) @ w["out_proj"]


@pytest.mark.parametrize("kind", [GLA, SimpleGLA])
def test_equals_the_equations(kind):
    hand.check(kind, lambda w, x: equations(w, x, 4.0), temperature=4.0, chunk_size=5)


def test_widths():
    assert GLA(8, num_heads=2, rngs=nnx.Rngs(0)).state_size() == 2 * 2 * 4
    assert SimpleGLA(8, num_heads=2, rngs=nnx.Rngs(0)).state_size() == 2 * 4 * 4


@pytest.mark.parametrize("kind", [GLA, SimpleGLA])
def test_a_temperature_of_zero_is_an_error(kind):
    with pytest.raises(ValueError, match="temperature"):
        kind(8, temperature=0.0, rngs=nnx.Rngs(0))


def test_a_rank_of_zero_is_an_error():
    with pytest.raises(ValueError, match="gate_rank"):
        GLA(8, gate_rank=0, rngs=nnx.Rngs(0))
