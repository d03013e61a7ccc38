"""`seqzoo list`: architectures and tasks, one line each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from seqzoo import tasks
from seqzoo.models.foreign import address
from seqzoo.models.registry import MIXERS, PRESETS
from seqzoo.train.cli.flags import parse, read
from seqzoo.train.published import PUBLISHED


def main(argv: Sequence[str]) -> int:
    """`seqzoo list`."""
    parse(dataclasses.make_dataclass("List", []), read(argv), "seqzoo list")
    width = max(map(len, (*MIXERS, *PRESETS, *tasks.names()))) + 2
    print("mixers (--model NAME, or NAME,NAME,... for a pattern)")
    for name, mixer in MIXERS.items():
        print(f"  {name:{width}}{_first_line(mixer)}")
    print("presets (--model NAME)")
    for name, preset in PRESETS.items():
        print(f"  {name:{width}}{', '.join(preset.pattern)}: {preset.source}")
    print("published configurations (train --published NAME)")
    for family, members in itertools.groupby(PUBLISHED, lambda name: name.partition("/")[0]):
        found = [name.partition("/")[2] for name in members]
        source = PUBLISHED[f"{family}/{found[0]}"].source
        print(f"  {family + '/':{width}}{', '.join(found)}: {source}")
    print("tasks (--task NAME)")
    for name, task in tasks.TASKS.items():
        print(f"  {name:{width}}{task.description}")
    _brought(width)
    print(
        "others: --model FILE.py:NAME or PACKAGE.MODULE:NAME, and so for --task; see docs/extend.md"
    )
    return 0


def _brought(width: int) -> None:
    """What installed packages bring; their code is not imported for it."""
    groups = {"mixers": (address.MIXER_GROUP, MIXERS), "tasks": (address.TASK_GROUP, tasks.TASKS)}
    for kind, (group, ours) in groups.items():
        found = address.entry_points(group)
        if found:
            print(f"{kind} of installed packages")
        for name, where in found.items():
            hidden = f", hidden by ours: name it {where}" if name in ours else ""
            print(f"  {name:{width}}{where}{hidden}")


def _first_line(kind: type) -> str:
    line = (kind.__doc__ or "").strip().partition("\n")[0]
    return line.removesuffix("; see the module docstring.").removesuffix(".")
