"""Training from a carried state, with episodes that end anywhere: docs/guides/state.md."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqzoo.models import GRU, LRU, S5, LinearAttention
from seqzoo.models.ops import ids_from_resets
from tests.helpers import assert_close

GUIDE = (pathlib.Path(__file__).parents[2] / "docs/guides/state.md").read_text()
(CODE,) = [c for c in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "Policy" in c]
MEMORIES = {
    "gru": GRU,
    "lru": functools.partial(LRU, d_state=32, r_min=0.9, max_phase=0.3),
    "s5": functools.partial(S5, d_state=32),
    "linear_attention": functools.partial(LinearAttention, num_heads=2),
}


def some(*fast):
    """All of them, others than these when slow."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in MEMORIES]


@pytest.mark.parametrize("name", some("gru"))
def test_an_episode_may_begin_at_every_step(name):
    """Row t begins an episode at its step t; both parts are as if they were apart."""
    rows = 6
    mixer = MEMORIES[name](8, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (rows, rows, 8))
    carried = jax.random.normal(jax.random.key(1), (rows, 3, 8))
    resets = jnp.eye(rows, dtype=bool)

    @jax.jit
    def run(x, carried):
        _, state = mixer.extend(carried, mixer.init_state(rows))
        y, after = mixer.extend(x, state, resets=resets)
        steps = []
        for t in range(rows):
            one, state = mixer.extend(x[:, t : t + 1], state, resets=resets[:, t : t + 1])
            steps.append(one)
        fresh = mixer(
            jnp.concatenate([carried, x], 1), jnp.pad(resets.cumsum(1), [(0, 0), (3, 0)]) + 1
        )
        return y, after, jnp.concatenate(steps, 1), state, fresh[:, 3:]

    y, after, steps, state, fresh = run(x, carried)
    assert_close(y, fresh, ratio=1e-5)
    assert_close(steps, y, ratio=1e-5)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert_close(a, b, ratio=1e-5)
    slope = jax.jit(jax.grad(lambda carried: jnp.sum(run(x, carried)[0][:, -1])))(carried)
    assert not np.any(slope)  # by then every row has forgotten


def test_ids_from_resets():
    resets = jnp.array([[0, 1, 0, 1], [1, 0, 0, 0]], bool)
    np.testing.assert_array_equal(ids_from_resets(resets), [[1, 2, 2, 3], [2, 2, 2, 2]])
    last = jnp.array([7, 0])
    np.testing.assert_array_equal(ids_from_resets(resets, last), [[7, 8, 8, 9], [2, 2, 2, 2]])


@pytest.mark.of_the_day("resets alone", 3)
def test_resets_are_flags_and_stand_alone():
    mixer = GRU(4, rngs=nnx.Rngs(0))
    x, state, flags = jnp.zeros((2, 3, 4)), mixer.init_state(2), jnp.zeros((2, 3), bool)
    with pytest.raises(ValueError, match="give one of the two"):
        mixer.extend(x, state, jnp.ones((2, 3), int), resets=flags)
    for wrong in (flags.astype(int), flags[:, 0]):
        with pytest.raises(ValueError, match=r"booleans \[B, C\]"):
            mixer.extend(x, state, resets=wrong)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        mixer.extend(x, state, resets=flags[:, 1:])
    with pytest.raises(ValueError, match="has 3 rows and the state 2"):
        mixer.extend(jnp.zeros((3, 3, 4)), state, resets=jnp.zeros((3, 3), bool))


@pytest.mark.of_the_day("policy")
@pytest.mark.parametrize("name", some("gru"))
def test_a_policy_learns_to_remember(name):
    """What it answers at the first step it sees; the others it must remember."""
    scope: dict = {}
    exec(CODE.split("\npolicy = ")[0], scope)
    policy = scope["Policy"](MEMORIES[name], rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(policy, optax.adam(1e-2), wrt=nnx.Param)
    carry = policy.memory.init_state(64), jnp.zeros(64, int), jnp.ones(64, bool)
    won = []
    for i in range(200 if name == "gru" else 400):
        carry, share = scope["update"](policy, optimizer, carry, jax.random.key(i))
        won.append(float(share))
    assert np.mean(won[:5]) < 0.5
    assert np.mean(won[-10:]) > 0.9
