"""RWKV-4's WKV against its definition, the published loop, and extreme exponents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.layout.segments import all_real
from seqzoo.models.ops.scan.running_max import NEVER, _associative, _sequential, decayed_max
from seqzoo.models.ops.scan.wkv_recurrence import WKVState, wkv
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64
from tests.laws import PACKED
from tests.references.wkv import wkv as reference

D = 5


def draw(seed=0):
    rng = np.random.default_rng(seed)
    k, v = rng.normal(size=(2, *PACKED.shape, D))
    return 3 * k, v, -np.exp(rng.normal(size=D)), rng.normal(size=D)


def test_equals_the_published_loop():
    g = golden("linear_rnn/rwkv4_wkv")
    names = ("key", "value", "time_decay", "time_first")

    def f(k, v, decay, bonus):
        return wkv(k, v, -jnp.exp(decay), bonus)[0]

    with x64():
        inputs = [jnp.asarray(g[n]) for n in names]
        y, grads = value_and_pullback(f, jnp.asarray(g["cotangent"]), *inputs)
        decay, bonus = -jnp.exp(inputs[2]), inputs[3]
        _, state = wkv(*inputs[:2], decay, bonus)
        again, _ = wkv(*inputs[:2], decay, bonus, state)
    assert_close(y, g["o"], ratio=1e-10)
    for name, grad in zip(names, grads, strict=True):
        assert_close(grad, g[f"grad_{name}"], ratio=1e-9, what=name)
    for name, ours in zip(("num", "den", "max"), state, strict=True):
        assert_close(ours, g[f"final_{name}"], ratio=1e-10, what=name)
    assert_close(again, g["o_second_pass_from_state"], ratio=1e-10)


def test_packed_rows_with_a_state_equal_the_definition():
    k, v, decay, bonus = draw()
    rng = np.random.default_rng(1)
    sums = rng.normal(size=(len(PACKED), D)), 1 + rng.uniform(size=(len(PACKED), D))
    m = rng.normal(size=(len(PACKED), D))
    scaled = (*(s * np.exp(-m) for s in sums), m)
    with x64():
        initial = WKVState(*map(jnp.asarray, scaled))
        o, state = jax.jit(wkv)(
            *map(jnp.asarray, (k, v, decay, bonus)), initial, segment_ids=PACKED
        )
    expected, after = reference(k, v, decay, bonus, sums, segment_ids=PACKED)
    assert_close(np.asarray(o)[PACKED > 0], expected[PACKED > 0], ratio=1e-12)
    for ours, theirs in zip(state[:2], after, strict=True):
        assert_close(np.asarray(ours) * np.exp(np.asarray(state.m)), theirs, ratio=1e-12)


def test_gradients_of_the_initial_state_are_those_of_its_sums():
    """All three parts, m too, against differences."""
    k, v, decay, bonus = draw(2)
    with x64():
        inputs = [jnp.asarray(x) for x in (k[:1, :6], v[:1, :6], decay, bonus)]

        def value(z):
            o, _ = wkv(*inputs, WKVState(z[:1], jnp.exp(z[1:2]), z[2:]))
            return jnp.sum(jnp.sin(o))

        z = jnp.asarray(np.random.default_rng(3).normal(size=(3, D)))
        direction = jnp.asarray(np.random.default_rng(4).normal(size=(3, D)))
        slope = (value(z + 1e-5 * direction) - value(z - 1e-5 * direction)) / 2e-5
        assert_close(jnp.sum(jax.grad(value)(z) * direction), slope, ratio=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_extreme_exponents_are_finite_and_averages(scale):
    rng = np.random.default_rng(5)
    k = jnp.asarray(scale * rng.normal(size=(1, 200, D)), jnp.float32)
    v = jnp.asarray(rng.normal(size=(1, 200, D)), jnp.float32)
    decay = jnp.array([0.0, -1e-6, -1.0, -80.0, -1e6])

    def loss(k, v, decay):
        return jnp.sum(wkv(k, v, decay, jnp.zeros(D))[0] ** 2)

    o, _ = wkv(k, v, decay, jnp.zeros(D))
    grads = jax.jit(jax.grad(loss, (0, 1, 2)))(k, v, decay)
    assert all(np.isfinite(g).all() for g in grads)
    assert np.abs(o).max() <= np.abs(v).max() * (1 + 1e-5)
    if scale < 1:
        assert_close(o[0, :, 0], np.cumsum(v[0, :, 0]) / np.arange(1, 201), ratio=1e-2)


def test_the_forms_of_the_maximum_are_equal():
    rng = np.random.default_rng(6)
    x, g = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(2, 2, 37, 3)))
    g = -jnp.exp(3 * g)
    m0 = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    m, before = decayed_max(x, g, m0, layout=all_real(37))
    expected, last = [], np.asarray(m0)
    for t in range(37):
        last = np.maximum(last + g[:, t], x[:, t])
        expected.append(last)
    expected = np.stack(expected, 1)
    assert_close(m, expected, ratio=1e-6)
    assert_close(before[:, 1:], expected[:, :-1], ratio=1e-6)
    assert_close(_associative(x, g, m0), _sequential(x, g, m0), ratio=1e-6)
    empty = jnp.full_like(m0, NEVER)
    assert np.isfinite(_associative(x, jnp.full_like(g, 2 * NEVER), empty)).all()


def test_wrong_shapes_are_named():
    x = jnp.zeros((1, 2, D))
    with pytest.raises(ValueError, match=r"bonus must be \[D\]"):
        wkv(x, x, jnp.zeros(D), jnp.zeros(1))
    with pytest.raises(ValueError, match="one shape"):
        wkv(x, x[:, :1], jnp.zeros(D), jnp.zeros(D))
