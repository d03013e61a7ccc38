"""What a run's data are, by content: so that a moved folder is the same and a changed one is not.

    now = identity(task, ("train", "validation"))      # split -> file -> digest; keep it with a run
    for line in changes(before, now): ...              # nothing, or what has changed

Cheap: of large files samples are read, of many files sizes and the content of some; `whole` reads
everything. Where files are and what they are called does not matter, their order by path does.
Generated tasks have no files: they are functions of their options.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from seqzoo.tasks.data.digest import content_digest
from seqzoo.tasks.data.folders import per_file, spread
from seqzoo.tasks.task import SPLITS, Task

ENTRIES = 64  # of a split: more files than that are digested in runs of several
SHOWN = 2  # names in a line about a split
READ = 256  # files of a split of which content is read
MOST = 128  # blocks of a split that are read, at most two of each file beyond

Identity = Mapping[str, Mapping[str, str]]


def identity(
    task: Task, splits: Sequence[str] = SPLITS, *, whole: bool = False
) -> dict[str, dict[str, str]]:
    """Split -> file, or run of files -> digest. Empty where the task reads no files.

    Raises FileNotFoundError where data is missing, as the task's source does.
    """
    found = {split: _digests(tuple(task.data_files(split)), whole) for split in splits}
    return {split: digests for split, digests in found.items() if digests}


def changes(before: Identity, now: Identity) -> list[str]:
    """What differs between two identities, a line each; empty where the data are the same."""
    lines = []
    for split in before.keys() | now.keys():
        old, new = before.get(split, {}), now.get(split, {})
        if list(old.values()) == list(new.values()):  # whatever the files are called
            continue
        for name in dict.fromkeys([*old, *new]):
            if name not in new:
                lines.append(f"{split}: {name} is gone")
            elif name not in old:
                lines.append(f"{split}: {name} is new")
            elif old[name] != new[name]:
                lines.append(f"{split}: {name} has another content")
    return sorted(lines)


def in_short(found: Identity) -> dict[str, str]:
    """Split -> its number of files and one digest of them, whatever they are called."""
    short = {}
    for split, digests in found.items():
        total = hashlib.blake2b("\n".join(digests.values()).encode(), digest_size=8)
        short[split] = f"{total.hexdigest()} ({', '.join(spread([*digests], SHOWN))})"
    return short


@per_file
def _digests(files: tuple[Path, ...], whole: bool) -> dict[str, str]:
    if not files:
        return {}
    above = os.path.commonpath([path.parent.absolute() for path in files])
    names = [path.absolute().relative_to(above).as_posix() for path in files]
    read = set(files) if whole else set(spread(files, READ))
    samples = max(2, MOST // len(files))
    ends = spread(range(1, len(files) + 1), ENTRIES)
    digests = {}
    for begin, end in zip([0, *ends], ends, strict=False):
        total = hashlib.blake2b(digest_size=8)
        for path in files[begin:end]:
            total.update(str(path.stat().st_size).encode())
            if path in read:
                total.update(content_digest(path, samples=samples, whole=whole).encode())
        last = f" to {names[end - 1]}" if end - begin > 1 else ""
        digests[names[begin] + last] = total.hexdigest()
    return digests
