"""Where activations lie on the ambient mesh, if there is one (`jax.set_mesh`).

Without a word the compiler may copy the batch to all devices and divide the features instead, as
parameters divided by `fsdp` suggest; it then adds up activations rather than gather parameters.
"""

from __future__ import annotations

import math

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Shaped

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
