import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import (
    AuxLoss,
    Backbone,
    BackboneConfig,
    Mixer,
    ModelSpec,
    Stack,
    aux_losses,
    build_model,
    default_backbone,
    param_groups,
    presets,
)
from seqzoo.models.registry import resolve
from tests import laws
from tests.helpers import assert_close, assert_trees_close

SMALL = BackboneConfig(d_model=laws.D, depth=2, expansion=1.0)
HEADS = {"num_heads": 2}


class Counting(Mixer):
    """Counts its calls in a variable and writes an auxiliary loss."""

    def __init__(self, d_model, rngs):
        self.out_proj = nnx.Linear(d_model, d_model, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros(()))
        self.aux = AuxLoss(jnp.zeros(()))

    def _initial(self, batch_size):
        return jnp.zeros((batch_size, 1))

    def state_size(self):
        return 1

    def _mix(self, x, inner, ctx):
        self.calls[...] += 1
        self.aux[...] = jnp.mean(x**2)
        return x + self.out_proj(x), inner


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_scanned_and_unrolled_stacks_are_equal_variables_included(remat):
    def make(index, rngs):
        return Counting(laws.D, rngs)

    scanned = Stack(make, 3, scan=True, remat=remat, rngs=nnx.Rngs(0))
    unrolled = Stack(make, 3, scan=False, remat=remat, rngs=nnx.Rngs(1))
    stacked = nnx.state(scanned.units, nnx.Param)
    for i, unit in enumerate(unrolled.units):
        nnx.update(unit, jax.tree.map(lambda a, i=i: a[i], stacked))
    x = laws.normal(0, 2, 5, laws.D)
    assert_close(scanned(x, rngs=nnx.Rngs(0)), unrolled(x, rngs=nnx.Rngs(0)), ratio=1e-6)
    np.testing.assert_array_equal(scanned.units.calls[...], [1, 1, 1])
    assert [float(u.calls[...]) for u in unrolled.units] == [1, 1, 1]
    assert_close(aux_losses(scanned), aux_losses(unrolled), ratio=1e-6)
    assert float(aux_losses(scanned)) > 0


@pytest.mark.of_the_day("rematerialisation")
def test_rematerialisation_changes_no_gradient():
    def gradient(remat):
        config = dataclasses.replace(SMALL, remat=remat, dropout=0.2)
        stack = Backbone(("attention",), config, HEADS, rngs=nnx.Rngs(0))
        graphdef, params, rest = nnx.split(stack, nnx.Param, ...)

        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            return (model(x, rngs=nnx.Rngs(dropout=3)) ** 2).mean()

        return jax.jit(jax.grad(loss))(params)

    x = laws.normal(1, 2, 5, laws.D)
    plain = gradient("none")
    for remat in ("full", "dots"):
        for a, b in zip(jax.tree.leaves(gradient(remat)), jax.tree.leaves(plain), strict=True):
            assert_close(a, b, ratio=1e-5)


def test_dropout_acts_in_training_only_and_differs_between_layers():
    config = dataclasses.replace(SMALL, dropout=0.5)
    stack = Backbone(("attention",), config, HEADS, rngs=nnx.Rngs(0))
    x = laws.normal(2, 2, 5, laws.D)
    assert_close(stack(x), stack(x), ratio=0.0)
    one, two = stack(x, rngs=nnx.Rngs(1)), stack(x, rngs=nnx.Rngs(2))
    assert np.abs(one - two).max() > 0.1
    assert_close(stack(x, rngs=nnx.Rngs(1)), one, ratio=0.0)


def test_batch_norm_takes_its_statistics_from_real_tokens_only():
    config = dataclasses.replace(SMALL, norm="batch", feedforward="none", depth=1)
    ids = laws.PACKED
    x = laws.normal(3, *ids.shape, laws.D)
    results = []
    for fill in (0.0, 1e3):
        stack = Backbone(("linear_attention",), config, HEADS, rngs=nnx.Rngs(0))
        filled = np.where(ids[..., None] > 0, x, fill).astype(np.float32)
        y = np.asarray(stack(filled, ids, rngs=nnx.Rngs(0)))
        results.append((y[ids > 0], nnx.to_pure_dict(nnx.state(stack, nnx.BatchStat))))
    assert_close(results[1][0], results[0][0], ratio=1e-5)
    assert_trees_close(results[1][1], results[0][1], ratio=1e-5)
    mean = results[0][1]["stack"]["units"]["norm"]["norm"]["mean"][0]
    assert_close(mean, 0.05 * x[ids > 0].mean(0), ratio=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_classifiers_pool_real_tokens_only(pooling):
    spec = ModelSpec(head="classify", vocab_size=7, outputs=3, length=9)
    config = dataclasses.replace(SMALL, pooling=pooling)
    model = build_model(spec, "linear_attention", config, HEADS, rngs=nnx.Rngs(0))
    tokens = np.array([[1, 2, 3, 4, 5]])
    padded = np.array([[6, 6, 1, 2, 3, 6, 4, 5, 6]])
    ids = np.array([[0, 0, 1, 1, 1, 0, 1, 1, 0]])
    assert_close(model(padded, ids), model(tokens), ratio=1e-5)
    assert model(padded, np.zeros_like(ids)).shape == (1, 3)


@pytest.mark.of_the_day("two towers", 2)
def test_two_towers_share_their_weights_and_see_each_other_only_in_the_head():
    spec = ModelSpec(head="two_tower", vocab_size=7, outputs=2, length=5)
    model = build_model(spec, "attention", SMALL, HEADS, rngs=nnx.Rngs(0))
    pairs = np.random.default_rng(0).integers(1, 7, (3, 2, 5))
    ids = np.ones_like(pairs)
    same = np.stack([pairs[:, 0], pairs[:, 0]], 1)
    assert model(pairs, ids).shape == (3, 2)
    u = model.encoder(pairs[:, 0], ids[:, 0]).mean(1)
    zero = jnp.zeros_like(u)
    features = jnp.concatenate([u, u, zero, u * u], -1)
    expected = model.out_proj(jax.nn.gelu(model.in_proj(features)))
    assert_close(model(same, ids), expected, ratio=1e-5)


@pytest.mark.of_the_day("language model streams", 2)
def test_a_language_model_streams():
    spec = ModelSpec(head="lm", vocab_size=7, outputs=7, length=laws.L)
    for positions in ("sinusoidal", "learned"):
        config = dataclasses.replace(SMALL, positions=positions, tie_embeddings=True, short_conv=2)
        model = build_model(spec, "attention", config, HEADS, rngs=nnx.Rngs(0))
        tokens = np.random.default_rng(0).integers(0, 7, (2, laws.L))
        state = model.init_state(2)
        one, state = model.extend(tokens[:, :5], state)
        two, state = model.extend(tokens[:, 5:], state)
        assert_close(jnp.concatenate([one, two], 1), model(tokens), ratio=1e-5)
    with pytest.raises(ValueError, match="max_length"):
        model.extend(tokens[:, :1], state)


def test_groups_of_parameters_reach_any_optimiser():
    spec = ModelSpec(head="lm", vocab_size=7, outputs=7, length=9)
    model = build_model(spec, "attention", SMALL, HEADS, rngs=nnx.Rngs(0))
    groups = param_groups(model)
    params = nnx.state(model, nnx.Param)
    assert jax.tree.structure(groups) == jax.tree.structure(nnx.as_pure(params))
    flat = {
        jax.tree_util.keystr(path): group
        for path, group in jax.tree_util.tree_leaves_with_path(groups)
    }
    assert {g for p, g in flat.items() if "norm" in p or "bias" in p} == {"no_decay"}
    assert {g for p, g in flat.items() if "kernel" in p} == {"default"}


@pytest.mark.parametrize("name", presets())
def test_presets_build_and_learn(name):
    spec = ModelSpec(head="classify", vocab_size=7, outputs=2, length=9)
    config = dataclasses.replace(default_backbone(name), d_model=8)
    own = resolve(name).options.get("attention", {})
    # A part of a head's channels turns, which is to be pairs.
    more = {"attention": {**own, "d_head": 8}} if "fraction" in str(own.get("positions")) else {}
    model = build_model(spec, name, config, more, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    tokens = np.random.default_rng(0).integers(1, 7, (8, 9))
    labels = tokens[:, 0] % 2

    @jax.jit
    def step(params):
        def loss(params):
            logits = nnx.merge(graphdef, params, rest, copy=True)(tokens)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    first, params = step(params)
    for _ in range(5):
        last, params = step(params)
    assert last < first


def test_impossible_options_are_refused():
    spec = ModelSpec(head="classify", vocab_size=7, outputs=2, length=9)
    with pytest.raises(ValueError, match="did you mean attention"):
        build_model(spec, "atention", SMALL, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="option of attention 'num_head'"):
        build_model(spec, "attention", SMALL, {"num_head": 2}, rngs=nnx.Rngs(0))
    deep, tied = (
        dataclasses.replace(SMALL, depth=3),
        dataclasses.replace(SMALL, tie_embeddings=True),
    )
    with pytest.raises(ValueError, match="multiple of the pattern"):
        build_model(spec, "attention,linear_attention", deep, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="tie_embeddings"):
        build_model(spec, "attention", tied, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"unknown norm='foo' \(known: rms"):
        BackboneConfig(norm="foo")
    with pytest.raises(ValueError, match="num_heads must divide d_model"):
        build_model(spec, "attention", SMALL, {"num_heads": 3}, rngs=nnx.Rngs(0))
