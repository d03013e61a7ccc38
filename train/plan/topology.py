"""What a plan is for: a topology that need not exist here, or the devices that do."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from seqzoo.train.devices.chips import TPUS

LOCAL = "local"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compile for, apart from the experiment itself."""

    topology: str = LOCAL  # v5e:16x16, v6e:8x8, v5p:4x4x4, tpu7x:2x2x1, or local: what is here
    slices: int = 1  # of that topology, connected by the data centre's network
    length: int = 0  # tokens of a row; 0: the task's

    def __post_init__(self) -> None:
        kind = self.topology.partition(":")[0]
        if self.topology != LOCAL and not (
            kind in TPUS and re.fullmatch(r"\d+(x\d+){1,2}", self.topology.partition(":")[2])
        ):
            raise ValueError(
                f"a topology is {LOCAL} or one of {', '.join(TPUS)} with its shape, such as "
                f"v5e:16x16 or v5p:4x4x4; got {self.topology!r}"
            )
        if self.slices < 1 or self.length < 0:
            raise ValueError(f"slices is at least 1, length at least 0; got {self}")


def devices_of(plan: Plan) -> Sequence[jax.Device]:
    """The devices of a topology. Raises ValueError where it cannot be, or libtpu is missing."""
    if plan.topology == LOCAL:
        return jax.devices()
    if not has_libtpu():
        raise ValueError(
            "compiling for a TPU needs libtpu, which `pip install 'seqzoo[tpu]'` installs on "
            "Linux; --topology local plans for this machine"
        )
    # Compiling needs no TPU, and one that is here belongs to whoever trains on it.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # several plans at a time
    os.environ |= {"TPU_WORKER_ID": "0", "TPU_MIN_LOG_LEVEL": "4", "TPU_STDERR_LOG_LEVEL": "4"}
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": plan.slices} if plan.slices > 1 else {}
    if plan.topology.endswith(":1x1") or plan.topology.endswith(":1x1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(plan.topology, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("=== Source")[0].strip()
        raise ValueError(f"no topology {plan.topology!r}: {reason}") from error
    return found.devices


def has_libtpu() -> bool:
    """Whether programs can be compiled for a TPU here."""
    return importlib.util.find_spec("libtpu") is not None
