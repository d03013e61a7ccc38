"""diagonal_ssm against a loop in complex128: values, states, gradients, segments, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.ssm.diagonal import diagonal_ssm, powers
from tests.helpers import assert_close, assert_trees_close, x64
from tests.references.diagonal_ssm import diagonal_ssm as reference

B, H, M = 3, 5, 2
IDS = np.array(
    [
        [0, 0, 1, 1, 0, 1, 2, 2, 2, 0, 1, 1, 1],  # padding left and between, a border, id 1 again
        [3, 3, 3, 1, 1, 2, 1, 1, 2, 2, 0, 0, 0],  # single tokens, padding right
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
)
run = functools.partial(jax.jit, static_argnames="chunk_size")(diagonal_ssm)


def system(seed=0):
    """Decays near the unit circle with any phase, and weights."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.8, 1, (H, M)) * np.exp(2j * np.pi * rng.uniform(size=(H, M)))
    b, c = rng.normal(size=(2, H, M)) + 1j * rng.normal(size=(2, H, M))
    return a, b, c


def draw(length, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, length, H)), rng.normal(size=(B, H, 2 * M))


@pytest.mark.parametrize(("length", "chunk"), [(1, 16), (7, 16), (64, 16), (200, 16), (13, 1)])
def test_equals_the_loop(length, chunk):
    u, h0 = draw(length)
    with x64():
        actual = run(u, *system(), h0, chunk_size=chunk)
    assert_trees_close(actual, reference(u, *system(), h0), ratio=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_packed_rows_equal_the_loop(chunk):
    u, h0 = draw(IDS.shape[1])
    real = (IDS > 0)[..., None]
    u = np.where(real, u, np.nan)  # padding is not even multiplied by zero
    with x64():
        y, last = run(u, *system(), h0, segment_ids=IDS, chunk_size=chunk)
    y_ref, last_ref = reference(u, *system(), h0, segment_ids=IDS)
    assert_close(np.where(real, y, 0), y_ref, ratio=1e-12)
    assert_close(last, last_ref, ratio=1e-12)


def test_real_systems_equal_complex_ones():
    """Whose imaginary parts are zero and whose conjugates are not doubled."""
    u, h0 = draw(IDS.shape[1])
    a, b, c = (z.real for z in system())
    with x64():
        y, last = run(u, a, b, c, h0[..., :M], segment_ids=IDS, chunk_size=4)
    whole = np.concatenate([h0[..., :M], np.zeros((B, H, M))], axis=-1)
    u = np.where((IDS > 0)[..., None], u, 0)
    y_ref, last_ref = reference(u, a + 0j, b + 0j, c / 2 + 0j, whole, segment_ids=IDS)
    assert_close(np.where((IDS > 0)[..., None], y, 0), y_ref, ratio=1e-12)
    assert_close(last, last_ref[..., :M], ratio=1e-12)


def test_long_packed_rows_equal_the_loop():
    rng = np.random.default_rng(5)
    ids = np.sort(rng.integers(1, 8, (B, 200)), 1) * (rng.uniform(size=(B, 200)) < 0.9)
    u, h0 = draw(200)
    with x64():
        y, last = run(u, *system(), h0, segment_ids=ids, chunk_size=32)
    y_ref, last_ref = reference(u, *system(), h0, segment_ids=ids)
    assert_close(np.where((ids > 0)[..., None], y, 0), y_ref, ratio=1e-12)
    assert_close(last, last_ref, ratio=1e-12)


def test_any_split_continues_the_whole():
    u, h = draw(23)
    with x64():
        whole = run(u, *system(), h, chunk_size=8)
        parts = []
        for piece in np.split(u, [1, 9, 10, 18], axis=1):
            y, h = run(piece, *system(), h, chunk_size=8)
            parts.append(y)
    assert_trees_close((np.concatenate(parts, 1), h), whole, ratio=1e-12)


def loop(u, a, b, c, h0, ids):
    """The recurrence as jax operations, to be differentiated by jax."""
    h = jax.lax.complex(h0[..., :M], h0[..., M:])
    ys, previous = [], np.zeros(B, int)
    for t in range(u.shape[1]):
        fresh = (ids[:, t] > 0) & (previous > 0) & (ids[:, t] != previous)
        real = (ids[:, t] > 0)[:, None, None]
        new = a * jnp.where(fresh[:, None, None], 0, h) + b * u[:, t, :, None]
        h = jnp.where(real, new, h)
        previous = np.where(ids[:, t] > 0, ids[:, t], previous)
        ys.append(jnp.where(real[..., 0], 2 * (c * h).sum(-1).real, 0))
    return jnp.stack(ys, 1), jnp.concatenate([h.real, h.imag], -1)


@pytest.mark.of_the_day
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_equal_those_of_the_loop(packed):
    ids = IDS if packed else np.ones_like(IDS)
    u, h0 = draw(IDS.shape[1])
    dy, dh = draw(IDS.shape[1], seed=2)
    dy = np.where((ids > 0)[..., None], dy, 0)

    def loss(op, u, planes, h0):
        y, h = op(u, *(jax.lax.complex(re, im) for re, im in planes), h0)
        return jnp.sum(jnp.where((ids > 0)[..., None], y, 0) * dy) + jnp.sum(h * dh)

    ours = functools.partial(diagonal_ssm, segment_ids=ids if packed else None, chunk_size=4)
    naive = functools.partial(loop, ids=ids)
    with x64():
        planes = [(jnp.asarray(z.real), jnp.asarray(z.imag)) for z in system()]
        grad = jax.jit(jax.grad(loss, (1, 2, 3)), static_argnums=0)
        actual, desired = (grad(op, jnp.asarray(u), planes, h0) for op in (ours, naive))
    assert_trees_close(actual, desired, ratio=1e-11)


def test_float32_and_bfloat16_stay_close_to_float64():
    u, h0 = draw(200)
    a, b, c = (z.astype(np.complex64) for z in system())
    y_ref, last_ref = reference(u.astype(np.float32), a, b, c, h0)
    y, last = run(u.astype(np.float32), a, b, c, h0.astype(np.float32))
    assert_close(y, y_ref, ratio=3e-6)
    assert_close(last, last_ref, ratio=3e-6)
    y, last = run(jnp.asarray(u, jnp.bfloat16), a, b, c, h0.astype(np.float32))
    assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    assert_close(y.astype(jnp.float32), y_ref, ratio=0.01)


def test_gradients_under_vmap_equal_separate_ones():
    u, _ = draw(40)
    systems = [system(seed) for seed in (0, 1)]
    planes = [np.stack([[z.real, z.imag] for z in s]).astype(np.float32) for s in systems]

    def loss(planes):
        a, b, c = (jax.lax.complex(re, im) for re, im in planes)
        return jnp.sum(diagonal_ssm(jnp.asarray(u, jnp.float32), a, b, c)[0] ** 2)

    together = jax.jit(jax.vmap(jax.grad(loss)))(np.stack(planes))
    separate = jnp.stack([jax.jit(jax.grad(loss))(p) for p in planes])
    assert_close(together, separate, ratio=1e-5)


def largest(jaxpr) -> int:
    """Elements of the largest array that a program computes, inner programs included."""
    sizes = [0]
    for eqn in jaxpr.eqns:
        sizes += [v.aval.size for v in eqn.outvars]
        for leaf in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(leaf, "jaxpr", leaf)
            sizes += [largest(inner)] if hasattr(inner, "eqns") else []
    return max(sizes)


@pytest.mark.parametrize("packed", [False, True])
def test_no_array_of_length_times_state_size(packed):
    """Forward and backward, nothing as large as B L H N is ever made."""
    length, pairs = 256, 32
    ids = np.ones((1, length), int) if packed else None

    def f(u, a, b, c):
        return diagonal_ssm(u, a, b, c, segment_ids=ids)[0].sum()

    z = jnp.zeros((H, pairs), jnp.complex64)
    program = jax.make_jaxpr(jax.grad(f))(jnp.zeros((1, length, H)), z, z, z)
    assert largest(program.jaxpr) < length * H * 2 * pairs / 4


@pytest.mark.every_case
@pytest.mark.parametrize("form", ["scan", "doubling"])
@pytest.mark.parametrize("count", [1, 11, 17])
def test_powers(count, form):
    a = system()[0]
    weight = np.random.default_rng(0).normal(size=(count, *a.shape))
    t = np.arange(count)[:, None, None]
    with x64(), forms.forced("powers", form):
        actual, pull = jax.vjp(lambda a: powers(a, count), jnp.asarray(a))
        (slope,) = pull(jnp.asarray(weight, a.dtype))
    assert_close(actual, a**t, ratio=1e-13)
    assert_close(slope, (weight * t * a ** np.maximum(t - 1, 0)).sum(0), ratio=1e-13)


def test_errors_name_the_rule():
    u, h0 = draw(4)
    with pytest.raises(ValueError, match="power of two; got 6"):
        diagonal_ssm(jnp.asarray(u), *system(), chunk_size=6)
    with pytest.raises(ValueError, match=r"u must be \[B, L, H\]"):
        diagonal_ssm(jnp.asarray(u[..., :2]), *system())
    with pytest.raises(ValueError, match="real parts then imaginary"):
        diagonal_ssm(jnp.asarray(u), *system(), h0[:, :, :2])
