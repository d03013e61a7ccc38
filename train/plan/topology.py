"""What a plan is for: a topology that need not exist here, or the devices that do."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from seqzoo.train.devices.chips import GPUS, TPUS

LOCAL = "local"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compile for, apart from the experiment itself."""

    # v5e:16x16, v5p:4x4x4, h100:8, h100:2x8 (hosts by GPUs), or local: what is here
    topology: str = LOCAL
    slices: int = 1  # of a TPU topology, connected by the data centre's network
    length: int = 0  # tokens of a row; 0: the task's

    def __post_init__(self) -> None:
        kind, _, shape = self.topology.partition(":")
        tpu = kind in TPUS and re.fullmatch(r"\d+(x\d+){1,2}", shape)
        gpu = kind in GPUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", shape)
        if not (tpu or gpu or self.topology == LOCAL):
            raise ValueError(
                f"a topology is {LOCAL}, one of {', '.join(TPUS)} with its shape, such as "
                f"v5e:16x16 or v5p:4x4x4, or one of {', '.join(GPUS)} with the GPUs of a host, "
                f"such as h100:8, or hosts by GPUs, such as h100:2x8; got {self.topology!r}"
            )
        if self.slices < 1 or self.length < 0:
            raise ValueError(f"slices is at least 1, length at least 0; got {self}")
        if gpu and self.slices > 1:
            raise ValueError(
                f"slices are of TPUs; {self.slices} hosts of GPUs are {kind}:{self.slices}x8"
            )

    @property
    def gpu(self) -> bool:
        """Whether it is for GPUs that need not exist here."""
        return self.topology.partition(":")[0] in GPUS


def devices_of(plan: Plan) -> Sequence[jax.Device]:
    """The devices of a topology. Raises ValueError where it or its compiler cannot be had."""
    if plan.topology == LOCAL:
        return jax.devices()
    return _gpus(plan) if plan.gpu else _tpus(plan)


def _tpus(plan: Plan) -> Sequence[jax.Device]:
    if not has_libtpu():
        raise ValueError(
            "compiling for a TPU needs libtpu, which `pip install 'seqzoo[tpu]'` installs on "
            "Linux; --topology local plans for this machine"
        )
    # Compiling needs no TPU, and one that is here belongs to whoever trains on it.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # several plans at a time
    os.environ |= {"TPU_WORKER_ID": "0", "TPU_MIN_LOG_LEVEL": "4", "TPU_STDERR_LOG_LEVEL": "4"}
    options: dict[str, Any] = {"num_slices": plan.slices} if plan.slices > 1 else {}
    if plan.topology.endswith(":1x1") or plan.topology.endswith(":1x1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    return _described(plan, "tpu", plan.topology, **options)


def _gpus(plan: Plan) -> Sequence[jax.Device]:
    """Of as many processes as hosts; XLA compiles for the GPU that a target file describes."""
    if not has_cuda_compiler():
        raise ValueError(
            "compiling for a GPU that is not here needs JAX's CUDA plugin and NVIDIA's compiler, "
            "which `pip install 'seqzoo[plan-gpu]'` installs on Linux (250 MB, no driver); "
            "--topology local plans for this machine"
        )
    kind, _, shape = plan.topology.partition(":")
    hosts, _, each = shape.rpartition("x")
    target = Path(__file__).with_name(f"{kind}.txt").read_text()
    shape = f"1x{hosts or 1}x{each}"
    return _described(plan, "cuda", "", topology=shape, target_config=target)


def _described(plan: Plan, platform: str, name: str, **options: Any) -> Sequence[jax.Device]:
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(name, platform=platform, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("=== Source")[0].strip()
        raise ValueError(f"no topology {plan.topology!r}: {reason}") from error


def has_libtpu() -> bool:
    """Whether programs can be compiled for a TPU here."""
    return importlib.util.find_spec("libtpu") is not None


def has_cuda_compiler() -> bool:
    """Whether programs can be compiled for a GPU here."""
    plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin")
    return any(importlib.util.find_spec(name) is not None for name in plugins)
