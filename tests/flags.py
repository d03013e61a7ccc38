"""What tests set before JAX looks for devices: flags, the cache of programs, the day."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shutil
import zlib
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]
EIGHT = "--xla_force_host_platform_device_count=8"  # virtual devices on a CPU

# Tests compile much and run little: LLVM's expensive passes would cost more than they save, and
# so do the emitters by MLIR, which take half of a small program's time. jaxlib 0.11 and later
# have no others. Of each flag: what tests take, and what users have.
LOWERED = {
    "xla_backend_optimization_level": (0, 3),
    "xla_llvm_disable_expensive_passes": (True, False),
    "xla_cpu_parallel_codegen_split_count": (1, 32),
}
if importlib.metadata.version("jaxlib").startswith("0.10."):
    LOWERED["xla_cpu_use_fusion_emitters"] = (False, True)
USERS = {flag: value for flag, (_, value) in LOWERED.items()}  # as options of one program

LARGEST_CACHE = 2**29  # bytes
SHARE = 7  # days in which everything has had its turn
DAY = "SEQZOO_LAWS_DAY"  # a number repeats that day; all and none say it


def set_day() -> None:
    """The day of this process and of those that it starts, also behind midnight."""
    os.environ.setdefault(DAY, str(datetime.date.today().toordinal()))


def of_today(key: str | int, days: int = SHARE) -> bool:
    """Whether it is the turn of what has this name or number."""
    return turn_of(zlib.crc32(key.encode()) if isinstance(key, str) else key, days)


def turn_of(i: int, count: int = SHARE, days: int = 1) -> bool:
    """Whether it is the turn of number i of so many; each lasts so many days.

    Every day it is that of one at least.
    """
    day = os.environ[DAY]
    if day in ("all", "none"):
        return day == "all"
    return (i - int(day) // days) % min(count, SHARE) == 0


def set_flags() -> None:
    """For this process and those that it starts, unless the environment says otherwise."""
    lowered = (f"--{flag}={str(value).lower()}" for flag, (value, _) in LOWERED.items())
    os.environ.setdefault("XLA_FLAGS", " ".join([EIGHT, *lowered]))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def share_compiled() -> None:
    """What one worker, process or run has compiled, all others read.

    It lies in pytest's own cache, which git does not track and `pytest --cache-clear` empties.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = ROOT / ".pytest_cache" / "d" / f"compiled-{_processor()}"
    if "PYTEST_XDIST_WORKER" not in os.environ and _size(folder) > LARGEST_CACHE:
        shutil.rmtree(folder)
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.exists() else 0


def _processor() -> str:
    """A name for what compiled programs may assume: another processor may lack instructions."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256((platform.processor() + platform.machine() + flags).encode()).hexdigest()[
        :12
    ]
