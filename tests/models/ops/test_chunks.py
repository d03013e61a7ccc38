"""Chunks computed at once against chunks walked over: values, states, both derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops import dplr_delta_rule, gated_delta_rule, gated_linear_attention
from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.matrix import chunks
from tests.helpers import assert_trees_close, x64

B, L, H, K, V = 2, 35, 2, 4, 6  # nine chunks, the last of three steps
DECAYS = {"none": None, "head": (B, L, H, 1), "one row": (1, L, H, 1), "channel": (B, L, H, K)}
# A segment within a chunk, over several groups, none; and rows without segments.
SEGMENTS = np.array([[1] * 14 + [2] + [0] * 6 + [5] * 14, [0] * L])
PACKED = ("head", "channel")


def _draw(kind, seed=0):
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, B, L, H, K))
    v, s0 = rng.normal(size=(B, L, H, V)), rng.normal(size=(B, H, K, V))
    shape = DECAYS[kind]
    decay = None if shape is None else -(rng.exponential(size=shape) ** 3)
    return q, k / np.linalg.norm(k, axis=-1, keepdims=True), v, decay, s0


def _gla(q, k, v, decay, s0, **options):
    return gated_linear_attention(q, k, v, decay, s0, **options)


def _gated(q, k, v, decay, s0, **options):
    return gated_delta_rule(q, k, v, jax.nn.sigmoid(q.sum(-1)), decay, s0, **options)


def _dplr(q, k, v, decay, s0, **options):
    return dplr_delta_rule(q, k, v, -k, k * jax.nn.sigmoid(q), decay, s0, **options)


@pytest.mark.parametrize("kind", DECAYS)
@pytest.mark.parametrize("op", [_gla, _gated, _dplr])
def test_chunks_at_once_are_chunks_one_after_another(op, kind, monkeypatch):
    monkeypatch.setattr(chunks, "AT_ONCE", 4)  # two groups, and a chunk that is left
    inputs = _draw(kind)

    segment_ids = SEGMENTS if kind in PACKED else None

    def everything(inputs):
        def call(inputs):
            return op(*inputs, chunk_size=4, segment_ids=segment_ids)

        out, pull = jax.vjp(call, inputs)
        towards = jax.tree.map(jnp.cos, inputs)
        return out, pull(jax.tree.map(jnp.sin, out)), jax.jvp(call, (inputs,), (towards,))[1]

    found = {}
    with x64():
        for form in ("walk", "together"):
            with forms.forced("chunks", form):
                found[form] = jax.jit(everything)(jax.tree.map(jnp.asarray, inputs))
    assert_trees_close(found["together"], found["walk"], ratio=1e-12)
