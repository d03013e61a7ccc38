import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl

from seqzoo.models.ops.layout.kernels import run
from seqzoo.train.devices.flops import operations

W, X = jnp.ones((8, 8)), jnp.ones((4, 8))
PRODUCT = 2 * 4 * 8 * 8


def test_operations_are_counted_through_loops_and_branches():
    def f(w, x):
        x, _ = lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=5)
        return lax.cond(x.sum() > 0, lambda y: y @ w, lambda y: y + 1, x)

    counted = operations(f, W, X)
    assert counted.products == 5 * PRODUCT  # the cheaper branch has none
    assert counted.total == counted.products + 5 * 32 + 32 + 1 + 32


def counted_up(x, limit=10, step=lambda i: i + 1, start=0):
    return lax.while_loop(lambda c: c[0] < limit, lambda c: (step(c[0]), c[1] @ W), (start, x))[1]


LOOPS = {  # what a loop runs on, and how often that is
    "counter": (counted_up, 10),
    "none": (lambda x: counted_up(x, 0), 0),
    "doubling": (lambda x: counted_up(x, 1000, lambda i: 2 * i, 1), 10),
    "jitted": (jax.jit(counted_up), 10),
    "fori_loop to an array": (lambda x: lax.fori_loop(2, jnp.int32(9), lambda i, y: y @ W, x), 7),
    "in a loop": (lambda x: lax.fori_loop(0, 3, lambda i, y: counted_up(y), x), 30),
    "last and second": (
        lambda x: lax.while_loop(
            lambda c: c[2] > c[0], lambda c: (c[0] + 1, c[1] @ W, c[2] - 1), (0, x, 9)
        )[1],
        5,
    ),
    "growing steps": (
        lambda x: lax.while_loop(
            lambda c: c[0] < 10, lambda c: (c[0] + c[2], c[1] @ W, 2 * c[2]), (0, x, 1)
        )[1],
        4,
    ),
    "the data": (lambda x: counted_up(x, x.sum().astype(int)), 1),
}


@pytest.mark.parametrize(("loop", "turns"), LOOPS.values(), ids=LOOPS.keys())
def test_a_loop_counts_as_often_as_it_runs(loop, turns):
    assert operations(loop, X).products == turns * PRODUCT


def test_of_a_kernel_the_form_beside_it_counts():
    def kernel(w, x):
        return pl.pallas_call(lambda *_: None, out_shape=jax.typeof(x))(w, x)

    def f(w, x):
        return run("attention", lambda w, x: x @ w, {"splash": kernel}, w, x)

    assert operations(f, W, X).products == PRODUCT
