"""Where activations lie on the ambient mesh, if there is one (`jax.set_mesh`).

Without a word the compiler may copy the batch to all devices and divide the features instead, as
parameters divided by `fsdp` suggest; it then adds up activations rather than gather parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

BATCH_AXES = ("replica", "data", "fsdp")  # that divide the rows of a batch
SEQUENCE_AXIS = "seq"  # that divides their length


def axis_size(axis: str) -> int:
    """The size of an axis of the ambient mesh that the compiler places by itself; 1 for none."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return mesh.shape[axis] if kinds.get(axis) == AxisType.Auto else 1


def by_rows(x: Shaped[Array, "B L ..."]) -> Shaped[Array, "B L ..."]:
    """`x` with its rows divided over the batch axes of the ambient mesh, and L over `seq`.

    What does not fit stays whole; without a mesh x is as it was.
    """
    axes = tuple(axis for axis in BATCH_AXES if axis_size(axis) > 1)
    rows = bool(axes) and x.shape[0] % math.prod(map(axis_size, axes)) == 0
    along = axis_size(SEQUENCE_AXIS)
    length = x.ndim > 2 and along > 1 and x.shape[1] % along == 0
    if not rows and not length:
        return x
    free = PartitionSpec.UNCONSTRAINED
    first = axes if rows else free, SEQUENCE_AXIS if length else free
    return jax.lax.with_sharding_constraint(
        x, PartitionSpec(*first[: x.ndim], *(free,) * (x.ndim - 2))
    )


def undivided() -> bool:
    """Whether there is no mesh with more than one device along its axes."""
    return all(axis_size(axis) == 1 for axis in jax.sharding.get_abstract_mesh().axis_names)


def everywhere(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x` whole on every device: gathered once, before a loop that reads it at every step."""
    if undivided():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def automatic(
    f: Callable[..., PyTree], like: Shaped[Array, "B ..."], *args: PyTree[Array]
) -> PyTree[Array]:
    """f(*args), inside of which the Explicit axes of a mesh are Auto ones.

    `jax.make_mesh` gives Explicit axes, whose types must be stated for every loop and every new
    array; here the compiler places what lies between arguments and results. Without such axes it
    is f(*args).

    Args:
        f: a function of arrays; it may not close over arrays that lie on such a mesh.
        like: the array that says which axes divide rows and, where it has one, their length L.
        args: trees of arrays.

    Returns:
        What f returns. Arrays of `like`'s shape lie as it does; others [B, ...] and [B, L, ...]
        have B and L divided as it has; all others are whole on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:  # the arrays may lie on one that is not the ambient one
        found = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(args))
        mesh = next((m for m in found if not m.empty), mesh)
    if not mesh.explicit_axes:
        return f(*args)
    spec = jax.typeof(like).sharding.spec
    inside = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
    with jax.sharding.use_abstract_mesh(inside):
        args = jax.sharding.reshard(args, jax.tree.map(lambda _: PartitionSpec(), args))
        outputs = f(*args)

    def back(y: Array) -> Array:
        same = 0
        while same < min(2, y.ndim, like.ndim) and y.shape[same] == like.shape[same]:
            same += 1
        kept = spec if y.shape == like.shape else PartitionSpec(*spec[:same])
        return jax.sharding.reshard(y, NamedSharding(mesh, kept))

    return jax.tree.map(back, outputs)


def as_before(new: Shaped[Array, "..."], old: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`new` divided as `old` is, where that has Explicit axes: a loop's carry keeps its type."""
    before = jax.typeof(old).sharding
    if not before.mesh.explicit_axes or before == jax.typeof(new).sharding:
        return new
    return jax.sharding.reshard(new, before)
