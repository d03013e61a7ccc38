"""Every op in every way of differentiation: forward, reverse, and one over the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.scan import nonlinear
from seqzoo.models.ops.softmax import attention as attention_module
from seqzoo.models.ops.softmax import blockwise
from tests.helpers import assert_close, assert_trees_close, x64
from tests.models.ops.calls import ALL, IDS, normal


@pytest.fixture
def small(request, monkeypatch):
    """Constants so small that the rows of a test take the forms of long ones."""
    monkeypatch.setattr(nonlinear, "CHUNK", 8)
    monkeypatch.setattr(blockwise, "BLOCKS", dict.fromkeys(blockwise.BLOCKS, 8))
    if "dense" not in request.node.name:
        monkeypatch.setattr(attention_module, "DENSE_LENGTH", 8)
        monkeypatch.setattr(attention_module, "DENSE_QUERIES", 4)


@pytest.mark.parametrize("name", ALL)
def test_every_way_of_differentiation(name, small):
    """Slopes and curvatures along two directions are those of finite differences, in all ways."""
    f, *args = ALL[name]

    def loss(x):
        leaves = jax.tree.leaves(f(IDS, *x))
        return sum(jnp.vdot(jnp.cos(jnp.arange(y.size)), y.ravel() ** 2).real for y in leaves)

    def forward(x, u):
        return jax.jvp(loss, (x,), (u,))[1]

    def reverse(x, u):
        return dot(jax.grad(jax.checkpoint(loss))(x), u)

    def ways(x, u, v):
        slopes, curvatures = {}, {}
        for first in (forward, reverse):
            way = first.__name__
            slopes[way], linear = jax.linearize(functools.partial(first, u=u), x)
            curvatures[f"forward over {way}"] = linear(v)
            (gradient,) = jax.linear_transpose(linear, x)(1.0)
            curvatures[f"reverse over {way}"] = dot(gradient, v)
        return loss(x), slopes, curvatures

    rng = np.random.default_rng(0)
    with x64():
        args = tuple(jnp.asarray(a, np.result_type(a, float)) for a in args)
        u, v = (tuple(rng.normal(size=a.shape).astype(a.dtype) for a in args) for _ in "uv")
        taken = jax.jit(ways)

        def found(x):
            return jax.tree.map(np.asarray, taken(x, u, v))

        _, slopes, curvatures = found(args)
        expected = difference(lambda x: found(x)[0], args, u)
        for way, slope in slopes.items():
            assert_close(slope, expected, ratio=1e-6, what=way)
        expected = difference(lambda x: found(x)[1]["reverse"], args, v)
        for way, curvature in curvatures.items():
            assert_close(curvature, expected, ratio=1e-6, what=way)


def difference(f, x, u, h=1e-4):
    """The derivative of f along u, to h^4."""
    a, b, c, d = (f(jax.tree.map(lambda a, b, t=t: a + t * h * b, x, u)) for t in (1, -1, 2, -2))
    return (8 * (a - b) - (c - d)) / (12 * h)


def dot(gradient, u):
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(u), strict=True)
    return sum(jnp.sum(a * b).real for a, b in pairs)


def plain(s, x, y, m):
    return {"o": jnp.sin(x) * y * s * m, "p": x * x}


def forward(s, x, y, m):
    return plain(s, x, y, m), ((x, y, m), jnp.cos(x))


def backward(s, kept, d):
    (x, y, m), cos = kept
    return d["o"] * cos * y * s * m + 2 * x * d["p"], d["o"] * jnp.sin(x) * s * m, None


def test_a_backward_pass_of_its_own_is_one_under_vmap_and_in_loops():
    """With rows shared by all of a batch or not, and with arguments that have no derivative."""
    own, mask = with_backward(plain, forward, backward), jnp.array([1, 0, 1])
    x, y = normal(0, 2, 3).astype(float)

    def of(f):
        def loss(x, y):
            value = f(3.0, x, y, mask)
            return jnp.sum(value["o"] ** 2) + jnp.sum(jnp.sin(value["p"]))

        def looped(x, y):
            return lax.scan(lambda x, _: (jax.checkpoint(loss)(x, y) * x, x), x, length=3)[0].sum()

        yield from (jax.grad(looped), jax.hessian(looped), jax.jacfwd(looped, 1))
        for axes in ((0, None), (None, 0), (0, 0)):

            def rows(a, axis):
                return a if axis is None else jnp.stack([a, -2 * a])

            def many(x, y, way, axes=axes):
                return jax.vmap(way, axes)(rows(x, axes[0]), rows(y, axes[1]))

            def one_tangent(x, y):
                return jax.jvp(loss, (x, y), (mask + 0.5, mask - 0.5))[1]

            slope = functools.partial(many, way=jax.grad(loss, 1))
            yield from (slope, jax.jacfwd(slope), jax.jacrev(slope, 1))
            yield functools.partial(many, way=one_tangent)

    with x64():
        for found, expected in zip(of(own), of(plain), strict=True):
            assert_trees_close(jax.jit(found)(x, y), jax.jit(expected)(x, y), ratio=1e-12)
