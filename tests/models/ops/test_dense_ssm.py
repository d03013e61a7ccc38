"""dense_ssm against a loop in float64: values, states, gradients, segments, kernel, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.ssm.dense import dense_kernel, dense_ssm
from tests.helpers import assert_close, assert_trees_close, x64
from tests.models.ops.test_diagonal_ssm import IDS, largest
from tests.references.dense_ssm import dense_ssm as reference

B, H, N = 3, 4, 3
LONG = np.array([[1] * 3 + [2] * 10, [1] * 10 + [0, 2, 2], IDS[0]])  # borders behind whole chunks
run = functools.partial(jax.jit, static_argnames="chunk_size")(dense_ssm)


def system(seed=0):
    """Transitions far from normal, with spectral radius below 1, and weights."""
    rng = np.random.default_rng(seed)
    A = 0.5 * rng.normal(size=(H, N, N))
    return (A, *rng.normal(size=(2, H, N)))


def draw(length, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, length, H)), rng.normal(size=(B, H, N))


@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (7, 8), (64, 8), (13, 1)])
def test_equals_the_loop(length, chunk):
    u, h0 = draw(length)
    with x64():
        actual = run(u, *system(), h0, chunk_size=chunk)
    assert_trees_close(actual, reference(u, *system(), h0), ratio=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_packed_rows_equal_the_loop(chunk):
    u, h0 = draw(IDS.shape[1])
    real = (IDS > 0)[..., None]
    u = np.where(real, u, np.nan)
    with x64():
        y, last = run(u, *system(), h0, segment_ids=IDS, chunk_size=chunk)
    y_ref, last_ref = reference(u, *system(), h0, segment_ids=IDS)
    assert_close(np.where(real, y, 0), y_ref, ratio=1e-12)
    assert_close(last, last_ref, ratio=1e-12)


def loop(u, A, b, c, h0, ids):
    """The recurrence as jax operations, to be differentiated by jax."""
    h, ys, previous = h0, [], np.zeros(B, int)
    for t in range(u.shape[1]):
        fresh = (ids[:, t] > 0) & (previous > 0) & (ids[:, t] != previous)
        before = jnp.where(fresh[:, None, None], 0, h)
        new = jnp.einsum("HMN,BHN->BHM", A, before) + b * u[:, t, :, None]
        h = jnp.where((ids[:, t] > 0)[:, None, None], new, h)
        previous = np.where(ids[:, t] > 0, ids[:, t], previous)
        ys.append((c * h).sum(-1))
    return jnp.stack(ys, 1), h


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_equal_those_of_the_loop(packed):
    ids = LONG if packed else np.ones_like(IDS)
    (u, h0), (dy, dh) = draw(IDS.shape[1]), draw(IDS.shape[1], seed=2)
    dy = np.where((ids > 0)[..., None], dy, 0)

    def loss(op, u, system, h0):
        y, h = op(u, *system, h0)
        return jnp.sum(jnp.where((ids > 0)[..., None], y, 0) * dy) + jnp.sum(h * dh)

    ours = functools.partial(dense_ssm, segment_ids=ids if packed else None, chunk_size=2)
    naive = functools.partial(loop, ids=ids)
    with x64():
        args = jax.tree.map(jnp.asarray, (u, system(), h0))
        grad = jax.jit(jax.grad(loss, (1, 2, 3)), static_argnums=0)
        actual, desired = (grad(op, *args) for op in (ours, naive))
    assert_trees_close(actual, desired, ratio=1e-11)


@pytest.mark.every_case
@pytest.mark.parametrize("length", [1, 2, 33])
def test_kernel_is_the_impulse_response(length):
    A, b, c = system()
    with x64():
        taps = jax.jit(dense_kernel, static_argnums=3)(A, b, np.stack([c, -2 * c]), length)
    impulse = np.zeros((1, length, H))
    impulse[:, 0] = 1
    expected = reference(impulse, A, b, c)[0][0].T
    assert_close(taps, np.stack([expected, -2 * expected]), ratio=1e-13)


def test_no_array_of_length_times_state_size():
    def f(u, A, b, c):
        return dense_ssm(u, A, b, c, chunk_size=32)[0].sum()

    n, length = 32, 1024
    args = (jnp.zeros((1, length, H)), jnp.zeros((H, n, n)), *jnp.zeros((2, H, n)))
    program = jax.make_jaxpr(jax.grad(f, (0, 1, 2, 3)))(*args)
    assert largest(program.jaxpr) < length * H * n / 2


def test_errors_name_the_rule():
    u, h0 = (jnp.asarray(a) for a in draw(4))
    A, b, c = system()
    with pytest.raises(ValueError, match="power of two; got 6"):
        dense_ssm(u, A, b, c, chunk_size=6)
    with pytest.raises(ValueError, match=r"u must be \[B, L, H\]"):
        dense_ssm(u[..., :2], A, b, c)
    with pytest.raises(ValueError, match="h0 must be"):
        dense_ssm(u, A, b, c, h0[:, :, :2])
    with pytest.raises(ValueError, match=r"A must be \[H, N, N\]"):
        dense_ssm(u, A[:, :2], b, c)
