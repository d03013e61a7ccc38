"""Who a process is, in words that another process on the same kernel can check.

Numbers of processes mean something within one namespace of one running kernel. Two containers may
have the same host name, and the same number in each.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

SINCE = time.strftime("%Y-%m-%d %H:%M:%S")  # for human eyes
SAME = ("boot", "namespace")  # must be known and the same for a number to mean something


class Identified(TypedDict):
    """What a process says of itself."""

    pid: int
    host: str
    since: str
    boot: str | None
    namespace: str | None
    started: str | None


def this_process() -> dict[str, Any]:
    """What others are told of this process, and how those on the same kernel find it."""
    pid = os.getpid()
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "since": SINCE,
        "boot": _text_of("/proc/sys/kernel/random/boot_id") or _without_namespaces(),
        "namespace": _namespace() or _without_namespaces(),
        "started": started(pid),
    }


def is_this_one(other: Mapping[str, Any]) -> bool:
    """Whether that is this process."""
    own = this_process()
    return _comparable(own, other) and all(own[k] == other.get(k) for k in ("pid", "started"))


def runs(other: Mapping[str, Any]) -> bool | None:
    """Whether that process is running; None where it cannot be seen from here."""
    if not _comparable(this_process(), other):
        return None
    try:
        os.kill(other["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    if not Path("/proc/self/stat").exists():  # another system; numbers are seldom given again
        return True
    if not Path(f"/proc/{other['pid']}/stat").exists():
        return None  # hidden from other users
    return started(other["pid"]) == other["started"]


def started(pid: int) -> str | None:
    """When a living process started, in the kernel's ticks; None where there is none to be seen."""
    text = _text_of(f"/proc/{pid}/stat")
    state, *fields = text.rpartition(")")[2].split() if text else ["X"]
    return None if state in "ZX" else fields[18]


def _comparable(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(own[name] and own[name] == other.get(name) for name in SAME)


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _without_namespaces() -> str | None:
    """The host, where it is one: on systems where every process sees every other one."""
    return socket.gethostname() if sys.platform == "darwin" else None


def _text_of(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None
