"""Ops on sequences that are divided over devices, against the same call on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from seqzoo.models.ops import linear_scan
from tests.helpers import assert_trees_close

B, L, D = 4, 32, 6
NORMAL = np.random.default_rng(0).normal(size=(8, B, L, D)).astype(np.float32)
IDS = np.array([[1] * 32, [1] * 3 + [2] * 20 + [3] * 9, [0] * 9 + [1] * 14 + [0] * 9, [4, 0] * 16])


def mesh_of(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def divided(mesh, f, *args):
    """f(*args) compiled for a mesh, rows of L divided along it."""

    def call(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return f(*args)

    def place(x):
        rows = np.ndim(x) > 1 and x.shape[:2] == (B, L)
        return NamedSharding(mesh, P("data", "seq") if rows else P())

    shardings = jax.tree.map(place, args)
    outputs = jax.tree.map(place, jax.eval_shape(f, *args))
    return jax.jit(call, in_shardings=shardings, out_shardings=outputs).lower(*args).compile()


def agrees(mesh, f, *args):
    """Values and gradients of all floating arguments, on the mesh and on one device."""

    def both(*args):
        y, pull = jax.vjp(f, *args)
        weights = jax.tree.map(lambda y: jnp.cos(jnp.arange(y.size, dtype=y.dtype)), y)
        return y, pull(jax.tree.map(lambda w, y: w.reshape(y.shape), weights, y))

    compiled = divided(mesh, both, *args)
    assert_trees_close(compiled(*args), jax.jit(both)(*args), ratio=1e-5)
    return compiled


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ids", [None, IDS], ids=["whole", "packed"])
def test_linear_scan(reverse, ids):
    a = np.tanh(np.abs(NORMAL[0]))
    f = functools.partial(linear_scan, reverse=reverse, segment_ids=ids)
    agrees(mesh_of(data=2, seq=4), f, a, NORMAL[1], NORMAL[2, :, 0])


def test_linear_scan_of_a_constant_decay():
    a = np.tanh(NORMAL[0, 0, :1] + 1j * NORMAL[3, 0, :1]) / 2
    agrees(mesh_of(data=1, seq=8), linear_scan, a, NORMAL[1] + 1j * NORMAL[2])
