"""Laws of the train step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.train.loop.evaluate import combine
from seqzoo.train.loop.state import seed_keys
from seqzoo.train.loop.step import make_eval_step, make_train_step
from tests.helpers import assert_trees_close
from tests.train import tiny

pytestmark = pytest.mark.smoke


def test_the_loss_falls():
    _, losses = tiny.run(tiny.setup(), 40)
    assert losses[-5:].mean() < 0.9 * losses[:5].mean()


def test_accumulation_equals_the_big_batch():
    one, _ = tiny.run(tiny.setup(), 3)
    four, _ = tiny.run(tiny.setup(accumulate=4), 3)
    assert_trees_close(four.params, one.params)


def test_accumulation_weighs_examples_not_microbatches():
    batch = next(tiny.batches(1))
    batch["weight"] = np.array([1, 1, 1, 1, 0, 0, 1, 0], np.float32)
    initial, key = seed_keys(0)
    losses = []
    for parts in (tiny.setup(penalty=0), tiny.setup(penalty=0, accumulate=4)):
        state, metrics = parts.jitted(parts.init(initial), batch, key)
        losses.append((state.params, metrics["loss"], metrics["grad_norm"]))
    assert_trees_close(losses[1], losses[0])


@pytest.mark.of_the_day("vectorised seeds", 2)
def test_vectorised_seeds_equal_separate_ones():
    parts, seeds = tiny.setup(dropout=0.5), (3, 5)
    initial, keys = jax.vmap(seed_keys)(jnp.array(seeds))
    states, step = jax.vmap(parts.init)(initial), jax.jit(jax.vmap(parts.step))
    for several in zip(*(tiny.batches(4, seed=seed) for seed in seeds), strict=True):
        states, _ = step(states, jax.tree.map(lambda *x: np.stack(x), *several), keys)
    for i, seed in enumerate(seeds):
        alone, _ = tiny.run(parts, 4, seed=seed)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], states), alone)


def test_dropout_differs_from_step_to_step():
    parts = tiny.setup(dropout=0.5)
    initial, key = seed_keys(0)
    state, batch = parts.init(initial), next(tiny.batches(1))
    step = parts.jitted
    losses = [step(state._replace(step=jnp.int32(n)), batch, key)[1]["loss"] for n in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_variables_that_are_not_trained_are_updated():
    state, _ = tiny.run(tiny.setup(), 1)
    assert np.abs(state.rest["batch_mean"]).max() > 0


def test_auxiliary_losses_are_part_of_the_loss():
    initial, key = seed_keys(0)
    parts = tiny.setup()
    _, metrics = parts.jitted(parts.init(initial), next(tiny.batches(1)), key)
    assert metrics["aux_loss"] > 0
    bare = metrics["loss"] - metrics["aux_loss"]
    task = tiny.Tiny()
    model = parts.plan.merge(*parts.init(initial)[1:3])
    batch = next(tiny.batches(1))
    total, weight = task.measure(model(batch["inputs"]), batch)["loss"]
    np.testing.assert_allclose(bare, total / weight, rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "group"), [("log_decay", "dynamics"), ("embed/embedding", "default")]
)
def test_a_step_that_is_not_finite_changes_nothing_and_names_the_group(path, group):
    parts = tiny.setup()
    initial, key = seed_keys(0)
    state = parts.init(initial)
    # Clipping would hide which group it was: the gradient of one parameter alone is not finite.
    step = jax.jit(tiny.poisoned(parts, path))
    new, metrics = step(state, next(tiny.batches(1)), key)
    bad = {
        name.split("/")[1] for name, on in metrics.items() if name.startswith("nonfinite/") and on
    }
    assert bad == {group}
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True)
    )


def test_a_loss_that_is_not_finite_changes_nothing():
    parts = tiny.setup()
    initial, key = seed_keys(0)
    state = parts.init(initial)
    batch = next(tiny.batches(1))
    batch["weight"][3] = np.inf
    new, metrics = parts.jitted(state, batch, key)
    assert not np.isfinite(metrics["loss"])
    assert new.step == 0
    assert np.array_equal(new.params["log_decay"], state.params["log_decay"])


class Sliced(tiny.Tiny):
    """With a metric of a slice that no example belongs to."""

    def measure(self, outputs, batch):
        return {**super().measure(outputs, batch), "nowhere": (jnp.zeros(()), jnp.zeros(()))}


def test_what_no_example_counts_for_is_no_number_and_no_fault():
    parts = tiny.setup()
    initial, key = seed_keys(0)
    state, batch = parts.init(initial), next(tiny.batches(1))
    step = jax.jit(make_train_step(Sliced(), parts.plan, parts.tx, lambda step: step))
    new, metrics = step(state, batch, key)
    assert np.isnan(metrics["nowhere"])
    assert new.step == 1
    # A batch without any label is a step of no loss.
    new, metrics = step(state, {**batch, "weight": 0 * batch["weight"]}, key)
    assert np.isnan(metrics["accuracy"])
    assert not metrics["skipped"]
    assert new.step == 1
    evaluate = jax.jit(make_eval_step(Sliced(), parts.plan))
    measured = [evaluate(state.params, state.rest, batch)] * 2
    assert np.isnan(combine(measured)["nowhere"])
    several = jax.tree.map(lambda x: jnp.stack([x, x]), measured)
    assert np.isnan(combine(several, several=True)["nowhere"]).tolist() == [True, True]
    assert combine(several, several=True)["examples"] == 16


def test_seeds_of_any_size_are_different_ones():
    seeds = (0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**64, 2**64 + 2**32, 10**30)
    keys = {jax.random.key_data(key).tobytes() for seed in seeds for key in seed_keys(seed)}
    assert len(keys) == 2 * len(seeds)
    for seed in seeds[:4]:  # runs of these seeds began so before
        assert jnp.array_equal(seed_keys(seed)[0], jax.random.split(jax.random.key(seed))[0])
