"""`seqzoo doctor`: versions, devices, mesh, order of the hosts, bandwidth, and what is wrong.

Started on every host of a pod like `seqzoo train`, all take part; the first one speaks.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqzoo.train.cli.errors import exit_code
from seqzoo.train.cli.flags import Run, bare_field, parse, read
from seqzoo.train.config import MeshConfig
from seqzoo.train.devices.chips import GIB, chip_of
from seqzoo.train.devices.processes import Processes, barrier, is_first, joined
from seqzoo.train.devices.sharding import make_mesh
from seqzoo.train.folder.files import in_bucket

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "libtpu", "numpy")
SETTINGS = (
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_COMPILATION_CACHE_DIR",
    "NPROC",
    "GLIBC_TUNABLES",
)
FREE = 5 * GIB  # bytes of disk below which a run is likely to end early


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor:
    """What to look at."""

    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    mib: int = 16  # of the array whose collectives are timed, on each device
    out: Run = dataclasses.field(default_factory=Path)  # where runs will lie, if there yet or not


def main(argv: Sequence[str]) -> int:
    """Prints what it finds; 1 where something is wrong."""
    fields = [bare_field("doctor", Doctor()), bare_field("processes", Processes())]
    parsed = parse(dataclasses.make_dataclass("Doctor", fields), read(argv), "seqzoo doctor")
    with joined(parsed.processes, exit_code):
        mesh = make_mesh(parsed.doctor.mesh)
        rates = dict(bandwidths(mesh, parsed.doctor.mib))
        wrong = list(faults(parsed.doctor, mesh))
        barrier("doctor")
        if is_first():
            print(*versions(), *devices(mesh), sep="\n")
            for name, rate in rates.items():
                print(f"{name:16} {rate / 1e9:.2f} GB/s a device, {parsed.doctor.mib} MiB")
            print(*(f"note             {text}\n" for text in notes(os.cpu_count())), sep="", end="")
            print(*(f"wrong            {text}" for text in wrong or ["nothing found"]), sep="\n")
    return 1 if wrong else 0


def versions() -> Iterator[str]:
    """Python, packages, and settings of the environment that matter."""
    yield f"python           {platform.python_version()} on {platform.platform()}"
    for name in PACKAGES:
        try:
            yield f"{name:16} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name:16} -"
    for name in SETTINGS:
        if os.environ.get(name):
            yield f"{name}={os.environ[name]}"


def devices(mesh: Mesh) -> Iterator[str]:
    """Devices, the mesh over them, and which host holds which."""
    all_devices = jax.devices()
    chip = chip_of(all_devices[0])
    yield f"devices          {len(all_devices)} x {all_devices[0].device_kind}" + (
        f" ({chip.memory / GIB:.0f} GiB, {chip.flops / 1e12:.0f} TFLOP/s)" if chip else ""
    )
    yield f"processes        {jax.process_count()}, {jax.local_device_count()} devices here"
    yield f"mesh             {', '.join(f'{name} {n}' for name, n in mesh.shape.items())}"
    order = [device.process_index for device in mesh.devices.flat]
    firsts = [order[0], *(b for a, b in itertools.pairwise(order) if a != b)]
    yield f"host order       {', '.join(map(str, firsts))} (along the mesh)"


def bandwidths(mesh: Mesh, mib: int) -> Iterator[tuple[str, float]]:
    """Bytes a second that a device sends, of a gather and a sum over all devices."""
    n, axes = mesh.size, mesh.axis_names
    if n == 1:
        return
    rows, whole = NamedSharding(mesh, PartitionSpec(axes)), NamedSharding(mesh, PartitionSpec())
    shape = (n, mib * 2**18)
    local = np.ones((1, shape[1]), np.float32)
    x = jax.make_array_from_callback(shape, rows, lambda _: local)
    sent = 4 * shape[1] * (n - 1)
    kinds = {
        "all-gather": (jax.jit(lambda x: x, out_shardings=whole), sent),
        "all-reduce": (jax.jit(lambda x: jnp.sum(x, 0), out_shardings=whole), 2 * sent / n),
    }
    for name, (call, size) in kinds.items():
        jax.block_until_ready(call(x))
        started = time.perf_counter()
        for _ in range(3):
            jax.block_until_ready(call(x))
        yield name, 3 * size / (time.perf_counter() - started)


def notes(processors: int | None) -> Iterator[str]:
    """What is not wrong, but worth knowing."""
    if jax.default_backend() == "cpu" and processors == 2 and not os.environ.get("NPROC"):
        yield (
            "XLA's pool of exactly 2 threads has been seen to wait for itself for ever: a run that "
            "stands still without load, start again with NPROC=4 (3 to 15% slower when measured)"
        )


def faults(options: Doctor, mesh: Mesh) -> Iterator[str]:
    """What is wrong here, with the way out."""
    platform_ = jax.default_backend()
    if platform_ == "cpu" and shutil.which("nvidia-smi"):
        yield "a GPU is here but JAX does not use it: pip install 'seqzoo[cuda]'"
    if platform_ == "cpu" and Path("/dev/accel0").exists():
        yield "a TPU is here but JAX does not use it: install 'seqzoo[tpu]', unset JAX_PLATFORMS"
    if importlib.metadata.version("jax").split(".")[:2] != _minor("jaxlib"):
        yield "jax and jaxlib are of different versions: pip install --upgrade jax"
    counts = dict.fromkeys(range(jax.process_count()), 0)
    for device in mesh.devices.flat:
        counts[device.process_index] += 1
    if len(set(counts.values())) > 1:
        yield f"hosts have different numbers of devices: {counts}"
    if not in_bucket(options.out):
        yield from _room(options.out.absolute())


def _room(out: Path) -> Iterator[str]:
    there = next(path for path in (out, *out.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < FREE:
        yield f"{there.resolve()} has {free / GIB:.1f} GiB left; checkpoints may not fit"
    if not os.access(there, os.W_OK):
        yield f"{there.resolve()} cannot be written"


def _minor(package: str) -> list[str]:
    return importlib.metadata.version(package).split(".")[:2]
