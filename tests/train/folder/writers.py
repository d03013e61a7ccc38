"""Processes that want one folder, in every way that goes wrong; whether two ever wrote at once.

python -m tests.train.folder.writers [--starts 200] [--seed 0]

Each has a namespace of processes and of clocks of its own or the usual ones, and all have one host
name. They are left alone, killed, or stopped for longer than the lease and woken up. Each writes
down when it wrote, on the clock that they share: what an owner wrote must all lie before what the
next one wrote. And each logs steps, from where the folder is: a step that was on disk when the
folder was taken must be there. Every start is a line of JSON, and so is the summary at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import itertools
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from seqzoo.train.folder import lease
from seqzoo.train.folder.metrics import MetricsLog, read_lines
from seqzoo.train.folder.run_folder import RunFolder

NEW_MOUNTS, NEW_PROCESSES, NEW_CLOCKS = 0x00020000, 0x20000000, 0x00000080  # <linux/sched.h>
PRIVATE = (1 << 14) | (1 << 18)  # MS_REC | MS_PRIVATE, <sys/mount.h>
HOUR = 3600
REFUSED, LOST, IMPOSSIBLE = 2, 9, 77
EVERY = 0.002  # seconds between writes
ENDS = ("alone", "kill", "stop")


@dataclasses.dataclass(frozen=True)
class Start:
    """One process: where it runs, how long, and what befalls it."""

    apart: bool  # in a namespace of its own, as in a container
    ahead: bool  # with clocks an hour ahead
    end: str  # alone, kill, stop
    seconds: float  # of work, or until that happens
    beside: bool = False  # the next one starts while this one is at work


def run(start: Start, folder: Path, log: Path) -> int:
    """Starts the process; returns the number by which signals reach it."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if start.apart:
            flags = NEW_MOUNTS | NEW_PROCESSES | (NEW_CLOCKS if start.ahead else 0)
            assert libc.unshare(flags) == 0, os.strerror(ctypes.get_errno())
            if start.ahead:
                clocks = f"monotonic {HOUR} 0\nboottime {HOUR} 0"
                Path("/proc/self/timens_offsets").write_text(clocks)
            inner = os.fork()
            if inner:  # which is process 1 of its namespace; signals go to it
                Path(f"{log}.pid").write_text(str(inner))
                code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
                os._exit(code if code >= 0 else 128 - code)
            assert libc.mount(b"none", b"/", None, PRIVATE, None) == 0
            assert libc.mount(b"proc", b"/proc", b"proc", 0, None) == 0
        if start.ahead:
            usual = time.time
            lease.time.time = lambda: usual() + HOUR
        code = work(folder, log, start.seconds if start.end == "alone" else 1e9)
    finally:
        os._exit(code)


def work(folder: Path, log: Path, seconds: float) -> int:
    """Owns the folder for some seconds and writes all the time; the exit code."""
    owner, asked = RunFolder(folder), shared_clock()
    with log.open("a", buffering=1) as file:
        try:
            with owner.owned():
                took, number = shared_clock(), owner._lease._number
                step = max((line.step for line in read_lines(folder)), default=0)
                first = {"number": number, "waited": took - asked, "took": took, "found": step}
                file.write(json.dumps(first) + "\n")
                metrics = MetricsLog(folder, step, guard=owner.guard)
                while shared_clock() < took + seconds:
                    owner.guard()
                    line = {"number": owner._lease._number, "at": shared_clock()}
                    step += 1
                    metrics.write(step, {"loss": number})
                    metrics.flush()
                    file.write(json.dumps({**line, "step": step, "kept": shared_clock()}) + "\n")
                    time.sleep(EVERY)
        except lease.LeaseLostError:
            return LOST
        except lease.LeaseError:
            return REFUSED
    return 0


def shared_clock() -> float:
    """The one clock that no namespace changes."""
    return time.clock_gettime(time.CLOCK_REALTIME)


def befall(start: Start, pid: int, log: Path) -> None:
    """What happens to a process that was started."""
    if start.end == "alone":
        return
    time.sleep(start.seconds)
    target = reached(start, pid, log)
    with contextlib.suppress(ProcessLookupError):
        if start.end == "kill":
            os.kill(target, signal.SIGKILL)
            return
        os.kill(target, signal.SIGSTOP)


def reached(start: Start, pid: int, log: Path) -> int:
    """The number of the process itself, once that is known."""
    own = Path(f"{log}.pid")
    while start.apart and not (own.exists() and own.read_text()):
        time.sleep(0.01)
    return int(own.read_text()) if start.apart else pid


def wake(start: Start, pid: int, log: Path) -> None:
    """Wakes a process that was stopped; it ends by itself, or is ended a little later."""
    target = reached(start, pid, log)
    with contextlib.suppress(ProcessLookupError):
        os.kill(target, signal.SIGCONT)
        time.sleep(lease.LEASE)
        os.kill(target, signal.SIGKILL)


def study(root: Path, starts: list[Start], seed: int = 0) -> dict[str, Any]:
    """All starts on one folder, each while the one before may be alive, dead or asleep."""
    rng, asleep, codes, pids = random.Random(seed), [], [], []
    for i, start in enumerate(starts):
        log = root / f"{i}.log"
        pid = run(start, root / "run", log)
        pids.append(pid)
        befall(start, pid, log)
        if start.end == "stop":
            asleep.append((start, pid, log))
        elif start.end == "kill" or not start.beside:
            codes.append(os.waitpid(pid, 0)[1])
            pids.remove(pid)
        if asleep and rng.random() < 0.5:
            time.sleep(1.5 * lease.LEASE)
            wake(*asleep.pop(0))
        print(json.dumps(dataclasses.asdict(start)), flush=True)
    for each in asleep:
        wake(*each)
    codes += [os.waitpid(pid, 0)[1] for pid in pids]
    return summary(root, [os.waitstatus_to_exitcode(code) for code in codes])


def summary(root: Path, codes: list[int]) -> dict[str, Any]:
    """What the logs of all processes say together."""
    logs = {path: path.read_text().splitlines() for path in root.glob("*.log")}
    written: dict[int, list[float]] = {}
    kept: list[tuple[float, int]] = []  # when a step was on disk, and which
    found: list[tuple[float, int]] = []  # when a folder was taken, and how far it was
    writers: dict[int, set[Path]] = {}
    takes: list[tuple[float, float]] = []  # when a folder was taken, after how long a wait
    for path, texts in logs.items():
        for line in map(json.loads, texts):
            if "waited" in line:
                takes.append((line["took"], line["waited"]))
                found.append((line["took"], line["found"]))
            else:
                written.setdefault(line["number"], []).append(line["at"])
                writers.setdefault(line["number"], set()).add(path)
                kept.append((line["kept"], line["step"]))
    spans = sorted((number, min(times), max(times)) for number, times in written.items())
    overlaps = sum(a[2] > b[1] for a, b in itertools.pairwise(spans))
    overlaps += sum(len(logs) - 1 for logs in writers.values())
    steps = [line.step for line in read_lines(root / "run")]
    found.append((math.inf, len(steps)))
    lost = sum(step > there for took, there in found for at, step in kept if at < took)
    # The owner before may itself have come while one waited: it is from its last sign of life on.
    signs = [last for _, _, last in spans] + [took for took, _ in takes]
    ends = [(sign, took, waited) for took, waited in takes for sign in signs if sign < took]
    since = {took: min(took - sign, waited) for sign, took, waited in sorted(ends)}
    return {
        "steps_lost": lost + (steps != list(range(1, len(steps) + 1))),
        "owners": len(spans),
        "writes": sum(map(len, written.values())),
        "two_at_once": overlaps,
        "refused": codes.count(REFUSED),
        "lost": codes.count(LOST),
        "longest_wait": max(since.values(), default=0.0),
        "lease": lease.LEASE,
        "codes": sorted(set(codes)),
    }


def drawn(count: int, seed: int) -> list[Start]:
    """Random starts of every kind."""
    rng, lasts = random.Random(seed), lease.LEASE
    kinds = [(apart, apart and rng.random() < 0.5) for apart in (True, False) * (count // 2 + 1)]
    return [
        Start(apart, ahead, rng.choice(ENDS), rng.uniform(0.2, 2) * lasts, rng.random() < 0.5)
        for apart, ahead in kinds[:count]
    ]


FEW = (
    Start(apart=True, ahead=True, end="alone", seconds=1.0, beside=True),
    Start(apart=True, ahead=False, end="alone", seconds=0.1),  # is refused
    Start(apart=True, ahead=False, end="stop", seconds=0.5),
    Start(apart=True, ahead=True, end="kill", seconds=0.9),  # takes over, and is killed
    Start(apart=False, ahead=False, end="stop", seconds=0.9),
    Start(apart=True, ahead=False, end="alone", seconds=0.5),
)


def possible() -> bool:
    """Whether this machine lets us make namespaces."""
    child = os.fork()
    if child == 0:
        flags = NEW_MOUNTS | NEW_PROCESSES | NEW_CLOCKS
        os._exit(ctypes.CDLL(None).unshare(flags) != 0)
    return os.waitpid(child, 0)[1] == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, default in (("starts", 200), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--few", action="store_true")
    asked = parser.parse_args()
    if not sys.platform.startswith("linux") or not possible():
        return IMPOSSIBLE
    lease.LEASE = 0.4 if asked.few else 1.0
    starts = list(FEW) if asked.few else drawn(asked.starts, asked.seed)
    with tempfile.TemporaryDirectory() as root:
        print(json.dumps(study(Path(root), starts, asked.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
