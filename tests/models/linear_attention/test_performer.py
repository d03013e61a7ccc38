"""Performer against the published numbers; its stabiliser; redrawing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import BackboneConfig, Performer
from seqzoo.models.backbone import Backbone
from seqzoo.models.linear_attention.performer import favor_attention
from seqzoo.models.ops.layout.segments import all_real
from seqzoo.models.ops.softmax.attention import attention
from tests.golden import golden, golden_cases
from tests.helpers import assert_close, value_and_pullback, x64

KINDS = {"softmax_pos": "positive", "softmax_sincos": "trigonometric", "relu_generalized": "relu"}


@pytest.mark.parametrize("case", golden_cases("performer", "attn_*"))
def test_equals_the_published_attention(case):
    kind = next(kind for name, kind in KINDS.items() if name in case)
    with x64():
        g = golden(f"performer/{case}")

        def attend(q, k, v):
            return favor_attention(
                q,
                k,
                v,
                jnp.asarray(g["projection"]),
                layout=all_real(q.shape[1]),
                kind=kind,
                causal=not case.endswith("noncausal"),
                stabilizer="global",
                normalize="unnormalized" not in case,
                eps=float(g["numerical_stabilizer"]),
            )[0]

        o, grads = value_and_pullback(attend, g["cotangent"], *(g[n] for n in "qkv"))
        assert_close(o, g["y"], ratio=1e-10)
        for n, grad in zip("qkv", grads, strict=True):
            assert_close(grad, g["grad_" + n], ratio=1e-10, what=n)


@pytest.mark.parametrize("kind", ["positive", "trigonometric"])
def test_the_running_maximum_cancels(kind):
    """Without eps the factor of the keys changes nothing, in values nor gradients."""
    with x64():
        q, k, v = (jax.random.normal(jax.random.key(i), (2, 9, 2, 4)) for i in range(3))
        w = jax.random.normal(jax.random.key(3), (6, 4))

        def attend(stabilizer, q, k, v):
            options = {"stabilizer": stabilizer, "feature_eps": 0.0, "eps": 0.0, "chunk_size": 4}
            return favor_attention(q, k, v, w, layout=all_real(9), kind=kind, **options)[0]

        one, two = (
            value_and_pullback(lambda *a, s=s: attend(s, *a), v, q, 3 * k, v)
            for s in ("running", "global")
        )
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            assert_close(a, b, ratio=1e-11)


def test_it_estimates_softmax_attention_where_the_published_features_vanish():
    """Queries of norm 8: all but eps is lost if only W y is looked at."""
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 64, 1, 8)) for i in range(3))
    q, k = 8 * q / jnp.linalg.norm(q, axis=-1, keepdims=True), 0.1 * k
    w = jax.random.normal(jax.random.key(3), (4096, 8))
    exact = attention(q, k, v, causal=True)
    running, published = (
        favor_attention(q, k, v, w, layout=all_real(64), stabilizer=s)[0]
        for s in ("running", "global")
    )
    error = [
        float(jnp.linalg.norm(o - exact) / jnp.linalg.norm(exact)) for o in (running, published)
    ]
    assert error[0] < 0.25 < error[1], error


def trained(calls, **config):
    options = {"num_heads": 1, "num_features": 4, "redraw_interval": 2}
    config = BackboneConfig(d_model=4, depth=2, feedforward="none", **config)
    model = Backbone(("performer",), config, options, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)

    @jax.jit
    def call(state, key):
        model = nnx.merge(graphdef, state, copy=True)
        model(jnp.ones((1, 3, 4)), rngs=nnx.Rngs(dropout=key))
        return nnx.state(model)

    seen = [state]
    for i in range(calls):
        seen.append(call(seen[-1], jax.random.key(i)))
    return graphdef, seen


def projections(state):
    found = [x for path, x in nnx.to_flat_state(state) if path[-1] == "projection"]
    return np.concatenate([np.asarray(x[...]).ravel() for x in found])


@pytest.mark.of_the_day
@pytest.mark.parametrize("scan", [True, False])
def test_the_projection_is_redrawn_every_so_many_training_calls(scan):
    graphdef, seen = trained(4, scan=scan)
    drawn = [projections(state) for state in seen]
    same = [bool(np.array_equal(a, b)) for a, b in itertools.pairwise(drawn)]
    assert same == [True, False, True, False]
    model = nnx.merge(graphdef, seen[-1])
    model(jnp.ones((1, 3, 4)))  # not in training
    assert np.array_equal(projections(nnx.state(model)), drawn[-1])
    params = nnx.state(model, nnx.Param)
    assert not any(path[-1] == "projection" for path, _ in nnx.to_flat_state(params))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="known: positive"):
        Performer(8, kind="cosine", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_heads must divide"):
        Performer(8, num_heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="cannot stream"):
        Performer(8, stabilizer="global", rngs=nnx.Rngs(0)).init_state(1)
