"""`seqzoo list`: architectures, configurations and tasks, one line each, or as JSON.

seqzoo list --kind mixers --causal --state constant
seqzoo list --needs download
seqzoo list recall --json
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from seqzoo import tasks
from seqzoo.models.foreign import address
from seqzoo.models.registry import MIXERS, PRESETS, mixer
from seqzoo.train.cli.flags import Given, parse, read
from seqzoo.train.published import PUBLISHED

Row = dict[str, Any]
TITLES = {
    "mixers": "mixers (--model NAME, or NAME,NAME,... for a pattern)",
    "presets": "presets (--model NAME)",
    "published": "published configurations (train --published NAME)",
    "tasks": "tasks (--task NAME); [download]: files to fetch first, which an error names",
}
OTHERS = "others: --model FILE.py:NAME or PACKAGE.MODULE:NAME, and so for --task; docs/extend.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListOptions:
    """What to list; filters of models leave out tasks, and the other way round."""

    kind: Literal["all", "mixers", "presets", "published", "tasks"] = "all"  # of what to list
    text: str = ""  # only what has these words in its line, in any case
    causal: bool = False  # only models that can be causal: these stream, and predict what comes
    both_ways: bool = False  # only models that look both ways without a second copy
    packs: bool = False  # only models that keep several documents of a row apart
    # only mixers whose state while streaming is of one size, a window, or grows with the length
    state: Literal["any", "constant", "window", "linear"] = "any"
    # only tasks that read nothing, a Python package, a download, or files of your own
    needs: Literal["any", "nothing", "package", "download", "files"] = "any"
    json: bool = False  # a list of objects


def main(argv: Sequence[str]) -> int:
    """`seqzoo list`."""
    about = "Models and tasks; seqzoo train --task TASK --model MODEL --help has their options."
    line = read(argv)
    if line.rest:  # `list recall` is what anyone would type
        text = Given("--text", (" ".join(line.rest),), False)
        line = line._replace(rest=(), given=(text, *line.given))
    options = parse(ListOptions, line, "seqzoo list [TEXT]", about)
    rows = [row for row in _rows() if _wanted(row, options)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max(map(len, (*MIXERS, *PRESETS, *tasks.names()))) + 2
    for kind, found in itertools.groupby(rows, lambda row: row["kind"]):
        print(TITLES[kind])
        for line in _families(found) if kind == "published" else found:
            needs = line.get("needs", "nothing")
            mark = f" [{needs}]" * (needs != "nothing" and kind == "tasks")
            print(f"  {line['name']:{width}}{line['about']}{mark}")
    if options == ListOptions():
        _brought(width)
        print(OTHERS)
    elif not rows:
        print("nothing is like that; seqzoo list has all")
    return 0


def _rows() -> Iterator[Row]:
    for name, kind in MIXERS.items():
        state = kind.state_growth if kind.causal_form else None
        row = {"kind": "mixers", "name": name, "about": _first_line(kind), "state": state}
        yield {**row, **_traits([name])}
    for name, preset in PRESETS.items():
        about = f"{', '.join(preset.pattern)}: {preset.source}"
        traits = _traits(preset.pattern)
        traits["causal"] &= preset.backbone.get("causal", True)
        yield {"kind": "presets", "name": name, "about": about, **traits}
    for name, own in PUBLISHED.items():
        needs = tasks.kind(own.task).needs
        row = {"kind": "published", "name": name, "about": own.source, "needs": needs}
        yield {**row, "model": own.model, "task": own.task}
    for name, kind in tasks.TASKS.items():
        row = {"kind": "tasks", "name": name, "about": kind.description, "needs": kind.needs}
        yield {**row, "cite": kind.cite}


def _traits(pattern: Sequence[str]) -> Row:
    """What a stack of these mixers can do."""
    kinds = [mixer(name) for name in pattern]
    return {
        "causal": all(kind.causal_form for kind in kinds),
        "both_ways": all(kind.looks_both_ways or not kind.causal_form for kind in kinds),
        "packs": all(kind.packing == "native" for kind in kinds),
    }


def _wanted(row: Row, options: ListOptions) -> bool:
    """Whether all filters that were given let a row pass."""
    if options.kind not in ("all", row["kind"]):
        return False
    for name in ("causal", "both_ways", "packs"):
        if getattr(options, name) and not row.get(name):
            return False
    for name in ("state", "needs"):
        if getattr(options, name) not in ("any", row.get(name)):
            return False
    return options.text.lower() in f"{row['name']} {row['about']}".lower()


def _families(rows: Iterator[Row]) -> Iterator[Row]:
    """One line for the configurations of a paper."""
    for family, members in itertools.groupby(rows, lambda row: row["name"].partition("/")[0]):
        found = list(members)
        named = ", ".join(row["name"].partition("/")[2] for row in found)
        yield {"name": f"{family}/", "about": f"{named}: {found[0]['about']}"}


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
