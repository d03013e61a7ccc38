"""The mixture of experts against its sum written out, its losses, and what it drops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.backbone import Backbone, BackboneConfig, aux_losses
from seqzoo.models.blocks.mixture import MixtureOfExperts, routing
from seqzoo.models.partition import partition
from seqzoo.train.config import MeshConfig
from seqzoo.train.devices.sharding import make_mesh
from tests.helpers import assert_close, value_and_pullback, x64
from tests.laws import PACKED

DTYPES = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def gelu(a):
    return 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))


def by_hand(moe, x, room=None):
    """Tokens [T, D] one by one; with `room`, an expert that is full drops what comes."""
    w = np.asarray(moe.router_proj.kernel[...])
    up, down = (np.asarray(p.kernel[...]) for p in (moe.experts.up_proj, moe.experts.down_proj))
    logits = x @ w
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    chosen = np.argsort(-p, axis=-1, kind="stable")[:, : moe.top_k]
    y, used, dropped = np.zeros_like(x), np.zeros(len(up), int), 0
    for choice in range(moe.top_k):
        for t in range(len(x)):
            e = chosen[t, choice]
            used[e] += 1
            if room is not None and used[e] > room:
                dropped += 1
                continue
            y[t] += p[t, e] / p[t, chosen[t]].sum() * gelu(x[t] @ up[e]) @ down[e]
    share = np.bincount(chosen.ravel(), minlength=len(up)) / chosen.size
    balance = len(up) * (share * p.mean(0)).sum()
    z = np.log(np.exp(logits).sum(-1)) ** 2
    return y, dropped, balance, z.mean()


def made(**options):
    options = {"num_experts": 4, "top_k": 2, **options}
    return MixtureOfExperts(6, **options, **DTYPES, rngs=nnx.Rngs(0))


@pytest.mark.of_the_day("nothing dropped", 3)
@pytest.mark.parametrize("block", [4, 64])
def test_outside_training_nothing_is_dropped_and_padding_is_not_routed(block, monkeypatch):
    monkeypatch.setattr("seqzoo.models.blocks.mixture.BLOCK", block)
    with x64():
        moe = made()
        x = jax.random.normal(jax.random.key(0), (*PACKED.shape, 6))
        real = PACKED > 0
        expected = by_hand(moe, np.asarray(x)[real])[0]
        garbage = jnp.where(real[..., None], x, 1e4)
        assert_close(np.asarray(moe(garbage, PACKED))[real], expected, ratio=1e-12)


def test_training_drops_what_is_over_the_capacity_and_counts_it():
    with x64():
        moe = made(capacity_factor=0.6, balance=1.0, router_z=0.1)
        x = jax.random.normal(jax.random.key(0), (2, 10, 6))
        y = moe(x, rngs=nnx.Rngs(0))
        room = moe.capacity(20)
        assert room == 6
        expected, dropped, balance, z = by_hand(moe, np.asarray(x).reshape(20, 6), room)
        assert dropped > 0
        assert_close(y.reshape(20, 6), expected, ratio=1e-12)
        assert (int(moe.dropped[...]), int(moe.chosen[...])) == (dropped, 40)
        assert_close(moe.balance_loss[...], balance, ratio=1e-6)
        assert_close(aux_losses(moe), balance + 0.1 * z, ratio=1e-6)


def test_both_forms_agree_with_room_for_all_in_values_and_gradients():
    with x64():
        graphdef, params, rest = nnx.split(made(capacity_factor=4.0), nnx.Param, ...)
        x, dy = (jax.random.normal(jax.random.key(i), (2, 7, 6)) for i in range(2))

        def run(training):
            def f(params, x):
                rngs = nnx.Rngs(0) if training else None
                return nnx.merge(graphdef, params, rest, copy=True)(x, rngs=rngs)

            return value_and_pullback(f, dy, params, x)

        one, two = run(True), run(False)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            assert_close(a, b, ratio=1e-10)
            assert np.any(np.asarray(a) != 0)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="1 to num_experts"):
        made(top_k=5)
    with pytest.raises(ValueError, match="positive"):
        made(capacity_factor=0.0)


@pytest.mark.of_the_day("experts in a stack", 3)
def test_in_a_stack_it_routes_loses_and_counts_in_every_layer():
    options = {"experts": 3, "experts_per_token": 1, "expert_capacity": 0.5, "feedforward": "moe"}
    config = BackboneConfig(d_model=6, depth=2, **options)
    model = Backbone(("linear_attention",), config, {"num_heads": 1}, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)

    @jax.jit
    def call(state, x):
        model = nnx.merge(graphdef, state, copy=True)
        model(x, rngs=nnx.Rngs(dropout=0))
        return nnx.state(model)

    state = call(state, jax.random.normal(jax.random.key(0), (2, 6, 6)))
    found = {path[-1]: x[...] for path, x in nnx.to_flat_state(state)}
    assert found["dropped"].shape == (2,)
    assert np.all(np.asarray(found["chosen"]) == 12)
    assert np.all(np.asarray(found["dropped"]) > 0)
    ((dropped, chosen),) = routing(nnx.merge(graphdef, state)).values()
    assert (float(dropped), float(chosen)) == (found["dropped"].sum(), 24)
    assert routing(nnx.Linear(2, 2, rngs=nnx.Rngs(0))) == {}
    assert np.all(np.asarray(found["balance_loss"]) > 0)
    assert found["kernel"].ndim > 2


@pytest.mark.parametrize("name", ["up_proj", "down_proj"])
def test_experts_are_divided_over_their_axis(name):
    mesh = make_mesh(MeshConfig(data=1, expert=4, tensor=2))
    spec, named = partition(f"units/feedforward/experts/{name}/kernel", (2, 4, 8, 8), mesh)
    assert named
    assert spec[1] == "expert"
