"""Which processes train together, and how they find each other before JAX looks for devices."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import threading
from typing import Any, Literal

import jax

LOST = 5  # exit code where another process is gone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """Which processes train together; the same on all of them but for `process_id`."""

    distributed: Literal["auto", "off"] = "auto"  # auto: those of a TPU slice, a Slurm step, ...
    coordinator: str = ""  # HOST:PORT of process 0, a free port; instead of auto
    num_processes: int = 0  # with coordinator
    process_id: int = -1  # with coordinator; 0, 1, ..., one for each process
    wait_seconds: int = 300  # for processes that start late, or do not answer

    def __post_init__(self) -> None:
        given = bool(self.coordinator), self.num_processes != 0, self.process_id != -1
        if any(given) and not all(given):
            raise ValueError("--coordinator, --num-processes and --process-id belong together")
        if any(given) and self.distributed == "off":
            raise ValueError("--distributed off and --coordinator contradict each other")
        if any(given) and not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f"--process-id must be in 0 ... --num-processes - 1; got {self.process_id} of "
                f"{self.num_processes}"
            )
        if self.coordinator and not re.fullmatch(r".+:\d+", self.coordinator):
            raise ValueError(f"--coordinator has the form HOST:PORT; got {self.coordinator!r}")
        if self.wait_seconds < 1:
            raise ValueError(f"--wait-seconds must be at least 1; got {self.wait_seconds}")


def connected(processes: Processes) -> bool:
    """Whether there are several processes; they are connected then."""
    explicit = processes.num_processes > 0
    count = processes.num_processes
    if not explicit:
        count = detected() if processes.distributed == "auto" else 1
    if count < 2:
        return False
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    options: dict[str, Any] = {}
    if explicit:
        options = {
            "coordinator_address": processes.coordinator,
            "num_processes": count,
            "process_id": processes.process_id,
            "cluster_detection_method": "deactivate",
        }
    # JAX ends the process with a stack trace when time is up, so a clear word comes first.
    clock = threading.Timer(processes.wait_seconds, _nobody_came, (processes, count))
    clock.daemon = True
    clock.start()
    jax.distributed.initialize(
        **options,
        initialization_timeout=processes.wait_seconds + 60,
        heartbeat_timeout_seconds=min(100, max(10, processes.wait_seconds)),
        shutdown_timeout_seconds=processes.wait_seconds,
    )
    clock.cancel()
    return True


def detected() -> int:
    """Processes of the cluster that JAX finds around this one; 1 where it finds none."""
    from jax._src.clusters import ClusterEnv  # initialize() itself fails where there is none

    try:
        for kind in ClusterEnv._cluster_types:
            indexed = kind.__name__ != "K8sCluster" or "JOB_COMPLETION_INDEX" in os.environ
            if indexed and not kind.opt_in_only_method and kind.is_env_present():
                return kind.get_process_count()
    except OSError as error:  # a TPU without a metadata server
        print(f"no cluster found, training alone: {error}", file=sys.stderr)
    return 1


def _nobody_came(processes: Processes, count: int) -> None:
    where = f" at {processes.coordinator}" if processes.coordinator else ""
    print(
        f"seqzoo: after {processes.wait_seconds} s not all of {count} processes have met{where}; "
        "start the same command on every host, and see that process 0 can be reached "
        "(--distributed off trains alone)",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)
