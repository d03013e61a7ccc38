"""RWKV-4 against a published model, RWKV-7 against its equations, and channel mixing."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import RWKV4, Backbone, BackboneConfig
from seqzoo.models.linear_attention.channel_mix import ChannelMix
from tests.helpers import assert_close
from tests.models import laws
from tests.models.published import read_safetensors

HF = Path(__file__).parents[2] / "golden" / "hf" / "rwkv"


def layer_norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def published(index):
    weights = read_safetensors(HF / "weights.safetensors")
    prefix = f"rwkv.blocks.{index}."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def mixers(w):
    """Time and channel mixing with the weights of one block; their mix is 1 - ours."""
    time = RWKV4(16, rngs=nnx.Rngs(0))
    channel = ChannelMix(16, expansion=3, rngs=nnx.Rngs(0))
    for module, prefix, names in (
        (time, "attention", {"q": "receptance", "k": "key", "v": "value", "out": "output"}),
        (channel, "feed_forward", {"gate": "receptance", "up": "key", "down": "value"}),
    ):
        for ours, theirs in names.items():
            kernel = jnp.asarray(w[f"{prefix}.{theirs}.weight"].T)
            getattr(module, f"{ours}_proj").kernel[...] = kernel
        order = ("receptance", "key", "value") if module is time else ("key", "receptance")
        module.mix[...] = jnp.stack([1 - w[f"{prefix}.time_mix_{n}"][0, 0] for n in order])
    time.decay[...] = jnp.asarray(w["attention.time_decay"])
    time.bonus[...] = jnp.asarray(w["attention.time_first"])
    return time, channel


def test_rwkv4_equals_the_published_model():
    io, weights = np.load(HF / "io.npz"), read_safetensors(HF / "weights.safetensors")
    x = jnp.asarray(weights["rwkv.embeddings.weight"][io["input_ids"]])
    x = layer_norm(x, published(0), "pre_ln")
    for index in range(3):
        w = published(index)
        time, channel = mixers(w)
        x = x + time(layer_norm(x, w, "ln1"))
        x = x + channel(layer_norm(x, w, "ln2"))
        assert_close(x, io[f"hidden_{index}"], ratio=1e-5, what=f"block {index}")
    logits = layer_norm(x, weights, "rwkv.ln_out") @ weights["head.weight"].T
    assert_close(logits, io["logits"], ratio=1e-5)


@pytest.fixture(scope="module")
def whole():
    config = BackboneConfig(d_model=laws.D, depth=2, feedforward="rwkv", expansion=1.5)
    return laws.Subject(lambda: Backbone(("rwkv4",), config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("law", ["packed", "padding", "ragged-1", "idle", "state", "parameters"])
def test_channel_mixing_keeps_the_laws(whole, law):
    laws.CAUSAL_LAWS[law](whole)


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
