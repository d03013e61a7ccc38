"""What is settled before JAX looks for devices, and the cache of compiled programs."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys

import jax
from jax.sharding import Mesh

from seqzoo.tasks.data import cache_folder

# Kernels are chosen by timing otherwise, and may differ from one start to the next.
DETERMINISTIC = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


# glibc's mallopt, <malloc.h>: parameters, and the largest value that an int holds.
TRIM_THRESHOLD, MMAP_THRESHOLD, LARGEST = -1, -3, 2**31 - 1


def reuse_memory() -> None:
    """Lets XLA's CPU backend compute in memory that it had before; to be called before it starts.

    It asks for the temporary memory of a program in one piece at every call. glibc gives pieces of
    that size back to the system, so every page is made anew at each step: a quarter of the
    processor time of some mixers. Pieces up to 2 GiB are now kept. glibc can do so only for the
    first thread, so that one runs the programs. What the user told glibc stays.
    """
    told = "GLIBC_TUNABLES" in os.environ or any(k.startswith("MALLOC_") for k in os.environ)
    if sys.platform != "linux" or told or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    for parameter in (TRIM_THRESHOLD, MMAP_THRESHOLD):
        libc.mallopt(parameter, LARGEST)


def check_flags() -> None:
    """Raises ValueError for XLA_FLAGS that XLA does not read: it would end this process itself."""
    if flags := os.environ.get("XLA_FLAGS"):
        _check_flags(flags)


@functools.cache
def _check_flags(flags: str) -> None:
    reads = "from jaxlib.xla_client import CompileOptions; CompileOptions()"
    done = subprocess.run([sys.executable, "-c", reads], capture_output=True, text=True)
    said = [line.partition("] ")[2] for line in done.stderr.splitlines() if "flags" in line[:80]]
    if done.returncode and said:
        raise ValueError(f"XLA_FLAGS={flags!r} is nothing that XLA reads ({said[0]}); unset it")


def prepare(deterministic: bool) -> None:
    """Sets XLA's flags for bitwise repeatable steps on a GPU, if asked."""
    if deterministic:
        flags = os.environ.get("XLA_FLAGS", "").split()
        os.environ["XLA_FLAGS"] = " ".join([*flags, *(f for f in DETERMINISTIC if f not in flags)])


def run_once(mesh: Mesh) -> dict[str, int]:
    """Compiler options of a program that runs once, as that of the first state.

    A CPU's compiler takes a third of the time at its first level (3 to 10 s become 1 to 3 s for
    five small models), random numbers are made as fast and are the same to the bit; at level 0
    they are not. A level in XLA_FLAGS stays.
    """
    level = "xla_backend_optimization_level"
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {level: 1} if on_cpu and level not in os.environ.get("XLA_FLAGS", "") else {}


def keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX was told where; the next start is faster.

    Not on CPU, where a compiled program may need instructions that another host lacks.
    """
    if jax.config.jax_compilation_cache_dir is None and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(cache_folder.folder() / "compiled"))
