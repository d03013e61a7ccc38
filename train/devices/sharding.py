"""The mesh and what lies where on it.

Parameters follow the table of models/partition.py; what it does not name is divided by shape and
reported. The optimiser's moments carry their parameters' paths and follow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from seqzoo.models.ops.layout.sharding import BATCH_AXES, SEQUENCE_AXIS, axis_size
from seqzoo.models.partition import partition
from seqzoo.train.config import MeshConfig

SEEDS_AXIS = "seeds"  # that divides replicas; nothing is sent along it
AXES = tuple(field.name for field in dataclasses.fields(MeshConfig))


class Placement(NamedTuple):
    """Shardings of a tree, and the paths that no rule named."""

    shardings: PyTree
    by_shape: tuple[str, ...]


def make_mesh(
    config: MeshConfig | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh over all devices, or over the given ones.

    Raises ValueError where the sizes do not multiply to the number of devices.
    """
    config = config or MeshConfig()
    devices = jax.devices() if devices is None else devices
    sizes = list(dataclasses.astuple(config))
    fixed = math.prod(n for n in sizes if n != -1)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh sizes must multiply to the number of devices, {len(devices)}; got {config}"
        )
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if slices > 1:
        within, between = hybrid(sizes, slices)
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices=devices)
        return Mesh(grid, AXES, axis_types=types)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)


def hybrid(sizes: Sequence[int], slices: int) -> tuple[list[int], list[int]]:
    """Mesh sizes within and between slices: one axis runs over the slow network.

    It is the first of seeds, replica, data and fsdp that the slices divide. Raises ValueError for
    none.
    """
    names = (SEEDS_AXIS, *BATCH_AXES)
    axis = next((i for i in map(AXES.index, names) if sizes[i] % slices == 0), None)
    if axis is None:
        raise ValueError(
            f"one of the axes {', '.join(names)} must be a multiple of the {slices} slices; "
            f"got {dict(zip(AXES, sizes, strict=True))}"
        )
    between = [slices if i == axis else 1 for i in range(len(sizes))]
    return [n // m for n, m in zip(sizes, between, strict=True)], between


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all data axes, whole on all devices of the axis `seq`; `along_sequence` cuts them.

    So every process reads whole rows, wherever its devices stand on that axis.
    """
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replica_axis(mesh: Mesh, count: int) -> str | None:
    """The axis that divides replicas; None where it cannot, and all devices have all of them."""
    parts = mesh.shape[SEEDS_AXIS]
    return SEEDS_AXIS if parts > 1 and count % parts == 0 else None


def behind_replicas(rows: NamedSharding, axis: str | None) -> NamedSharding:
    """`rows` for arrays with replicas in front of the rows, which `axis` divides."""
    return NamedSharding(rows.mesh, PartitionSpec(axis, *rows.spec))


def check_replicas(mesh: Mesh, count: int) -> None:
    """Raises ValueError where the axis `seeds` cannot divide the replicas."""
    parts = mesh.shape[SEEDS_AXIS]
    if count % parts:
        raise ValueError(
            f"the seeds trained side by side must be a multiple of the mesh's axis seeds, {parts}; "
            f"got {count}; {count + -count % parts} would do, or --mesh.seeds 1"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raises ValueError where a (micro)batch cannot be divided over the data axes."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if (batch_size // accumulate) % shards:
        raise ValueError(
            f"batch_size / accumulate must be a multiple of the {shards} devices on the axes "
            f"{', '.join(BATCH_AXES)}; got {batch_size=}, {accumulate=}"
        )


def check_length(mesh: Mesh, length: int) -> None:
    """Raises ValueError where the axis `seq` cannot divide rows of `length` tokens."""
    shards = mesh.shape[SEQUENCE_AXIS]
    if length % shards:
        fits = max(n for n in range(1, shards + 1) if length % n == 0)
        raise ValueError(
            f"the length of the rows must be a multiple of the mesh's axis seq, {shards}; "
            f"got length={length}; {length + -length % shards} would do, or --mesh.seq {fits}"
        )


def along_sequence(batch: Mapping[str, Array], axis: int = 1) -> dict[str, Array]:
    """Inside a program over a mesh: what has the length of the inputs, divided by `seq` along it.

    `axis` is that of the length, 2 for the rows of an example of a two-tower task or of views.
    """
    length, shards = batch["inputs"].shape[axis], axis_size(SEQUENCE_AXIS)
    if shards == 1 or length % shards:
        return dict(batch)
    free = (PartitionSpec.UNCONSTRAINED,)

    def divide(x: Array) -> Array:
        if x.ndim <= axis or x.shape[axis] != length:
            return x
        spec = PartitionSpec(*free * axis, SEQUENCE_AXIS, *free * (x.ndim - axis - 1))
        return jax.lax.with_sharding_constraint(x, spec)

    return {name: divide(x) for name, x in batch.items()}


def place(tree: PyTree, mesh: Mesh) -> Placement:
    """Where every leaf (array or shape) of a train state lies; its last key is its path."""
    by_shape = []

    def sharding_of(keys: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        path = next((str(k.key) for k in reversed(keys) if hasattr(k, "key")), "")
        spec, named = partition(path, leaf.shape, mesh)
        if not named and leaf.ndim and path:  # counts of steps have none
            by_shape.append(path)
        return NamedSharding(mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(sharding_of, tree)
    return Placement(shardings, tuple(dict.fromkeys(by_shape)))


def place_state(state: PyTree, mesh: Mesh, rows: NamedSharding, *, replicas: int = 1) -> Placement:
    """Where the leaves of a `TrainState` lie; its carry is laid out as `rows`.

    Several replicas lie in front of every leaf.
    """
    one = state._replace(carry=())
    if replicas > 1:
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), one)
    placed = place(one, mesh)
    own = placed.shardings
    if replicas > 1:
        axis = replica_axis(mesh, replicas)
        own = jax.tree.map(lambda sharding: behind_replicas(sharding, axis), own)
    carry = jax.tree.map(lambda _: rows, state.carry)
    return placed._replace(shardings=own._replace(carry=carry))
