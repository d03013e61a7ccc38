"""Meshes and rematerialisation policies that are worth a plan."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

from seqzoo.train.config import Experiment, MeshConfig
from seqzoo.train.plan.topology import Plan


def candidates(experiment: Experiment, plan: Plan, count: int) -> Iterator[Experiment]:
    """Meshes and rematerialisation policies worth a try."""
    rows = experiment.train.batch_size // experiment.train.accumulate
    length = plan.length or experiment.task.spec.length
    sizes = [{"data": 1, "fsdp": count}, {"data": count}]
    for n in (4, 8):
        sizes.append({"data": 1, "fsdp": count // n, "tensor": n})
    if count > 16:
        sizes.append({"data": count // 16, "fsdp": 16})
    # The last is the smallest with which there are rows for all.
    for n in sorted({2, 4, 8, count // math.gcd(count, rows)}):
        sizes.append({"data": 1, "fsdp": count // n, "seq": n})
    for mesh, remat in itertools.product(sizes, ("none", "dots", "full")):
        if _possible(mesh, count, rows, length, plan.slices):
            backbone = dataclasses.replace(experiment.backbone, remat=remat)
            yield dataclasses.replace(experiment, mesh=MeshConfig(**mesh), backbone=backbone)


def _possible(mesh: dict[str, int], count: int, rows: int, length: int, slices: int) -> bool:
    """Whether a mesh has all devices, and divides rows and their length; seq 1 counts for none."""
    shards, seq = mesh["data"] * mesh.get("fsdp", 1), mesh.get("seq", 0)
    return (
        math.prod(mesh.values()) == count
        and rows % shards == 0
        and (seq == 0 or (seq > 1 and length % seq == 0))
        and (slices == 1 or any(mesh.get(axis, 1) % slices == 0 for axis in ("data", "fsdp")))
    )
