"""nonlinear_scan against a loop in float64: values, gradients, segments, chunk borders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seqzoo.models.ops.scan.nonlinear import CHUNK, nonlinear_scan
from tests.helpers import assert_close, assert_trees_close, x64
from tests.references.nonlinear_scan import nonlinear_scan as reference

ODD = 2 * CHUNK + 11
rng = np.random.default_rng(0)
KERNEL = rng.normal(size=(4, 4)) * 0.7


def numpy_cell(h, x):
    return np.tanh(h @ KERNEL + x) + 0.1  # not 0 at h = x = 0: a wrong mask shows


def cell_of(kernel):
    return lambda h, x: jnp.tanh(h @ kernel + x) + 0.1


def draw(length, seed):
    rng = np.random.default_rng(seed)
    ids = np.repeat(rng.integers(0, 3, (3, length)), 3, axis=1)[:, :length]
    return rng.normal(size=(3, length, 4)), rng.normal(size=(3, 4)), ids


@functools.partial(jax.jit, static_argnames="reverse")
def run(kernel, x, h0, ids=None, reverse=False):
    return nonlinear_scan(cell_of(kernel), x, h0, reverse=reverse, segment_ids=ids)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2 * CHUNK, ODD])
@pytest.mark.parametrize("packed", [False, True])
def test_equals_the_loop(length, reverse, packed):
    x, h0, ids = draw(length, length)
    ids = ids if packed else None
    with x64():
        actual = run(KERNEL, x, h0, ids, reverse)
    desired = reference(numpy_cell, x, h0, reverse=reverse, segment_ids=ids)
    assert_trees_close(actual, desired, ratio=1e-12)


def plain_scan(kernel, x, h0, ids):
    """One scan without chunks; borders found by hand."""

    def step(carry, inputs):
        h, last = carry
        x, one = inputs
        fresh = (one != last) & (last > 0)
        after = cell_of(kernel)(jnp.where(fresh[:, None], 0, h), x)
        h = jnp.where((one > 0)[:, None], after, h)
        return (h, jnp.where(one > 0, one, last)), h

    start = (h0, jnp.zeros(x.shape[0], ids.dtype))
    (h, _), out = lax.scan(step, start, (jnp.moveaxis(x, 1, 0), ids.T))
    return jnp.moveaxis(out, 0, 1), h


def test_gradients_of_weights_inputs_and_initial_state():
    x, h0, ids = draw(ODD, 7)

    def loss(f, kernel, x, h0):
        h, last = f(kernel, x, h0, ids)
        return jnp.sum(h**2 * jnp.cos(x)) + jnp.sum(last**3)

    with x64():
        gradients = [
            jax.jit(jax.grad(functools.partial(loss, f), (0, 1, 2)))(KERNEL, x, h0)
            for f in (run, plain_scan)
        ]
    assert_trees_close(*gradients, ratio=1e-12)


def test_states_and_inputs_may_be_trees_of_several_ranks_and_types():
    def cell(state, x):
        memory, count = state["memory"], state["count"]
        memory = 0.5 * memory + x["key"][:, :, None] * x["value"][:, None, :]
        return {"memory": memory, "count": count + 1}

    x = {"key": jnp.ones((2, 5, 3)), "value": jnp.ones((2, 5, 2))}
    h0 = {"memory": jnp.zeros((2, 3, 2)), "count": jnp.zeros(2, jnp.int32)}
    ids = jnp.array([[1, 1, 0, 1, 2], [0, 1, 1, 1, 0]])
    h, last = nonlinear_scan(cell, x, h0, segment_ids=ids)
    np.testing.assert_array_equal(h["count"], [[1, 2, 2, 3, 1], [0, 1, 2, 3, 3]])
    np.testing.assert_array_equal(last["count"], [1, 3])
    assert_close(last["memory"][0], jnp.ones((3, 2)))
    assert_close(last["memory"][1], jnp.full((3, 2), 1.75))


def test_state_is_carried_in_float32_under_bfloat16():
    x = jnp.full((1, 300, 1), 0.001, jnp.bfloat16)
    h, last = nonlinear_scan(lambda h, x: h + x, x, jnp.ones((1, 1), jnp.bfloat16))
    assert h.dtype == last.dtype == jnp.float32
    assert_close(last, 1 + 300 * x[0, :1].astype(jnp.float32), ratio=1e-4)


def test_vmap_equals_separate_calls():
    x, h0, _ = draw(ODD, 3)
    kernels = jnp.stack([KERNEL, 0.5 * KERNEL])
    together = jax.vmap(run, (0, None, None))(kernels, x, h0)
    separate = [run(kernel, x, h0) for kernel in kernels]
    assert_trees_close(together, jax.tree.map(lambda *a: jnp.stack(a), *separate))


def test_training_memory_is_a_few_arrays_of_inputs():
    """A cell with many intermediates, which a plain scan keeps for every step."""

    def cell(h, x):
        for _ in range(8):
            h = jnp.tanh(jnp.sin(h) * jnp.cos(x))
        return h

    def temporary(length):
        x = jax.ShapeDtypeStruct((1, length, 16), jnp.float32)
        h0 = jnp.zeros((1, 16))
        grad = jax.jit(jax.grad(lambda x: jnp.sum(nonlinear_scan(cell, x, h0)[0] ** 2)))
        memory = grad.lower(x).compile().memory_analysis()
        return memory.temp_size_in_bytes / (length * 16 * 4)

    assert temporary(8192) <= 4
    assert temporary(8192) <= 1.1 * temporary(4096)


def test_a_wrong_cell_or_input_is_named():
    x, h0 = jnp.zeros((2, 5, 3)), jnp.zeros((2, 4))
    with pytest.raises(ValueError, match="must keep the structure and shapes"):
        nonlinear_scan(lambda h, x: x, x, h0)
    with pytest.raises(ValueError, match="must share their first two axes"):
        nonlinear_scan(lambda h, x: h, (x, x[:, :2]), h0)


def two_kernels(h, x, first, second):
    return jnp.tanh(0.5 * h + second(jnp.sin(first(h) + x) * h)) + 0.1


@pytest.mark.parametrize("reverse", [False, True])
def test_kernels_of_the_op_equal_those_a_cell_closes_over(reverse):
    x, h0, ids = draw(40, 3)
    second, bias = rng.normal(size=(4, 4)), rng.normal(size=4)

    def closed(kernels, bias, x, h0):
        dots = [lambda v, kernel=kernel: v @ kernel for kernel in kernels]
        cell = lambda h, x: two_kernels(h, x + bias, *dots)  # noqa: E731
        return nonlinear_scan(cell, x, h0, reverse=reverse, segment_ids=ids)

    def given(kernels, bias, x, h0):
        cell = lambda h, x, *dots: two_kernels(h, x + bias, *dots)  # noqa: E731
        options = {"kernels": kernels, "reverse": reverse, "segment_ids": ids}
        return nonlinear_scan(cell, x, h0, **options)

    cotangents = rng.normal(size=x.shape), rng.normal(size=h0.shape)

    def both(f):
        y, pull = jax.vjp(f, (KERNEL, second), bias, x, h0)
        return y, pull(cotangents)

    with x64():
        results = [jax.jit(both, static_argnums=0)(f) for f in (given, closed)]
    assert_trees_close(*results, ratio=1e-12)


def loop_results(jaxpr):
    """The shapes of what the loops of a program end with."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield from (v.aval.shape for v in eqn.outvars)
        if eqn.primitive.name == "linear_map":  # traced when it is lowered
            count, push = eqn.params["count"], eqn.params["push"]
            args = [v.aval for v in eqn.invars]
            made = jax.make_jaxpr(lambda *a, n=count, push=push: push(a[:n], a[n:]))(*args)
            yield from loop_results(made.jaxpr)
        for part in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from loop_results(inner)


def test_no_loop_sums_gradients_of_kernels():
    x, h0 = jnp.ones((3, 40, 5)), jnp.ones((3, 5))

    def given(kernel):
        cell = lambda h, x, dot: jnp.tanh(dot(h) + x)  # noqa: E731
        return nonlinear_scan(cell, x, h0, kernels=(kernel,))[0].sum()

    def closed(kernel):
        return nonlinear_scan(lambda h, x: jnp.tanh(h @ kernel + x), x, h0)[0].sum()

    given, closed = (
        set(loop_results(jax.make_jaxpr(jax.grad(f))(jnp.ones((5, 5))).jaxpr))
        for f in (given, closed)
    )
    assert (3, 5) in given
    assert (5, 5) not in given
    assert (5, 5) in closed


@pytest.mark.parametrize("cell", [lambda h, x, dot: h + x, lambda h, x, dot: dot(dot(h)) + x])
def test_kernels_must_be_used_once(cell):
    with pytest.raises(ValueError, match="product"):
        nonlinear_scan(cell, jnp.ones((1, 3, 2)), jnp.ones((1, 2)), kernels=(jnp.ones((2, 2)),))
