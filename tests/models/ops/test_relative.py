"""Terms of the scores by distance, made block by block, against a full bias in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.layout.segments import segments
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.models.ops.softmax.relative import Lookup, Relative, Slopes, Terms
from tests.helpers import assert_close, x64
from tests.models.ops.test_attention import BATCH, HEADS, LENGTHS, draw, packed_ids
from tests.references import attention as reference

LOOKUP = Lookup.of(-3, np.array([0, 1, 1, 2, 4, 3, 4, 0]))  # distances -3 .. 4, five rows


def parts(length, keys, seed=0):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(HEADS, 5))
    by_query, by_key = (rng.normal(size=(BATCH, n, HEADS, 5)) for n in (length, keys))
    return [2 * a for a in (table, by_query, by_key)]


def full(terms, ahead):
    """The bias [B, H, L, S], and what turns its gradient into those of the three arrays."""
    table, by_query, by_key = terms
    row = np.array(LOOKUP.rows)[np.clip(ahead + 3, 0, 7)]  # [B, L, S]
    onehot = np.eye(5)[row]
    bias = np.einsum("blsm,hm->bhls", onehot, table)
    bias += np.einsum("blsm,blhm->bhls", onehot, by_query)
    bias += np.einsum("blsm,bshm->bhls", onehot, by_key)

    def pull(dbias):
        return (
            np.einsum("blsm,bhls->hm", onehot, dbias),
            np.einsum("blsm,bhls->blhm", onehot, dbias),
            np.einsum("blsm,bhls->bshm", onehot, dbias),
        )

    return bias, pull


def compare(length, ids, causal, window=None):
    q, k, v, cotangent = draw(length)
    terms = parts(length, length)
    position, tags = np.broadcast_to(np.arange(length), (BATCH, length)), None
    real = np.ones((BATCH, length), bool)
    if ids is not None:
        real, tags = ids > 0, reference.runs(ids)
        position = np.asarray(segments(jnp.asarray(ids)).position)
    bias, pull_bias = full(terms, position[:, :, None] - position[:, None])
    cotangent = cotangent * real[..., None, None]
    options = {"causal": causal, "window": window}
    where = {"q_positions": position, "k_positions": position} if window else {}
    want, grads = reference.attention(
        q, k, v, cotangent, bias=bias, q_tags=tags, k_tags=tags, **options, **where
    )

    @jax.jit
    def both(q, k, v, terms):
        def f(q, k, v, terms):
            relative = Relative(LOOKUP, Terms(*terms))
            return attention(q, k, v, relative=relative, segment_ids=ids, **options)

        o, pull = jax.vjp(f, q, k, v, terms)
        return o, pull(jnp.asarray(cotangent))

    with x64():
        o, got = both(q, k, v, [jnp.asarray(t) for t in terms])
    assert_close(np.asarray(o)[real], want[real], ratio=1e-12)
    want_grads = (*grads[:3], *pull_bias(grads[3]))
    names = ("q", "k", "v", "table", "by_query", "by_key")
    for name, g, w in zip(names, (*got[:3], *got[3]), want_grads, strict=True):
        assert_close(g, w, ratio=1e-12, what=f"d{name}")


@pytest.mark.of_the_day
@pytest.mark.parametrize("form", LENGTHS)
def test_rows_and_tables_equal_a_full_bias(form):
    compare(LENGTHS[form], None, causal=False)


@pytest.mark.parametrize("form", LENGTHS)
@pytest.mark.parametrize("window", [None, 5])
def test_distances_count_the_tokens_of_a_segment(form, window):
    """Causal, packed: padding in between is not a distance."""
    compare(LENGTHS[form], packed_ids(LENGTHS[form]), causal=True, window=window)


def test_slopes_equal_a_full_bias():
    q, k, v, _ = (jnp.asarray(a, jnp.float32) for a in draw(300))
    slopes = (0.5, 0.25, 0.1, 0.01)
    distance = np.abs(np.arange(300)[:, None] - np.arange(300))
    bias = -np.array(slopes)[:, None, None] * distance
    want = attention(q, k, v, bias=jnp.asarray(bias, jnp.float32))
    assert_close(attention(q, k, v, relative=Relative(Slopes(slopes))), want, ratio=1e-6)


def test_memory_is_linear_in_length():
    """At L = 4096 the term of no pair of tokens is kept, forward or backward."""
    length, heads = 4096, 4
    x = jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)
    rows = jax.ShapeDtypeStruct((1, length, heads, 5), jnp.float32)

    def loss(x, table, by_query, by_key):
        relative = Relative(LOOKUP, Terms(table, by_query, by_key))
        return attention(x, x, x, causal=True, relative=relative).sum()

    table = jax.ShapeDtypeStruct((heads, 5), jnp.float32)
    compiled = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(x, table, rows, rows).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < heads * length * length * 4 / 20
