"""Sampling: what is drawn equals draws from the parallel form, and the rules of drawing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import BackboneConfig, ModelSpec, build_model, draw, sample
from seqzoo.models.attention.transformer_vq.mixer import VQState
from tests.helpers import assert_close
from tests.laws.programs import compilations

pytestmark = pytest.mark.of_the_day(days=3)

VOCAB = 11
OPTIONS = {
    # Blocks of 3 and 4 tokens before them one by one; 40 tokens are ten times that, in 5 groups.
    "transformer_vq": {"num_heads": 2, "num_codes": 5, "block_size": 3, "memory": 4},
    "attention": {"num_heads": 2, "window": 6},
    "lru": {"d_state": 4},
}


def built(name, **changes):
    spec = ModelSpec(head="lm", vocab_size=VOCAB, outputs=VOCAB, length=64)
    config = BackboneConfig(**{"d_model": 8, "depth": 2, **changes})
    model = build_model(spec, name, config, OPTIONS.get(name), rngs=nnx.Rngs(0))
    kernel = model.out_proj.kernel
    kernel[...] = 4 * kernel[...]  # distributions that differ from position to position
    return model


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_tokens_are_drawn_from_what_the_parallel_form_predicts(name):
    model, key = built(name), jax.random.key(1)
    prompt = jax.random.randint(jax.random.key(0), (3, 7), 0, VOCAB)
    options = {"temperature": 0.8, "top_k": 9, "top_p": 0.95}
    tokens = sample(model, prompt, 40, key, **options)
    whole = jnp.concatenate([prompt, tokens], 1)
    logits = nnx.jit(lambda model, x: model(x))(model, whole)[:, 6:-1]
    expected = [draw(logits[:, t], jax.random.fold_in(key, t), **options) for t in range(40)]
    np.testing.assert_array_equal(tokens, jnp.stack(expected, 1))
    assert len(np.unique(tokens)) > 5
    assert compilations(lambda: sample(model, prompt, 40, key, **options)) == 0


def test_transformer_vq_steps_through_its_caches_as_the_parallel_form():
    """The state that sampling carries: a ring of recent keys, the rest in groups of codes."""
    model = built("transformer_vq")
    x = jax.random.randint(jax.random.key(2), (2, 40), 0, VOCAB)

    graphdef, variables = nnx.split(model)

    @jax.jit
    def stepped(x):
        def body(state, token):
            model = nnx.merge(graphdef, variables, copy=True)
            logits, state = model.extend(token[:, None], state)
            return state, logits[:, 0]

        return jax.lax.scan(body, model.init_state(2), x.T)

    state, logits = stepped(x)
    logits = jnp.swapaxes(logits, 0, 1)
    assert_close(logits, nnx.jit(lambda model, x: model(x))(model, x), ratio=1e-5)
    inner = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, VQState))
    (held,) = (part for part in inner if isinstance(part, VQState))
    # Of 40 tokens in blocks of 3, the last 1 and 4 before it are in the ring.
    np.testing.assert_array_equal(held.groups.count.sum(-1), np.full((2, 2, 2), 35))
    np.testing.assert_array_equal(held.recent.count, np.full((2, 2), 5))


@pytest.mark.of_the_day("unequal prompts", 3)
def test_prompts_of_different_lengths_continue_as_each_alone():
    model, key = built("lru"), jax.random.key(3)
    prompt = jax.random.randint(jax.random.key(0), (2, 6), 0, VOCAB)
    ids = jnp.array([[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1]])
    got = sample(model, prompt, 8, key, segment_ids=ids, temperature=0)
    for row, part in ((0, slice(0, 3)), (1, slice(1, 6))):
        alone = sample(model, prompt[row : row + 1, part], 8, key, temperature=0)
        np.testing.assert_array_equal(got[row], alone[0])


LOGITS = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1]))


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.5}, [0.725, 0.181, 0.065, 0.029]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 9}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.8}, [0.556, 0.278, 0.167, 0]),
        ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),  # 0.67 of what top_k leaves
        ({"temperature": 100.0, "top_k": 2}, [0.5, 0.5, 0, 0]),
    ],
)
def test_shares_of_the_tokens_drawn(options, shares):
    count = 20_000
    tokens = draw(jnp.broadcast_to(LOGITS, (count, 4)), jax.random.key(0), **options)
    found = np.bincount(tokens, minlength=4) / count
    assert np.all(found[np.array(shares) == 0] == 0)
    np.testing.assert_allclose(found, shares, atol=0.015)  # four standard deviations


def test_what_cannot_be_is_refused():
    model, prompt, key = built("lru"), jnp.ones((1, 4), jnp.int32), jax.random.key(0)
    for options, match in (
        ({"temperature": -1.0}, "temperature is finite and not negative"),
        ({"top_k": -1}, "not negative"),
        ({"top_p": 0.0}, r"in \(0, 1\]"),
        ({"length": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=match):
            sample(model, prompt, **{"length": 2, **options}, key=key)
    spec = ModelSpec(head="classify", vocab_size=VOCAB, outputs=3, length=8)
    config = BackboneConfig(d_model=8)
    with pytest.raises(ValueError, match="needs a language model"):
        sample(build_model(spec, "lru", config, rngs=nnx.Rngs(0)), prompt, 2, key)
    full = built("attention")
    full.encoder.max_length, full.encoder.state_growth = 8, "linear"
    with pytest.raises(ValueError, match="max_length=8; got length=6 after a prompt of 4"):
        sample(full, prompt, 6, key)
