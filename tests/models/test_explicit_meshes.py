"""Whole models on a mesh as `jax.make_mesh` gives it: calls, gradients, streams, sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seqzoo.models import ModelSpec, build_model, sample
from tests.helpers import assert_close
from tests.laws.subject import flat

MODELS = ["lru", "griffin", "transformer_vq", "bert"]
HEADS = ["lm", "classify", "two_tower", "autoencode"]
pytestmark = pytest.mark.slow


def loss(model, x):
    return jnp.mean(jnp.square(model(x)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("head", HEADS)
def test_a_whole_model_is_as_on_one_device(name, head):
    spec = ModelSpec(head=head, vocab_size=11, outputs=11, length=16)
    model = build_model(spec, name, rngs=nnx.Rngs(0))
    tokens = np.random.default_rng(0).integers(0, 11, (4, 2, 8))
    tokens = tokens if head == "two_tower" else tokens[:, 0]

    def everything(model, tokens):
        found = [model(tokens), nnx.grad(loss)(model, tokens)]
        if head == "lm" and model.encoder.causal:
            found += model.extend(tokens, model.init_state(4))
            found.append(sample(model, tokens, 3, jax.random.key(0)))
        return found

    run = nnx.jit(everything)
    expected = jax.device_get(run(model, tokens))
    mesh = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(mesh):
        divided = jax.device_put(tokens, NamedSharding(mesh, P("data")))
        found = run(model, divided)
        assert jax.typeof(found[0]).sharding.spec[0] == "data"
    # Gradients as one row: a bias of keys has none, and so no digits.
    for one, other in zip(found, expected, strict=True):
        assert_close(flat(one), flat(other), ratio=1e-5)
