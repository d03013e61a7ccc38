"""Random streams and states that cannot be, in one sentence each; a key serves all streams."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo.models import LRU, MIXERS, ModelSpec, build_model, default_backbone
from tests.helpers import assert_trees_close


@pytest.mark.parametrize("name", MIXERS)
def test_streams_of_a_constructor(name):
    for wrong, words in (
        (0, r"got int: write rngs=nnx.Rngs\(0\)"),
        (jnp.zeros(3), "got .*Array"),
        (None, "rngs has: None"),
        (nnx.Rngs(dropout=0), "'params'; rngs has: dropout"),
    ):
        with pytest.raises(ValueError, match=words):
            MIXERS[name](8, rngs=wrong)


@pytest.mark.of_the_day("a key as streams", 3)
def test_a_key_is_the_streams_made_of_it():
    for key in (jax.random.key(3), jax.random.PRNGKey(3)):
        alike = (LRU(8, d_state=4, rngs=rngs) for rngs in (key, nnx.Rngs(key)))
        assert_trees_close(*(nnx.state(mixer) for mixer in alike), ratio=0)


@pytest.mark.of_the_day("streams of a call")
def test_streams_of_a_call():
    config = dataclasses.replace(default_backbone("lru"), d_model=8, dropout=0.1)
    spec = ModelSpec(head="lm", vocab_size=5, outputs=5, length=8)
    model = build_model(spec, "lru", config, rngs=nnx.Rngs(0))
    tokens = jnp.zeros((2, 4), int)
    for wrong, words in (
        (0, "got int"),
        ("dropout", "got str"),
        (nnx.Rngs(params=0), "'dropout'; rngs has: params"),
    ):
        with pytest.raises(ValueError, match=words):
            model(tokens, rngs=wrong)
    key = jax.random.key(0)
    alike = [model(tokens, rngs=rngs) for rngs in (key, nnx.Rngs(key))]
    assert_trees_close(*alike, ratio=0)
