"""The page of a task: what it asks, an example, numbers, the rules that it is measured by."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import sys
import textwrap
import tomllib
from collections.abc import Callable
from typing import Any

from pages.fields import options
from pages.tables import DOCS, cells, markdown, names, rows_of
from seqzoo.tasks import TASKS, Task
from seqzoo.tasks.protocols import PROTOCOLS, ProtocolTask
from seqzoo.train import published

NEEDS = {  # where there is no example to show, by `Task.needs`
    "nothing": "`python docs/samples.py --names {0}` puts one here.",
    "package": "It needs a package that brings data; then `seqzoo data show --task {0}` shows one.",
    "download": "It needs a download; then `seqzoo data show --task {0}` shows one.",
    "files": "It needs files of yours; `seqzoo data show --task {0}` shows one.",
}


def pages() -> dict[str, Callable[[], str]]:
    """Address -> what makes the text of each task's page."""
    return {f"tasks/{name}.md": functools.partial(page, name, TASKS[name]) for name in TASKS}


def page(name: str, kind: type[Task]) -> str:
    """The page of one task."""
    kept = _samples().get(name, {})
    parts = [
        f"# {name}",
        f"{kind.description[0].upper()}{kind.description[1:]}.",
        "\n".join(f"- {line}" for line in _facts(kind())),
        f"```text\nseqzoo train --task {name} --model lru --steps 500 --out runs/{name}\n"
        f"seqzoo data show --task {name}\n```",
        "## Definition",
        inspect.getdoc(kind) or "",
        f"From `{_code(kind)}`:\n\n{_quoted(inspect.getdoc(sys.modules[kind.__module__]) or '')}",
        "## An example",
        f"```text\n{kept['example']}\n```" if kept else NEEDS[kind.needs].format(name),
        *_statistics(kept),
        "## Baselines",
        _baselines(name, kept),
        "## Protocol",
        _protocol(kind()),
        *_published(name),
        "## Options",
        markdown(["`--data.` option", "default", "what"], options(kind, flags=True)),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(task: Task) -> list[str]:
    better = "" if task.higher_is_better else " (lower is better)"
    facts = [f"Source: {task.cite}", f"Main metric: `{task.main_metric}`{better}"]
    if task.solved_at is not None:
        facts.append(f"A seed counts as having solved it from {task.solved_at:.0%} on")
    return facts


def _quoted(text: str) -> str:
    """Prose in a box; what it has indented stays so."""
    return '!!! quote ""\n\n' + textwrap.indent(text, "    ")


@functools.cache
def _samples() -> dict[str, Any]:
    return json.loads((DOCS / "samples.json").read_text())


def _statistics(kept: dict[str, Any]) -> list[str]:
    if not kept:
        return []
    rows = [
        [split, f"{own['examples']:,}", own["length"], own["classes"]]
        for split, own in kept["splits"].items()
    ]
    shown = markdown(["split", "examples", "length", "classes"], rows)
    return ["## Statistics", f"Lengths and classes of the first 200 of each split.\n\n{shown}"]


def _baselines(name: str, kept: dict[str, Any]) -> str:
    """Numbers where they are kept, else the rules as docs/tasks.md names them."""
    if "baselines" in kept:
        rows = [[rule, f"{value:g}"] for rule, value in kept["baselines"].items()]
        return "What trivial rules reach on the test split, in the main metric:\n\n" + markdown(
            ["rule", "reaches"], rows
        )
    for line in (DOCS / "tasks.md").read_text().splitlines():
        if line.startswith("| `") and names(cells(line)[0], name):
            return f"Printed beside its results: {cells(line)[-1]}."
    raise ValueError(f"docs/tasks.md has no row of {name}; add one")


def _protocol(task: Task) -> str:
    """Which step is tested, what its numbers may be compared with, and its protocols."""
    notes: tuple[str, ...] = ()
    tested = {"last": "the last step", "best": "each seed's best step on validation"}
    with contextlib.suppress(FileNotFoundError):  # notes of what files hold
        notes = task.notes
    lines = [f"Tested is {tested[task.selection]}.", *notes]
    if not isinstance(task, ProtocolTask):
        return "\n\n".join(lines)
    rows = []
    for name, protocol in PROTOCOLS.items():
        settled = ", ".join(f"{k} {v}" for k, v in getattr(protocol, task.family).items())
        rows.append([f"`{name}`", settled, protocol.selects, protocol.source])
    named = markdown(["`--data.protocol`", "settles", "tests", "source"], rows)
    return "\n\n".join([*lines, "Numbers of two protocols do not belong in one table:", named])


def _published(name: str) -> list[str]:
    """Published sizes, results, and configurations to train it with."""
    parts = _results(name)
    for table in rows_of(name, ("tasks.md",)):
        if "published sizes" in table.header:
            parts.append(markdown(table.header[1:], [table.rows[0][1:]]))
    rows = [
        [f"`{own}`", found.source, found.differs or "–"]
        for own in published.names()
        if (found := published.published(own)).task == name
    ]
    if rows:
        parts.append(
            f"Configurations of papers, as `seqzoo train --published {rows[0][0].strip('`')}` "
            "takes them; none was run to the end here.\n\n"
            + markdown(["configuration", "source", "what it cannot express"], rows)
        )
    return ["## Published", *parts] if parts else []


@functools.cache
def _reported() -> dict[str, Any]:
    found = tomllib.loads((DOCS / "published.toml").read_text())
    unknown = {name for table in found.values() for name in table["tasks"]} - {*TASKS}
    if unknown:
        raise ValueError(f"docs/published.toml names no tasks: {', '.join(sorted(unknown))}")
    return found


def _results(name: str) -> list[str]:
    """What papers report, or the page that has it."""
    if name in ("uea", "ppg_dalia"):
        return ["What papers report is [among the series](../series.md#published-numbers)."]
    for table in _reported().values():
        if name not in table["tasks"]:
            continue
        place, source, rows = 2 + table["tasks"].index(name), "", []
        for row in table["rows"]:
            source = source if row[1] == "the same" else row[1]
            if row[place] != "-":
                rows.append([row[0], source, str(row[place])])
        chance = " x: not above chance." if any(row[2] == "x" for row in rows) else ""
        says = f"{table['says']}{chance} None was repeated here."
        return [says, markdown(["model", "source", "reported"], rows)]
    return []


def _code(kind: type[Task]) -> str:
    return kind.__module__.removeprefix("seqzoo.").replace(".", "/") + ".py"
