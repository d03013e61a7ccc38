"""Several processes that train one model: how they find each other, agree, and end together.

Arrays are XLA's to share. The hosts tell each other little, through JAX's coordination service:
what process 0 has decided, and that one of them has failed, so that none waits for ever. Whether
any process was asked to stop is found on the devices, so that no host waits for it.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import itertools
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")

VOTE = 4  # steps between two questions whether to stop; the answer is read as late
POLL = 1.0  # seconds between looks whether another process has failed
FAREWELL = 5000  # milliseconds that a failing process gives the others to hear of it
FAILED = "seqzoo/failed"
LOST = 5  # exit code where another process is gone


class ProcessLostError(RuntimeError):
    """Another process of the run is gone, or did not come in time."""


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


class _Joined(NamedTuple):
    """What `joined` was called with."""

    wait_seconds: int
    exit_code: Callable[[BaseException], int | None]


_joined: _Joined | None = None
_on_abort: Any = None
_ending = threading.Lock()  # the first thread to take it ends the process
_cleanups: list[Callable[[], None]] = []
_turns: collections.defaultdict[str, Iterator[int]] = collections.defaultdict(itertools.count)


@contextlib.contextmanager
def joined(
    processes: Processes, exit_code: Callable[[BaseException], int | None]
) -> Iterator[None]:
    """Joins the other processes, if there are any, before JAX looks for devices.

    An error then ends this process at once, with the code that `exit_code` gives it, and all
    others with the same code. Without others it does nothing.
    """
    global _joined
    if not _initialize(processes):
        yield
        return
    _joined = _Joined(processes.wait_seconds, exit_code)
    _explain_aborts()
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(done,), name="failures", daemon=True)
    watch.start()
    try:
        with failing_together():
            yield
            barrier("end")
    finally:
        done.set()
        watch.join()
        _joined = None
    jax.distributed.shutdown()


def process_index() -> int:
    """Of this process, without a look for devices where it is the only one."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def process_count() -> int:
    """Of all processes, without a look for devices where there is one."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process owns the run's folder and speaks to the user."""
    return process_index() == 0


def from_first(what: str, make: Callable[[], T]) -> T:
    """What `make` returns on process 0 (which JSON can hold), on every process.

    Raises ProcessLostError if it does not come in time.
    """
    if process_count() == 1:
        return make()
    key = f"seqzoo/{what}/{next(_turns[what])}"
    if is_first():
        value = make()
        _client().key_value_set(key, json.dumps(value))
        return value
    try:
        return json.loads(_client().blocking_key_value_get(key, 1000 * _wait_seconds()))
    except jax.errors.JaxRuntimeError as error:
        raise ProcessLostError(
            f"process 0 did not say within {_wait_seconds()} s: {what} ({_one_line(error)})"
        ) from error


def barrier(what: str) -> None:
    """Returns when all processes have come here. Raises ProcessLostError naming those missing."""
    if process_count() == 1:
        return
    try:
        _client().wait_at_barrier(f"seqzoo/{what}/{next(_turns[what])}", 1000 * _wait_seconds())
    except jax.errors.JaxRuntimeError as error:
        who = _named(_missing(error))
        raise ProcessLostError(
            f"{who} did not come within {_wait_seconds()} s to: {what} ({_one_line(error)})"
        ) from error


@contextlib.contextmanager
def failing_together(*cleanups: Callable[[], None]) -> Iterator[None]:
    """Ends all processes if an error arises here; alone, the error goes its way.

    Errors are caught where they arise, since unwinding may wait for a process that is gone.
    `cleanups` are called before the process ends for its own or for another one's error.
    """
    _cleanups.extend(cleanups)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if _joined is None:
            raise
        _give_up(error, _joined.exit_code(error))
    finally:
        del _cleanups[len(_cleanups) - len(cleanups) :]


class Ballot:
    """What the processes wish to do after a step (stop, save), at a step that is the same for all.

    Every few steps a tiny program on the devices asks for the largest wish; the hosts read the
    answer when they ask again, so they never wait for it.
    """

    def __init__(self, mesh: Mesh):
        self._alone = process_count() == 1
        self._shape = (mesh.size,)
        self._votes = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._most = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked: jax.Array | None = None
        self._wish = 0  # since the last question

    def asked(self, step: int, wish: int) -> int:
        """The largest wish, of which 0 is none; to be called after each step."""
        if self._alone:
            return wish
        # A wish that comes between two questions waits for the next one.
        self._wish = max(wish, self._wish)
        if step % VOTE:
            return 0
        before, vote, self._wish = self._asked, np.full(1, self._wish, np.int32), 0
        votes = jax.make_array_from_callback(self._shape, self._votes, lambda _: vote)
        self._asked = self._most(votes)
        return 0 if before is None else int(before)


def _initialize(processes: Processes) -> bool:
    """Whether there are several processes; they are connected then."""
    explicit = processes.num_processes > 0
    count = processes.num_processes
    if not explicit:
        count = _detected() if processes.distributed == "auto" else 1
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


def _detected() -> int:
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


def _explain_aborts() -> None:
    """Lets an abort end this process with a clear word and the code of a lost process.

    JAX's client aborts where its service, on process 0, is gone, and Gloo now and then where
    another process is; neither can be told to call us (JAX's callback for that does not work from
    Python). Python's own signal handlers run too late, so this one is put in C's place.
    """
    words = (
        f"seqzoo: process {process_index()}: aborted by what stands above: most likely process 0 "
        "or another one is gone; the same command on every host continues the run\n"
    ).encode()

    def explain(_: int) -> None:
        os.write(2, words)
        os._exit(LOST)

    global _on_abort  # C knows its address only
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


def _watch(done: threading.Event) -> None:
    """Ends this process when another one has failed."""
    while not done.wait(POLL):
        try:
            failure = json.loads(_client().key_value_try_get(FAILED))
        except jax.errors.JaxRuntimeError:  # nothing there
            continue
        with _ending:
            _say(f"process {failure['process']} failed, so this one ends: {failure['message']}")
            missing = _farewell()
            if missing:  # what failed there failed for want of it
                _say(f"{missing} is gone or does not answer")
            _exit(LOST if missing else failure["code"])


def _give_up(error: BaseException, code: int | None) -> None:
    """Tells the other processes, and ends this one."""
    with _ending:
        message = str(error)
        if code is None:
            message = f"{type(error).__name__}: {_one_line(error)} (SEQZOO_DEBUG=1 shows where)"
        failure = {"process": process_index(), "message": message, "code": code or 1}
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was faster
            _client().key_value_set(FAILED, json.dumps(failure))
        missing = _farewell()
        if missing:
            _say(f"{missing} is gone or does not answer; here: {message}")
            _exit(LOST)
        if os.environ.get("SEQZOO_DEBUG"):
            traceback.print_exception(error)
        _say(message)
        _exit(code or 1)


def _farewell() -> str:
    """Waits until all processes know of the failure; names those that do not come, "" for none."""
    try:
        _client().wait_at_barrier(f"{FAILED}/heard", FAREWELL)
    except jax.errors.JaxRuntimeError as error:
        missing = _missing(error)
        others = [name for name in missing if name != str(process_index())]
        return _named(others) if others or not missing else ""
    return ""


def _exit(code: int) -> None:
    """Ends the process without JAX's own end, which waits for all processes."""
    for cleanup in reversed(_cleanups):
        with contextlib.suppress(OSError, ValueError):
            cleanup()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _missing(error: Exception) -> list[str]:
    """The processes that an error of the coordination service names."""
    heads = r"(?:timed out task names|stopped sending heartbeats\)):"
    found = re.search(heads + r"\s*\n((?:\S*\d+[ \t]*\n)+)", str(error))
    return [name.strip().rpartition(":")[2] for name in found[1].splitlines()] if found else []


def _named(processes: list[str]) -> str:
    return f"process {', '.join(processes)}" if processes else "another process"


def _say(text: str) -> None:
    print(f"seqzoo: process {process_index()}: {text}", file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _wait_seconds() -> int:
    return _joined.wait_seconds if _joined else Processes().wait_seconds


def _client() -> Any:
    # JAX has no public name for the client of its coordination service; Orbax takes it here too.
    from jax._src import distributed

    return distributed.global_state.client
