"""Work of a compiler in a process of its own: what takes too long or is killed ends alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def planned_apart(module: str, request: Row, limit: float, work: str = "compiled") -> Row:
    """What `module`, run with a request, answers within `limit` seconds; `work` is what that is.

    Returns its row and the `seconds` it took, or the `error` in place of the row.
    """
    command = [sys.executable, "-m", module]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not {work} within {limit:.0f} s", "seconds": limit}
    seconds = time.perf_counter() - started
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = ", this machine's memory was perhaps too small to compile it" * (name == "SIGKILL")
        return {"error": f"its process was ended by {name}{hint}", "seconds": seconds}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": last[:300], "seconds": seconds}
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "seconds": seconds}


def answered(answer: Callable[[Row], Row]) -> None:
    """The other side: reads a request, prints the row; a request that cannot be is one line."""
    try:
        print(json.dumps(answer(json.load(sys.stdin))))
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
