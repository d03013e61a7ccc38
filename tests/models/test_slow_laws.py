"""Laws that cost more: long rows in bfloat16, and division over each axis of a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import build
from seqzoo.models.partition import partition
from seqzoo.train.config import MeshConfig
from seqzoo.train.devices.sharding import batch_sharding, make_mesh
from tests import laws
from tests.helpers import assert_close
from tests.models.tiny import TINY

LONG = 4096
WIDTH = 16  # divisible by what the axes divide
NAMES = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in TINY]
pytestmark = pytest.mark.slow


def forward_and_backward(mixer, scale=0.02):
    graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)

    def run(params, x, ids, dy):
        def f(params, x):
            return nnx.merge(graphdef, params, rest, copy=True)(x, ids)

        y, pull = jax.vjp(f, params, x)
        return y, pull(dy)

    return run, laws.perturbed(params, scale)


@pytest.mark.parametrize("name", NAMES)
def test_long_rows_in_bfloat16_are_finite(name):
    room = {"max_length": LONG} if "max_length" in TINY[name] else {}
    options = {**TINY[name], **room}
    mixer = build(name.split("@")[0], laws.D, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, **options)
    run, params = forward_and_backward(mixer, scale=0)  # a relu network moved outwards explodes
    x = laws.normal(0, 1, LONG, laws.D).astype(jnp.bfloat16)
    ids = np.repeat([1, 2, 0], [3000, 1000, 96])[None].astype(np.int32)
    ids = ids if mixer.packing == "native" else np.minimum(ids, 1)
    y, (dparams, dx) = jax.jit(run)(params, x, ids, x)
    assert y.dtype == jnp.bfloat16
    for path, leaf in jax.tree_util.tree_leaves_with_path((y, dparams, dx)):
        assert bool(jnp.isfinite(leaf).all()), jax.tree_util.keystr(path)


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor"])
@pytest.mark.parametrize("name", NAMES)
def test_division_over_an_axis_changes_nothing(name, axis):
    mixer = build(name.split("@")[0], WIDTH, rngs=nnx.Rngs(0), **TINY[name])
    run, params = forward_and_backward(mixer)
    mesh = make_mesh(MeshConfig(**{"data": 1, axis: 2}), jax.devices()[:2])
    ids = np.concatenate([laws.PACKED, laws.PACKED[:1]])
    ids = ids if mixer.packing == "native" else np.minimum(ids, 1)
    x, dy = laws.normal(1, 4, laws.L, WIDTH), laws.normal(2, 4, laws.L, WIDTH)
    dy = dy * (ids[..., None] > 0)
    one = jax.jit(run)(params, x, ids, dy)

    def placed(keys, leaf):
        path = "/".join(str(k.key) for k in keys if hasattr(k, "key"))
        spec, _ = partition(path, leaf.shape, mesh)
        return jax.device_put(leaf, jax.NamedSharding(mesh, spec))

    divided = jax.tree_util.tree_map_with_path(placed, params)
    rows = jax.device_put((x, ids, dy), batch_sharding(mesh))
    compiled = jax.jit(run).lower(divided, *rows).compile()
    y, (dparams, dx) = compiled(divided, *rows)
    real = ids > 0
    assert_close(np.asarray(y)[real], np.asarray(one[0])[real], ratio=laws.RATIO)
    assert_close(dx, one[1][1], ratio=laws.RATIO)
    for a, b in zip(jax.tree.leaves(dparams), jax.tree.leaves(one[1][0]), strict=True):
        assert_close(a, b, ratio=10 * laws.RATIO)
    whole = sum(leaf.size for leaf in jax.tree.leaves((divided, rows)))
    mine = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves((divided, rows)))
    assert mine < whole, f"nothing is divided over {axis}"
    if axis != "data" and any(leaf.ndim > 1 for leaf in jax.tree.leaves(params)):
        assert any(
            len(leaf.sharding.device_set) == 2 and not leaf.sharding.is_fully_replicated
            for leaf in jax.tree.leaves(divided)
        ), f"no parameter is divided over {axis}"
