"""Heads behind views: what follows, what is kept, what no gradient reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.selfsupervised.views import Memory, Momentum
from seqzoo.models.spec import ModelSpec, ViewSpec
from seqzoo.models.whole.build import build_model
from tests.helpers import assert_close

ROWS = np.random.default_rng(0).normal(size=(4, 3, 6, 2)).astype(np.float32)
HEADS = {
    "queue": ViewSpec(views=3, targets=1, hidden=5, norm=False, momentum=0.9, queue=10),
    "centre": ViewSpec(
        views=3, targets=2, hidden=5, prototypes=7, centre=0.8, momentum=0.5, momentum_steps=4
    ),
    "predictor": ViewSpec(views=3, targets=3, hidden=5, predictor=4, layers=3, last_norm=True),
}


def model_of(heads):
    spec = ModelSpec(head="views", outputs=4, length=6, features=2, views=HEADS[heads])
    config = BackboneConfig(d_model=4, depth=1, feedforward="none", scan=False)
    return build_model(spec, "min_gru", config, rngs=nnx.Rngs(0))


def flat(tree):
    return {path: leaf.get_value() for path, leaf in nnx.to_flat_state(tree)}


@pytest.fixture(scope="module")
def trained():
    """Heads -> (model before, what three calls gave, weights of each call, model after)."""
    found = {}
    for name in HEADS:
        graphdef, params, rest = nnx.split(model_of(name), nnx.Param, ...)

        @jax.jit
        def call(params, rest, graphdef=graphdef):
            model = nnx.merge(graphdef, params, rest, copy=True)
            seen = model(ROWS, rngs=nnx.Rngs(0))
            return seen, nnx.state(model, nnx.Not(nnx.Param)), model(ROWS)

        states, seen, plain = [rest], [], []
        steps = [jax.tree.map(lambda p, k=k: p * (1 + 0.5 * k), params) for k in range(3)]
        for step in steps:
            given, rest, evaluated = call(step, rest)
            states.append(rest)
            seen.append(given)
            plain.append(evaluated)
        found[name] = nnx.merge(graphdef, params, states[0], copy=True), steps, states, seen, plain
    return found


@pytest.mark.of_the_day("targets follow", 3)
def test_the_target_follows_before_each_step(trained):
    for name, momenta in (("queue", [0.9] * 3), ("centre", [0.5, 0.573223, 0.75])):
        _, steps, states, *_ = trained[name]
        key = next(
            p for p in flat(nnx.filter_state(states[0], Momentum)) if p[-2:] == ("embed", "kernel")
        )
        target = flat(nnx.filter_state(states[0], Momentum))[key]
        for m, step, state in zip(momenta, steps, states[1:], strict=True):
            target = m * target + (1 - m) * flat(step)["encoder", "embed", "kernel"]
            assert_close(flat(nnx.filter_state(state, Momentum))[key], target, ratio=2e-6)


def test_at_first_the_target_is_the_model(trained):
    model, _, _, seen, _ = trained["queue"]
    assert_close(seen[0].target[:, 0], seen[0].online[:, 0], ratio=1e-6)
    assert len(nnx.to_flat_state(nnx.state(model, Momentum))) == len(
        [p for p in flat(nnx.state(model, nnx.Param)) if p[0] == "encoder" or "projector" in p]
    )


def test_the_queue_has_the_newest_targets_and_is_seen_before(trained):
    seen = trained["queue"][3]
    directions = [s.target[:, 0] / np.linalg.norm(s.target[:, 0], axis=1)[:, None] for s in seen]
    assert_close(seen[2].queue[:8], np.concatenate([directions[1], directions[0]]), ratio=2e-6)
    assert_close(seen[2].queue[8:], seen[0].queue[:2], ratio=2e-6)
    assert_close(np.linalg.norm(seen[0].queue, axis=1), np.ones(10), ratio=1e-6)


def test_the_centre_is_a_mean_of_earlier_targets(trained):
    _, _, _, seen, _ = trained["centre"]
    assert not np.any(seen[0].centre)
    first = 0.2 * seen[0].target.mean((0, 1))
    assert_close(seen[1].centre, first, ratio=2e-6)
    assert_close(seen[2].centre, 0.8 * first + 0.2 * seen[1].target.mean((0, 1)), ratio=2e-6)
    assert np.abs(seen[0].online).max() <= 1


def test_without_weights_of_its_own_the_target_is_what_the_projector_gives(trained):
    seen = trained["predictor"][3][0]
    assert_close(seen.target, seen.embedded, ratio=1e-6)
    assert np.abs(seen.online - seen.embedded).max() > 0.1
    assert_close(seen.embedded.std((0, 1)), np.ones(4), ratio=1e-3)  # the last norm


@pytest.mark.of_the_day("no gradient to targets", 3)
def test_no_gradient_passes_the_target():
    graphdef, params, rest = nnx.split(model_of("predictor"), nnx.Param, ...)

    def total(params, of):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return jnp.sum(getattr(model(ROWS, rngs=nnx.Rngs(0)), of) ** 2)

    gradient = jax.jit(jax.grad(total), static_argnums=1)(params, "target")
    assert all(not np.any(g) for g in jax.tree.leaves(gradient))


def test_evaluation_writes_nothing_and_rows_of_another_number_are_refused():
    model = model_of("queue")
    before = flat(nnx.state(model))
    model(ROWS)
    after = flat(nnx.state(model))
    assert all(after[path] is before[path] for path in before)
    with pytest.raises(ValueError, match=r"views head compares views, inputs \[B, 3, L\]"):
        model(ROWS[:, :2])
    assert [len(flat(nnx.state(model, Memory))), model.head] == [1, "views"]
