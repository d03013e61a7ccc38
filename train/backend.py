"""What has to be settled before JAX looks for devices, and the cache of compiled programs."""

from __future__ import annotations

import os

import jax

from seqzoo.tasks import cache

# Kernels are chosen by timing otherwise, and may differ from one start to the next.
DETERMINISTIC = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def prepare(deterministic: bool) -> None:
    """Sets XLA's flags for bitwise repeatable steps on a GPU, if asked."""
    if deterministic:
        flags = os.environ.get("XLA_FLAGS", "").split()
        os.environ["XLA_FLAGS"] = " ".join([*flags, *(f for f in DETERMINISTIC if f not in flags)])


def keep_compiled() -> None:
    """Keeps compiled programs on disk, unless JAX was told where; the next start is faster.

    Not on CPU, where a compiled program may need instructions that another host lacks.
    """
    if jax.config.jax_compilation_cache_dir is None and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "compiled"))
