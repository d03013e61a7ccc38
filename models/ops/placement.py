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


def by_rows(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """`x` with its rows divided over the batch axes of the ambient mesh; as it is where none fits."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if not axes or any(kinds[axis] != AxisType.Auto for axis in axes):
        return x
    shards = math.prod(mesh.shape[axis] for axis in axes)
    if shards == 1 or x.shape[0] % shards:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *free))
