"""Rows that share rows give what rows of their own give: outputs and gradients of whole models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.ops.layout.packed import Packed
from seqzoo.models.registry import mixer
from seqzoo.models.spec import ModelSpec
from seqzoo.models.whole.build import build_model
from seqzoo.tasks.data.shared_rows import Packing
from tests.helpers import assert_close, assert_trees_close, x64
from tests.models.tiny import TINY

LENGTH, ROOM = 9, 12
SIZES = [9, 3, 1, 5, 4, 0, 6, 2]  # one is a row of padding
VALID = np.arange(LENGTH) < np.array(SIZES)[:, None]
VALID[3] = VALID[3][::-1]  # padding on the left
VALID[4] = [1, 0, 1, 1, 0, 0, 0, 0, 1]  # and in between
POOLINGS = ("mean", "last", "first")


def packed(valid=VALID):
    tables = Packing(3, ROOM, own=range(3)).tables(valid)
    return Packed(*map(jnp.asarray, tables.values()))


def both(name, *, head="classify", wide=False, **options):
    """Outputs and gradients of a model on rows of their own, and on shared ones."""
    spec = ModelSpec(head=head, vocab_size=7, outputs=3, length=LENGTH)
    dtypes = {"dtype": "float64", "param_dtype": "float64"} if wide else {}
    config = BackboneConfig(d_model=8, depth=1, expansion=1.0, **options, **dtypes)
    kind = name.partition("@")[0]
    model = build_model(spec, kind, config, TINY[name], rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    inputs = np.random.default_rng(0).integers(0, 7, VALID.shape)
    ids = VALID.astype(np.int32)
    if head == "two_tower":
        inputs, ids = (x.reshape(-1, 2, LENGTH) for x in (inputs, ids))

    @jax.jit
    def run(params, packed):
        def loss(params):
            y = nnx.merge(graphdef, params, rest, copy=True)(inputs, ids, packed=packed)
            return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        grads, y = jax.grad(loss, has_aux=True)(params)
        return y, jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)])

    return run(params, None), run(params, packed())


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("head", ["classify", "two_tower", "lm"])
def test_heads_read_shared_rows_as_their_own(head, pooling):
    if head == "lm" and pooling != "mean":
        pytest.skip("nothing is pooled")
    with x64():
        options = {"pooling": pooling, "causal": False, "positions": "learned"}
        own, shared = both("attention", head=head, wide=True, **options)
    for a, b in zip(shared, own, strict=True):
        assert a.dtype == "float64"
        assert_close(a, b, ratio=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", TINY)
def test_every_mixer_reads_shared_rows_as_their_own(name, causal):
    kind = mixer(name.partition("@")[0])
    if kind.packing == "none" or (causal and not kind.causal_form):
        pytest.skip("not a form of this mixer")
    with x64():
        own, shared = both(name, wide=True, causal=causal)
    assert_trees_close(shared, own, ratio=1e-10)


@pytest.mark.parametrize(("shards", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_the_tables_are_inverse_and_keep_to_their_group(shards, accumulate):
    valid = np.stack([VALID, VALID[::-1]], 1)  # pairs
    packing = Packing(16, ROOM, shards, accumulate, own=range(16))
    tokens, places = packing.tables(valid).values()
    assert (tokens >= 0).sum() == (places >= 0).sum() == valid.sum()
    np.testing.assert_array_equal(places >= 0, valid)
    parts = shards * accumulate
    for shard in range(shards):
        for micro in range(accumulate):
            mine = [r for r in range(16 // shards) if r % accumulate == micro]
            here = tokens[shard * 16 // shards + np.array(mine)].ravel()
            members = [b for b in range(8 // shards) if b % accumulate == micro]
            own = places[shard * 8 // shards + np.array(members)].ravel()
            assert len(here) == 16 * ROOM // parts
            np.testing.assert_array_equal(here[own[own >= 0]], np.flatnonzero(own >= 0))


def test_a_batch_without_room_is_left_alone():
    assert Packing(2, ROOM, own=range(2)).tables(VALID) is None
    assert Packing(3, ROOM, own=range(3)).tables(VALID) is not None
