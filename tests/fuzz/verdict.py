"""What a case may end with, and what must be left on the disk."""

import re
import signal
from typing import NamedTuple

from tests.fuzz import cases, world

CODES = {0, 2, 3, 4, 5, 75, 130, 141}
LINES = 10
USAGE = 20  # of `seqzoo` alone, which lists the verbs
# Lines that report progress or a remark, and belong to no error.
SAID = re.compile(r"step \d+: |note: |continuing |stopping: |started from |checkpoint \d+ ")


class Ended(NamedTuple):
    """How a case went."""

    code: int  # negative: the signal that ended it
    out: str
    err: str
    hung: bool = False


class Disk(NamedTuple):
    """What was there, or is."""

    files: dict[str, str]
    checkpoints: dict[int, str]


def look(folder) -> Disk:
    """What is on the disk in a case's folder."""
    return Disk(world.contents(folder), world.whole_checkpoints(folder / "base"))


def verdict(case: cases.Case, ended: Ended, before: Disk, after: Disk) -> list[str]:
    """What was wrong, in words."""
    return [*_ending(case, ended), *_left(case, ended, before, after)]


def _ending(case, ended):
    if ended.hung:
        yield "hangs"
    sent = {number for _, number in case.signals}
    codes = CODES | {-number for number in sent - {signal.SIGSTOP}}
    codes |= {1} if "doctor" in case.argv[:1] else set()
    if ended.code not in codes and not ended.hung:
        yield f"code {ended.code} is not documented"
    if "Traceback" in ended.err or "Traceback" in ended.out:
        yield "a traceback"
    lines = [line for line in ended.err.splitlines() if line and not SAID.match(line)]
    if len(lines) > (USAGE if lines and lines[0].startswith("usage: ") else LINES):
        yield f"{len(lines)} lines of error"
    if ended.code in CODES - {0, 75, 130, 141} and not lines and 2 not in case.closed:
        yield f"code {ended.code} without a word"
    if "a fault of seqzoo" in ended.err:
        yield "a fault of its own"
    if ended.code in (0, 75) and any(line.startswith("seqzoo") for line in lines):
        yield f"code {ended.code} with an error"


def _left(case, ended, before, after):
    changed = {
        path
        for path, digest in before.files.items()
        if after.files.get(path) != digest and not path.endswith("report.html")
    }
    verb = case.argv[0] if case.argv else ""
    if verb in ("train", "compare", "demo"):
        changed = {path for path in changed if not path.startswith(("base/", "link/", "real/"))}
        best = max(before.checkpoints, default=0)
        if best and max(after.checkpoints, default=0) < best:
            yield f"the whole checkpoint {best} is gone"
    if changed:
        yield f"changed {', '.join(sorted(changed)[:3])}"
    if ended.code == 2 and verb in ("train", "compare") and not case.base:
        new = set(after.files) - set(before.files)
        if new:
            yield f"refused, but wrote {', '.join(sorted(new)[:3])}"
