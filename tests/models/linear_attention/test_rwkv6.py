"""RWKV-5 and RWKV-6 against their equations."""

import numpy as np
import pytest
from flax import nnx

from seqzoo.models import RWKV5, RWKV6
from tests.laws import PACKED, runs
from tests.models.linear_attention import by_hand as hand
from tests.references.gated_linear_attention import gated_linear_attention


def shifted(x):
    before = np.zeros_like(x)
    for b, row in enumerate(PACKED):
        for run in runs(row):
            before[b, run[1:]] = x[b, run[:-1]]
    return before


def equations(w, x):
    change = shifted(x) - x
    c = x + change * w["mix"][0]
    low = np.split(np.tanh(c @ w["mix_proj"]), 5, axis=-1)
    r, k, v, g, d = (
        x + change * (mu + a @ b) for mu, a, b in zip(w["mix"][1:], low, w["B_mix"], strict=True)
    )
    d = w["decay"] + np.tanh(d @ w["in_proj"]) @ w["decay_proj"]
    r, k, v, d = (
        hand.heads(z) for z in (r @ w["q_proj"], k @ w["k_proj"], v @ w["v_proj"], -np.exp(d))
    )
    bonus = hand.heads(w["bonus"])
    o, _ = gated_linear_attention(r, k, v, d, segment_ids=PACKED, read_before=True, bonus=bonus)
    return out(w, o, g)


def out(w, o, g):
    o = (o - o.mean(-1, keepdims=True)) / np.sqrt(o.var(-1, keepdims=True) + 64e-5)
    o = o.reshape(g.shape) * w["scale"] + w["bias"]
    return (o * hand.silu(g @ w["gate_proj"])) @ w["out_proj"]


def fixed_equations(w, x):
    r, k, v, g = (x + (shifted(x) - x) * share for share in w["mix"])
    r, k, v = (hand.heads(z) for z in (r @ w["q_proj"], k @ w["k_proj"], v @ w["v_proj"]))
    decay = np.broadcast_to(-np.exp(hand.heads(w["decay"])), r.shape)
    bonus = hand.heads(w["bonus"])
    o, _ = gated_linear_attention(r, k, v, decay, segment_ids=PACKED, read_before=True, bonus=bonus)
    return out(w, o, g)


def test_equals_the_equations():
    hand.check(RWKV6, equations, mix_rank=3, decay_rank=2, chunk_size=5)


def test_rwkv5_equals_the_equations():
    hand.check(RWKV5, fixed_equations, chunk_size=5)


def test_initial_decays_span_the_channels_at_every_depth():
    """Half-lives from a token to hundreds: log w from -1/e to -e^-6."""
    for layer in ((0, 3), (2, 3), None):
        decay = np.exp(RWKV6(16, layer=layer, rngs=nnx.Rngs(0)).decay[...])
        np.testing.assert_allclose(decay[[0, -1]], np.exp([-6, -1]), rtol=1e-5)
        assert np.all(np.diff(decay) > 0)


def test_a_rank_of_zero_is_an_error():
    with pytest.raises(ValueError, match="mix_rank=0"):
        RWKV6(8, mix_rank=0, rngs=nnx.Rngs(0))
