"""Attention to slots against its steps, one token and head at a time."""

import numpy as np
import pytest
from flax import nnx

from seqzoo.models import ABC, GSA
from tests.laws import PACKED, runs
from tests.models.linear_attention import by_hand as hand

M = 3


def read(q, k, v, gates):
    """`gates(t, before)` gives α and w of a token, from those of its segment before it."""
    o = np.zeros_like(v)
    for b, run in ((b, run) for b, row in enumerate(PACKED) for run in runs(row)):
        for h in range(hand.HEADS):
            keys, values = np.zeros((M, q.shape[-1])), np.zeros((M, v.shape[-1]))
            for i, t in enumerate(run):
                keep, write = gates(b, h, run[: i + 1])
                keys = keep[:, None] * keys + np.outer(write, k[b, t, h])
                values = keep[:, None] * values + np.outer(write, v[b, t, h])
                p = np.exp(keys @ q[b, t, h] / q.shape[-1] ** 0.5)
                o[b, t, h] = values.T @ (p / p.sum())
    return o


def test_gsa_equals_the_steps():
    def equations(w, x):
        q, k, v = (hand.heads(hand.silu(x @ w[f"{n}_proj"])) for n in "qkv")
        alpha = hand.heads(hand.sigmoid(x @ w["in_proj"]) ** (1 / 4.0))
        o = read(q, k, v, lambda b, h, seen: (alpha[b, seen[-1], h], 1 - alpha[b, seen[-1], h]))
        return hand.rms_norm(hand.silu(o).reshape(x.shape), w["scale"], 1e-5) @ w["out_proj"]

    hand.check(GSA, equations, num_slots=M, temperature=4.0, chunk_size=5)


def test_abc_equals_the_steps():
    def turned(x):
        angle = hand.positions(PACKED)[:, :, None, None] * np.array([1, 1e-2])
        a, b = np.split(x, 2, axis=-1)
        pairs = (a + 1j * b) * np.exp(1j * angle)
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    def equations(w, x):
        q, k, v = (hand.heads(x @ w[f"{n}_proj"]) for n in "qkv")
        s = np.exp(hand.heads(x @ w["in_proj"]))

        def gates(b, h, seen):
            share = s[b, seen[-1], h] / s[b, seen, h].sum(0)
            return 1 - share, share

        o = hand.rms_norm(read(turned(q), turned(k), v, gates), w["scale"], 1e-5)
        return (o.reshape(x.shape) * hand.silu(x @ w["gate_proj"])) @ w["out_proj"]

    hand.check(ABC, equations, num_slots=M, chunk_size=4)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (GSA, {"temperature": 0.0}, "temperature"),
        (GSA, {"num_slots": 0}, "num_slots"),
        (ABC, {"num_heads": 8}, "rotary"),
    ],
)
def test_what_cannot_be_is_named(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(8, **options, rngs=nnx.Rngs(0))
