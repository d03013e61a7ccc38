import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.spec import ModelSpec
from seqzoo.models.whole.build import build_model
from tests.helpers import assert_close

SMALL = BackboneConfig(d_model=8, depth=1)


@pytest.mark.parametrize("head", ["lm", "classify", "two_tower"])
def test_streaming_gives_what_a_call_gives(head):
    spec = ModelSpec(head=head, vocab_size=7, outputs=3, length=11)
    model = build_model(spec, "lru", SMALL, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    pair = (2,) if head == "two_tower" else ()
    inputs = jnp.asarray(rng.integers(7, size=(3, *pair, 11)))
    ids = np.ones((3, *pair, 11), np.int32)
    ids[0, ..., 8:] = 0
    ids[1, ..., :2] = 0
    for given in (None, ids):
        assert_close(model.streamed(inputs, given, chunk=4), model(inputs, given))


def test_no_norm_is_no_norm():
    spec = ModelSpec(head="lm", vocab_size=7, outputs=3, length=5)
    bare = BackboneConfig(d_model=8, depth=1, norm="none", feedforward="none")
    model = build_model(spec, "lru", bare, rngs=nnx.Rngs(0))
    inputs = jnp.arange(5)[None]
    names = {str(part) for path, _ in nnx.to_flat_state(nnx.state(model)) for part in path}
    assert not any("scale" in name for name in names)
    encoded = model.encoder(inputs)
    model.encoder.embed.embedding[...] *= 3
    assert_close(model.encoder(inputs), 3 * encoded)  # LRU without its gate would be linear


def test_the_streaming_form_is_refused_where_there_is_none():
    spec = ModelSpec(head="lm", vocab_size=7, outputs=3, length=5)
    both = BackboneConfig(d_model=8, depth=1, causal=False)
    model = build_model(spec, "lru", both, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="causal"):
        model.streamed(jnp.zeros((1, 5), int))
