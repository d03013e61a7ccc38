"""Generation: the same tokens as `sample`, in programs that know no length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models import draw, generate, sample
from seqzoo.models.whole.sampling import filtered, rule_of
from tests.laws.programs import compilations
from tests.models.test_sampling import VOCAB, built

pytestmark = pytest.mark.of_the_day(days=5)

HOW = {"temperature": 0.9, "top_k": 9, "min_p": 0.05, "repetition_penalty": 1.3}
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3], [8, 9, 7]]


@pytest.fixture(scope="module")
def model():
    """With a window of keys, which knows positions."""
    return built("attention", depth=1)


def drawn(model, prompts, length, **how):
    return np.stack(list(generate(model, prompts, length, jax.random.key(1), **how)), 1)


def test_tokens_are_those_of_sample_in_any_chunks(model):
    longest = max(map(len, PROMPTS))
    prompt = np.array([[0] * (longest - len(row)) + row for row in PROMPTS])
    ids = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in PROMPTS])
    expected = sample(model, jnp.asarray(prompt), 9, jax.random.key(1), segment_ids=ids, **HOW)
    np.testing.assert_array_equal(drawn(model, PROMPTS, 9, chunk=3, **HOW), expected)


def test_unequal_prompts_continue_as_each_alone(model):
    together = drawn(model, PROMPTS, 9, temperature=0)
    for row, prompt in zip(together, PROMPTS, strict=True):
        np.testing.assert_array_equal(drawn(model, [prompt], 9, temperature=0)[0], row)


def test_other_lengths_compile_nothing(model):
    drawn(model, PROMPTS, 4, chunk=4)
    assert compilations(lambda: drawn(model, [[1] * 11, [2], [3, 4]], 7, chunk=4)) == 0


def test_samples_of_a_prompt_are_read_once_and_differ(model):
    tokens = drawn(model, PROMPTS[:2], 6, samples=3, temperature=2.0)
    repeated = [row for row in PROMPTS[:2] for _ in range(3)]
    np.testing.assert_array_equal(tokens, drawn(model, repeated, 6, temperature=2.0))
    assert len({tuple(row) for row in tokens}) > 2


def loop(logits, seen, temperature, top_k, top_p, min_p, penalty):
    """The logits that are drawn from, one at a time."""
    row = [
        (x / penalty if x > 0 else x * penalty) if s else x
        for x, s in zip(logits, seen, strict=True)
    ]
    row = [x / temperature for x in row]
    order = sorted(range(len(row)), key=lambda i: -row[i])[: top_k or len(row)]
    total, sums, nucleus = sum(np.exp(row[i]) for i in order), 0.0, []
    for i in order:
        if sums / total < top_p:
            nucleus.append(i)
        sums += np.exp(row[i])
    best = np.exp(row[order[0]])
    kept = {i for i in nucleus if np.exp(row[i]) >= min_p * best}
    return [x if i in kept else -np.inf for i, x in enumerate(row)]


@pytest.mark.parametrize(
    "how",
    [
        (1.0, 0, 1.0, 0.3, 1.0),
        (0.7, 5, 0.9, 0.1, 1.0),
        (2.0, 0, 0.8, 0.4, 1.7),
        (1.0, 3, 1.0, 0.0, 0.5),
    ],
)
def test_filters_equal_a_loop(how):
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8, 12)).astype(np.float32)
    seen = rng.random((8, 12)) < 0.5
    rule, levels = rule_of(**dict(zip(names, how, strict=True)))
    found = np.asarray(filtered(jnp.asarray(logits), rule, levels, jnp.asarray(seen)))
    for row, own, made in zip(logits, seen, found, strict=True):
        expected = loop(row, own, *how)
        np.testing.assert_allclose(made, expected, rtol=1e-6)
        assert np.isfinite(made).any()


@pytest.mark.parametrize(
    ("prompts", "how", "says"),
    [
        ([], {}, "empty prompt"),
        ([[1], []], {}, "empty prompt"),
        ([[1, VOCAB]], {}, rf"in \[0, {VOCAB}\); got {VOCAB}"),
        ([[1]], {"chunk": 0}, "chunk must be at least 1"),
        ([[1]], {"samples": 0}, "samples must be at least 1"),
        ([[1]], {"min_p": 1.0}, r"min_p is in \[0, 1\)"),
        ([[1]], {"repetition_penalty": 0.0}, "above 0"),
    ],
)
def test_what_cannot_be_is_refused_at_once(model, prompts, how, says):
    with pytest.raises(ValueError, match=says):
        generate(model, prompts, 3, jax.random.key(0), **how)
    with pytest.raises(ValueError, match="needs seen"):
        draw(jnp.zeros((1, 3)), jax.random.key(0), repetition_penalty=2.0)
