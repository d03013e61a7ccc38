"""RWKV-7 against its equations, and channel mixing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import RWKV7, Backbone, BackboneConfig, default_backbone
from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import segments
from tests import laws
from tests.helpers import assert_close, x64
from tests.models.linear_attention import by_hand as hand
from tests.models.linear_attention.test_rwkv6 import shifted
from tests.references.delta_rules import dplr_delta_rule


@pytest.mark.every_case
@pytest.mark.parametrize("version", [4, 6, 7])
def test_published_blocks_normalise_the_embedding(version):
    config = default_backbone(f"rwkv{version}_lm")
    assert (config.norm, config.norm_eps, config.embed_norm) == ("layer", 1e-5, True)


@pytest.mark.parametrize("shared", [False, True])
def test_channel_mixing_looks_both_ways_where_the_block_does(shared):
    config = BackboneConfig(
        d_model=laws.D, depth=1, feedforward="rwkv7", causal=False, shared_directions=shared
    )
    stack = Backbone(("linear_attention",), config, {"num_heads": 2}, rngs=nnx.Rngs(0))
    x = jnp.asarray(laws.normal(0, 1, 5, laws.D))
    mix = stack.stack.units.feedforward
    assert mix.backward is None if shared else mix.backward.mix[...].shape == (1, 1, laws.D)
    graphdef, state = nnx.split(mix)
    first = nnx.merge(graphdef, jax.tree.map(lambda a: a[0], state))
    y = first(x) - first(x.at[:, 3].add(1))
    assert [bool(jnp.any(y[:, t] != 0)) for t in range(5)] == [False, False, True, True, True]


def low_rank(w, name, x, f=lambda x: x):
    out = w.get(f"{name}/out_proj/bias", 0)
    return f(x @ w[f"{name}/in_proj/kernel"]) @ w[f"{name}/out_proj/kernel"] + out


def rwkv7(w, x, first):
    r, d, k, v, a, g = (x + (shifted(x) - x) * mu for mu in w["mix"])
    r, k, u = (y @ w[f"{n}_proj/kernel"] for n, y in (("q", r), ("k", k), ("v", v)))
    u = u + (first - u) * hand.sigmoid(low_rank(w, "value_of", v))
    log_decay = -np.exp(-0.5) * hand.sigmoid(w["decay"] + low_rank(w, "decay_of", d, np.tanh))
    strength = hand.sigmoid(low_rank(w, "strength_of", a))
    kappa = hand.heads(k * w["key_scale"][0])
    kappa = kappa / np.linalg.norm(kappa, axis=-1, keepdims=True)
    k = k * (1 + (strength - 1) * w["key_scale"][1])
    r, k, u, strength, log_decay, bonus = (
        hand.heads(y) for y in (r, k, u, strength, log_decay, w["bonus"])
    )
    o, _ = dplr_delta_rule(r, k, u, -kappa, kappa * strength, log_decay, segment_ids=laws.PACKED)
    o = (o - o.mean(-1, keepdims=True)) / np.sqrt(o.var(-1, keepdims=True) + 64e-5)
    o = o.reshape(x.shape) * w["scale"] + w["bias"]
    o = o + (np.sum(r * bonus * k, -1, keepdims=True) * u).reshape(x.shape)
    return (o * low_rank(w, "gate_of", g, hand.sigmoid)) @ w["out_proj/kernel"]


def test_rwkv7_equals_the_equations():
    """With the value of an earlier layer given."""
    x = laws.normal(0, *laws.PACKED.shape, laws.D).astype(np.float64)
    first = laws.normal(1, *x.shape).astype(np.float64)
    with x64():
        options = {"decay_rank": 3, "value_rank": 2, "gate_rank": 3, "chunk_size": 4}
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        mixer = RWKV7(laws.D, num_heads=2, layer=(1, 2), **options, **dtypes, rngs=nnx.Rngs(0))
        nnx.update(mixer, laws.perturbed(nnx.state(mixer, nnx.Param), 0.3))
        flat = nnx.to_flat_state(nnx.state(mixer, nnx.Param))
        w = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}

        @jax.jit
        def run(x, first):
            shared = (first, jnp.ones((), bool))
            return mixer._mix(x, None, Context(segments(laws.PACKED), shared=shared))[0]

        y = np.asarray(run(jnp.asarray(x), jnp.asarray(first)))
    real = laws.PACKED > 0
    assert_close(y[real], rwkv7(w, x, first)[real], ratio=1e-11)


@pytest.mark.of_the_day
@pytest.mark.parametrize("causal", [True, False])
def test_a_gate_of_one_replaces_a_later_layer_s_value_by_the_first(causal):
    options = {"num_heads": 2, "decay_rank": 2, "gate_rank": 2, "value_rank": 2}
    config = BackboneConfig(d_model=laws.D, depth=2, feedforward="none", causal=causal)
    stack = Backbone(("rwkv7",), config, options, rngs=nnx.Rngs(0))
    nnx.update(stack, laws.perturbed(nnx.state(stack, nnx.Param)))
    mixer = stack.stack.units.mixer
    ways = [mixer] if causal else [mixer.forward, mixer.backward]
    for way in ways:
        bias = way.value_of.out_proj.bias
        bias[...] = jnp.full_like(bias[...], 50.0)
    graphdef, state = nnx.split(stack)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    x = laws.normal(0, 1, 6, laws.D)
    y = run(state, x)
    for layer, felt in ((1, False), (0, True)):
        kernel = jnp.asarray(ways[0].v_proj.kernel[...])
        ways[0].v_proj.kernel[...] = kernel.at[layer].multiply(2)
        assert (float(jnp.abs(run(nnx.state(stack), x) - y).max()) > 1e-3) == felt
        ways[0].v_proj.kernel[...] = kernel


def test_ranks_below_one_are_an_error():
    with pytest.raises(ValueError, match="gate_rank=0"):
        RWKV7(8, gate_rank=0, rngs=nnx.Rngs(0))
