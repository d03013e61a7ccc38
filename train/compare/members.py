"""Processes that share a comparison, started by one command: on the GPUs of a host, or by Ray.

Each is the same command once more and alone. What divides the work is the comparison's folder, in
which every run has one owner (`work.py`), so nothing here knows of models: members may come late or
die, others take over what they leave, and the same command continues what all have left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from seqzoo.train.devices.processes import Processes

MEMBER = "SEQZOO_MEMBER"  # set in the environment of who was started here
STOPPED = 75  # exit code: the same command continues
POLL = 0.5  # seconds between looks whether members have ended
RETRIES = 3  # of a member whose machine Ray has lost
DRIVERS = Path("/proc/driver/nvidia/gpus")


def wanted(workers: int, ray: int, processes: Processes) -> bool:
    """Whether this process only starts others. Raises ValueError for what cannot be."""
    for name, count in (("workers", workers), ("ray", ray)):
        if count < 0:
            raise ValueError(f"--{name} counts processes; got {count}")
    if workers != 1 and ray:
        raise ValueError("--workers is for this machine, --ray for a cluster; give one of the two")
    if (workers != 1 or ray) and processes.coordinator:
        raise ValueError(
            "--coordinator makes several processes train one model together, --workers and --ray "
            "give each its own models; choose one"
        )
    return MEMBER not in os.environ and (workers != 1 or ray > 0)


def on_host(command: Sequence[str], count: int) -> int:
    """The exit code of `count` members, 0: one for each GPU, which then has it alone."""
    gpus = visible_gpus()
    count = count or max(1, len(gpus))
    with contextlib.ExitStack() as stack:
        members = [_Member(command, _share(gpus, i, count), first=i == 0) for i in range(count)]
        for member in members:
            stack.callback(member.stop)
        stack.enter_context(_passed_on(lambda: [member.stop() for member in members]))
        while any(member.running for member in members):
            time.sleep(POLL)
        codes = [member.code for member in members]
        for i, member in enumerate(members[1:], start=1):
            _told(i, member.code, member.last_words())
    return joint(codes)


def on_ray(command: Sequence[str], count: int) -> int:
    """The exit code of `count` members on a Ray cluster, each with a GPU where it has some.

    The cluster is that of RAY_ADDRESS, else one made on this machine. Raises ValueError where Ray
    is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'seqzoo[ray]'") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    needs = {"num_cpus": 1, "num_gpus": int(has_gpus), "max_retries": RETRIES}
    member = ray.remote(**needs)(_on_worker)
    left = [member.remote(list(command), os.getcwd()) for _ in range(count)]
    places = {ref: i for i, ref in enumerate(left)}
    codes = []
    with _passed_on(lambda: [ray.cancel(ref) for ref in left]):
        while left:
            done, left = ray.wait(left, timeout=POLL)
            for ref in done:
                code, words = _outcome(ray, ref)
                codes.append(code)
                _told(places[ref], code, words)
    return joint(codes)


def joint(codes: Sequence[int]) -> int:
    """Of all members: done if one is, as that has seen all models through; else the first fault."""
    codes = [128 - code if code < 0 else code for code in codes]  # as a shell counts signals
    if 0 in codes:
        return 0
    return next((code for code in codes if code != STOPPED), STOPPED)


def visible_gpus() -> list[str]:
    """The names of the GPUs that CUDA would show here; asked without starting it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(i) for i in range(len(list(DRIVERS.iterdir())))] if DRIVERS.is_dir() else []


def _share(gpus: Sequence[str], place: int, count: int) -> dict[str, str]:
    """The environment in which a member sees its GPU, and the part of it that is its own."""
    if not gpus:
        return {}
    env = {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]}
    if count > len(gpus):
        env["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * len(gpus) / count:.3f}"
    return env


class _Member:
    """One process; the first one speaks for all."""

    def __init__(self, command: Sequence[str], env: dict[str, str], *, first: bool):
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the process has ended
        quiet = {} if first else {"stdout": subprocess.DEVNULL, "stderr": self._said}
        # In a session of its own, so that Ctrl-C reaches it once, through us.
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **env, MEMBER: "1"},
            start_new_session=True,
            **quiet,
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int:
        return self._process.wait()

    def stop(self) -> None:
        """Asks it to save and end."""
        if self.running:
            self._process.terminate()

    def last_words(self) -> str:
        self._said.seek(0)
        return _last_line(self._said.read())


def _on_worker(command: Sequence[str], folder: str) -> tuple[int, str]:
    """One member, in a worker of Ray, which interrupts it when it is cancelled."""
    with contextlib.chdir(folder):
        member = _Member(command, {}, first=False)
        try:
            code = member.code
        except KeyboardInterrupt:
            member.stop()
            code = member.code
        return code, member.last_words()


def _outcome(ray: object, ref: object) -> tuple[int, str]:
    try:
        return ray.get(ref)
    except ray.exceptions.TaskCancelledError:  # it had not begun, or has saved and ended
        return STOPPED, ""
    except ray.exceptions.RayError as error:
        return 1, _last_line(str(error))


@contextlib.contextmanager
def _passed_on(stop: Callable[[], object]) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask the members to end; their end is waited for."""
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, lambda *_: stop()) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _told(place: int, code: int, words: str) -> None:
    if code not in (0, STOPPED):
        print(f"process {place} ended with {code}: {words}", file=sys.stderr)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
