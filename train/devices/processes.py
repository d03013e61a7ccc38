"""Several processes that train one model: how they agree, and end together.

Arrays are XLA's to share. The hosts tell each other little, through JAX's coordination service:
what process 0 has decided, and that one of them has failed, so that none waits for ever.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax

from seqzoo.train.devices.meeting import LOST, Processes, connected

T = TypeVar("T")

POLL = 1.0  # seconds between looks whether another process has failed
FAREWELL = 5000  # milliseconds that a failing process gives the others to hear of it
FAILED = "seqzoo/failed"


class ProcessLostError(RuntimeError):
    """Another process of the run is gone, or did not come in time."""


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
    if not connected(processes):
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
