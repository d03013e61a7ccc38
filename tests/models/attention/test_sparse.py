"""Sparse patterns against masks from their papers, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import build
from seqzoo.models.attention.patterns import BlockPattern
from seqzoo.models.ops.softmax.packed_blocks import blocks_by_tag
from tests.helpers import assert_close, x64
from tests.references import sparse_patterns as patterns

D, L = 8, 23
STRIDED = {"stride": 4}
FIXED = {"pattern": "fixed", "stride": 5, "summary": 2}
GLOBAL = {"window": 4, "block_size": 3, "global_positions": (1, 7)}
CASES = {
    "local_attention": ({"block_size": 5, "back": 2}, lambda c: patterns.local(L, 5, 2, c)),
    "strided": (STRIDED, lambda c: patterns.strided(L, 4, c)),
    "fixed": (FIXED, lambda c: patterns.fixed(L, 5, 2, c)),
    "longformer": (GLOBAL, lambda c: patterns.window(L, 4, (1, 7), c)),
}


def attend_by_hand(mixer, x, seen, rows=()):
    """The mixer's output with a mask; `rows` are queries with projections of their own."""

    def heads(p, x):
        return np.asarray(x @ p.kernel[...]).reshape(len(x), mixer.num_heads, -1)

    q, k, v = (heads(p, x) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    o = patterns.attention(q, k, v, seen)
    if rows:
        own = mixer.global_proj
        q, k, v = (heads(own[name], x) for name in ("q_proj", "k_proj", "v_proj"))
        o[list(rows)] = patterns.attention(q, k, v, seen)[list(rows)]
    return o.reshape(len(x), -1) @ np.asarray(mixer.out_proj.kernel[...])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_pattern_is_that_of_the_paper(case, causal):
    options, mask = CASES[case]
    name = "sparse_attention" if case in ("strided", "fixed") else case
    with x64():
        common = {"num_heads": 2, "positions": "none", "dtype": "float64", "param_dtype": "float64"}
        mixer = build(name, D, causal=causal, rngs=nnx.Rngs(0), **common, **options)
        x = np.random.default_rng(0).normal(size=(1, L, D))
        rows = options.get("global_positions", ()) if not causal else ()
        desired = attend_by_hand(mixer, x[0], mask(causal), rows)
        ids = np.ones((1, L), np.int32)
        run = jax.jit(lambda x, ids: mixer(x, ids))
        assert_close(run(x, None)[0], desired, ratio=1e-9, what="rows without borders")
        assert_close(run(x, ids)[0], desired, ratio=1e-9, what="rows with ids")


@pytest.mark.parametrize("causal", [True, False])
def test_bigbird_sees_what_its_blocks_say(causal):
    size, count, back, drawn = 2, 11, 1, 2
    options = {"block_size": size, "back": back, "num_random": drawn, "seed": 5}
    pattern = BlockPattern(
        size=size, back=back, causal=causal, first=True, num_random=drawn, seed=5
    )
    blocks = np.asarray(pattern.table(jnp.arange(count), jnp.full(count, count)))
    seen = np.zeros((count, count), bool)
    for b, row in enumerate(blocks):
        seen[b, row[(row >= 0) & (row < count)]] = True
        beside = range(max(0, b - back), min(count, b + 1 + (0 if causal else back)))
        assert seen[b, list(beside)].all()
        assert seen[b, 0]
        random = set(row[-drawn:]) - {-1}
        assert not random & {0, *beside}
        assert not causal or all(r < b for r in random)
        assert len(random) > 0 or b < 3 or not causal
    seen = seen.repeat(size, 0).repeat(size, 1)[:L, :L] if causal else seen
    if not causal:
        seen[0] = True
        seen = seen.repeat(size, 0).repeat(size, 1)
    length = count * size
    seen = seen & (patterns.distances(length) >= 0) if causal else seen
    mixer = build(
        "bigbird", D, causal=causal, num_heads=2, positions="none", rngs=nnx.Rngs(0), **options
    )
    x = np.random.default_rng(1).normal(size=(1, length, D)).astype(np.float32)
    desired = attend_by_hand(mixer, x[0], seen)
    assert_close(jax.jit(lambda x: mixer(x))(x)[0], desired, ratio=1e-5)


SHORT = {
    "longformer": {**GLOBAL, "window": 8, "block_size": 4, "global_positions": (0, 5)},
    "bigbird": {"block_size": 4, "num_random": 0},
    "sinkhorn": {"block_size": 4},
    "fixed": {**FIXED, "stride": 4},
}


@pytest.mark.parametrize("case", SHORT)
def test_short_segments_share_blocks_and_see_what_rows_of_their_own_see(case):
    """Against rows without ids, which are laid out in another way."""
    name = "sparse_attention" if case == "fixed" else case
    mixer = build(name, D, causal=False, num_heads=2, rngs=nnx.Rngs(0), **SHORT[case])
    run = jax.jit(lambda x, ids: mixer(x, ids))
    x = np.random.default_rng(2).normal(size=(1, 14, D)).astype(np.float32)
    ids = np.repeat([1, 2, 3, 4, 5, 6], [2, 1, 2, 6, 1, 2])[None]
    y = run(x, ids)
    for one, count in ((1, 2), (2, 1), (3, 2), (4, 6), (6, 2)):
        alone = run(x[:, ids[0] == one], None)
        assert alone.shape[1] == count
        assert_close(y[:, ids[0] == one], alone, ratio=1e-5, what=f"segment {one}")


def test_segments_of_any_length_fit_into_their_blocks():
    """Every token once, long segments from the start of a block, short ones within one."""
    size, length = 5, 37
    lay = jax.jit(lambda tags: blocks_by_tag(tags, size))
    rng = np.random.default_rng(0)
    for most in (1, 2, 3, 5, 6, 7, 11, 30):
        lengths = rng.integers(1, most + 1, length)
        tags = np.repeat(np.arange(1, length + 1), lengths)[:length].astype(np.int32)
        tags = np.where(rng.random(length) < 0.2, 0, tags)
        blocks = lay(tags[None])
        packed = np.asarray(blocks.pack(jnp.arange(1, length + 1)[None]))[0]
        assert sorted(packed[packed > 0]) == [t + 1 for t in np.flatnonzero(tags)]
        for tag in set(tags) - {0}:
            tokens = np.flatnonzero(tags == tag)
            at = np.stack([np.argwhere(packed == t + 1)[0] for t in tokens])
            if len(tokens) > size:
                np.testing.assert_array_equal(at[:, 1], np.arange(len(tokens)) % size)
                np.testing.assert_array_equal(at[:, 0] - at[0, 0], np.arange(len(tokens)) // size)
            else:
                assert len(set(at[:, 0])) == 1


def root(length):
    return 4 * round(length**0.5 / 4)


# Options for rows of L tokens, and how many keys a query has.
COSTS = {
    "local_attention": (lambda n: {"block_size": 32}, lambda n: 64),
    "longformer": (lambda n: {"window": 65}, lambda n: 65 + 1),
    "bigbird": (lambda n: {"block_size": 16, "num_random": 2}, lambda n: 5 * 16),
    "strided": (lambda n: {"stride": root(n)}, lambda n: root(n) + n / root(n)),
    "fixed": (
        lambda n: {"pattern": "fixed", "stride": 2 * root(n), "summary": 2},
        lambda n: 2 * root(n) + n / root(n),
    ),
}


def compiled_flops(name, length, options):
    """Of the forward pass, without the four projections."""
    mixer = build(name, 128, num_heads=2, positions="none", rngs=nnx.Rngs(0), **options)
    x = jax.ShapeDtypeStruct((1, length, 128), jnp.float32)
    cost = jax.jit(lambda x: mixer(x)).lower(x).compile().cost_analysis()
    return cost["flops"] - 4 * 2 * length * 128**2


@pytest.mark.parametrize("case", COSTS)
def test_flops_are_those_of_the_keys_that_are_seen(case):
    """4 L n d_model for n keys a query, and growth with L as the formula has it."""
    options, keys = COSTS[case]
    name = "sparse_attention" if case in ("strided", "fixed") else case
    flops = {n: compiled_flops(name, n, options(n)) for n in (512, 2048)}
    ratios = {n: f / (4 * n * keys(n) * 128) for n, f in flops.items()}
    assert all(0.9 < r < 1.3 for r in ratios.values()), ratios
    if case not in ("strided", "fixed"):
        assert flops[2048] < 4.1 * flops[512], flops
