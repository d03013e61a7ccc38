"""Tensors of files straight into parameters, where these lie.

Orbax reads: every process the bytes that its own devices hold, never a whole tensor unless it is
to lie whole. A few tensors at a time are turned into parameters and given back, the largest first,
so that memory holds the parameters and less beside them than the largest tensor; the layers of a
scanned stack are written one after another into one donated array.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)
from jaxtyping import Array

from seqzoo.models.partition import partition
from seqzoo.models.pretrained.header import DTYPES, Tensor
from seqzoo.models.pretrained.rules import Bound, Shape, Transform

LEAST, MOST = 2**22, 2**26  # bytes that are read at once, of small tensors together


def fill(
    bounds: Sequence[Bound],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, Any],
    mesh: Mesh | None,
) -> dict[str, Array]:
    """The parameters, by path, of `shapes` and `dtypes`."""
    auto = None if mesh is None else _auto(mesh)
    lie = {path: _sharding(path, shape, auto) for path, shape in shapes.items()}
    made: dict[str, Array] = {}
    writer = functools.cache(_writer)
    largest = max((tensor.bytes() for tensor in tensors.values()), default=0)
    at_once = max(LEAST, min(MOST, largest // 16))
    for group in _groups(bounds, tensors, at_once):
        places = {n: s for bound in group for n, s in _sources(bound, tensors, lie).items()}
        read = _read({n: tensors[n] for n in places}, places, at_once)
        for bound in group:
            for slot in bound.slots:
                if slot.path not in made and slot.index:
                    made[slot.path] = _zeros(shapes[slot.path], dtypes[slot.path], lie[slot.path])
            paths = list(dict.fromkeys(slot.path for slot in bound.slots))
            write = writer(
                bound.transform,
                tuple((slot.shape, paths.index(slot.path)) for slot in bound.slots),
                tuple(jnp.dtype(dtypes[p]) for p in paths),
                tuple(lie[p] for p in paths),
            )
            into = [made.get(p) for p in paths]
            index = [jnp.asarray(slot.index, jnp.int32) for slot in bound.slots]
            made |= zip(
                paths, write(into, [read.pop(n) for n in bound.tensors], index), strict=True
            )
        jax.block_until_ready([made[s.path] for b in group for s in b.slots])
        _give_back()
    if mesh is auto:
        return made
    return {p: jax.device_put(a, NamedSharding(mesh, a.sharding.spec)) for p, a in made.items()}


def _auto(mesh: Mesh) -> Mesh:
    """The same devices for programs that need not say where everything lies."""
    if all(kind == AxisType.Auto for kind in mesh.axis_types):
        return mesh
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def read_whole(tensor: Tensor) -> Array:
    """One tensor on this process's first device."""
    return _read({"": tensor}, {"": _one_device()}, MOST)[""]


def _groups(
    bounds: Sequence[Bound], tensors: Mapping[str, Tensor], limit: int
) -> Iterator[list[Bound]]:
    """The largest first, while most parameters are not made; then as many as `limit` allows."""

    def size(bound: Bound) -> int:
        return sum(tensors[n].bytes() for n in bound.tensors)

    group, total = [], 0
    for bound in sorted(bounds, key=size, reverse=True):
        if group and total + size(bound) > limit:
            yield group
            group, total = [], 0
        group.append(bound)
        total += size(bound)
    if group:
        yield group


def _read(
    tensors: Mapping[str, Tensor], places: Mapping[str, Sharding], at_once: int
) -> dict[str, Array]:
    from orbax.checkpoint import v1 as ocp  # a second to import, which no other use of models needs

    by_file: dict[epath.Path, dict[str, jax.ShapeDtypeStruct]] = {}
    for name, tensor in tensors.items():
        wanted = jax.ShapeDtypeStruct(tensor.shape, DTYPES[tensor.dtype], sharding=places[name])
        by_file.setdefault(tensor.file, {})[tensor.name] = wanted
    context = ocp.Context()
    context.checkpoint_layout = ocp.options.CheckpointLayout.SAFETENSORS
    context.memory.read_concurrent_bytes = at_once
    out: dict[str, Array] = {}
    with context:
        for file, wanted in by_file.items():
            read = ocp.load(file, wanted)
            out |= {n: read[t.name] for n, t in tensors.items() if t.file == file}
    return out


def _give_back() -> None:
    """What was freed to the system; the C library would keep it, in pieces that fit nothing."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


def _one_device() -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.local_devices()[0])


def _sharding(path: str, shape: Shape, mesh: Mesh | None) -> Sharding:
    return _one_device() if mesh is None else NamedSharding(mesh, partition(path, shape, mesh)[0])


def _sources(
    bound: Bound, tensors: Mapping[str, Tensor], lie: Mapping[str, Sharding]
) -> dict[str, Sharding]:
    """How a line's tensors are divided: as its first parameter, on the axes that became its own."""
    slot = bound.slots[0]
    target = lie[slot.path]
    if not isinstance(target, NamedSharding):
        return dict.fromkeys(bound.tensors, target)
    spec = (*target.spec, *(None,) * (len(slot.index) + len(slot.shape) - len(target.spec)))
    divided = [
        (axis, n) for axis, n in zip(spec[len(slot.index) :], slot.shape, strict=True) if axis
    ]
    return {
        name: NamedSharding(target.mesh, _alike(tensors[name].shape, divided, target.mesh))
        for name in bound.tensors
    }


def _alike(shape: Shape, divided: list[tuple[str, int]], mesh: Mesh) -> PartitionSpec:
    """Axes of equal size are divided alike, where there is none the largest that can be."""
    spec: list[str | None] = [None] * len(shape)
    for axis, size in divided:
        free = [i for i, n in enumerate(shape) if spec[i] is None and n % mesh.shape[axis] == 0]
        if free:
            spec[max(free, key=lambda i: (shape[i] == size, shape[i]))] = axis
    return PartitionSpec(*spec)


def _zeros(shape: Shape, dtype: Any, sharding: Sharding) -> Array:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()


def _writer(
    transform: Transform,
    slots: tuple[tuple[Shape, int], ...],
    dtypes: tuple[Any, ...],
    shardings: tuple[Sharding, ...],
):
    """One line's tensors into its parameters at an index; whole parameters are made anew.

    `slots`: the shape of each, and which of the parameters it is a part of.
    """

    def write(into: list[Array | None], tensors: list[Array], index: list[Array]) -> list[Array]:
        into = list(into)
        made = transform.load(tensors, tuple(shape for shape, _ in slots))
        for new, (shape, p), i in zip(made, slots, index, strict=True):
            new = new.astype(dtypes[p]).reshape(shape)
            into[p] = new if into[p] is None else _put(into[p], new, i)
        return into

    return jax.jit(write, donate_argnums=0, out_shardings=list(shardings))


def _put(old: Array, new: Array, index: Array) -> Array:
    start = [index[i] for i in range(len(index))] + [0] * new.ndim
    return jax.lax.dynamic_update_slice(old, new.reshape((1,) * len(index) + new.shape), start)
