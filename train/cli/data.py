"""`seqzoo data`: what there is, getting it ready, checking it, looking at it.

seqzoo data list
seqzoo data prepare --task pathfinder_generated --workers 8
seqzoo data verify --task image --data.data ~/cifar
seqzoo data show --task listops --split test --count 2
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track

from seqzoo import tasks
from seqzoo.models.errors import unknown
from seqzoo.tasks.data import cache_folder
from seqzoo.tasks.describe import Description, check_example, described
from seqzoo.tasks.task import SPLITS, Source, Task
from seqzoo.train.cli.experiment import named_task
from seqzoo.train.cli.flags import bare_field, parse, read

ACTIONS = ("list", "prepare", "verify", "show")
USAGE = f"usage: seqzoo data {' | '.join(ACTIONS)} [--task TASK] [options]"
MANY = 2000  # examples from which a bar is shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Whose data."""

    task: str = ""  # see seqzoo data list


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions(VerifyOptions):
    """What to make."""

    seed: int = 0  # of the examples to train on
    workers: int = 0  # processes that make them; 0: as many as there are processors


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowOptions(VerifyOptions):
    """What to show."""

    split: str = "train"  # train, validation or test
    count: int = 3  # examples
    seed: int = 0  # of the examples to train on


def main(argv: Sequence[str]) -> int:
    """`seqzoo data ACTION --task TASK`."""
    calls: tuple[Callable[[Sequence[str]], None], ...] = (_list, _prepare, _verify, _show)
    actions = dict(zip(ACTIONS, calls, strict=True))
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in actions:
        raise unknown("action of seqzoo data", argv[0], actions)
    actions[argv[0]](argv[1:])
    return 0


def _list(argv: Sequence[str]) -> None:
    """Every task: what its examples are read from, and the sets of it in the cache."""
    parse(dataclasses.make_dataclass("List", []), read(argv), "seqzoo data list")
    width = max(map(len, tasks.names())) + 2
    for name, kind in tasks.TASKS.items():
        print(f"{name:{width}}{kind.needs}: {kind.description}")
    folder = cache_folder.folder()
    kept = sorted(path for path in folder.glob("*-*") if path.is_dir()) if folder.is_dir() else []
    print(f"\nkept in {folder}" + ("" if kept else ": nothing"))
    for path in kept:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"  {path.name}  {size / 1e6:.1f} MB")


def _prepare(argv: Sequence[str]) -> None:
    """Makes or reads every split once; what was interrupted continues."""
    task, parsed = _parsed(argv, "prepare", PrepareOptions)
    cache_folder.check_writable()
    for split in SPLITS:
        source = task.prepare(split, parsed.seed, workers=parsed.workers or None)
        print(f"{task.name} {split}: {len(source):,} examples")
    print(f"kept in {cache_folder.folder()}")


def _verify(argv: Sequence[str]) -> None:
    """Reads every example; files that are not as published are named."""
    task, _ = _parsed(argv, "verify", VerifyOptions)
    for split in SPLITS:
        with cache_folder.thorough():
            print(f"{task.name} {split}: {_words(checked(task, split))}")
    print("baselines of the test split: " + _baselines(task))


def _show(argv: Sequence[str]) -> None:
    """A few examples for human eyes."""
    task, parsed = _parsed(argv, "show", ShowOptions)
    if parsed.split not in SPLITS:
        raise unknown("value of --split", parsed.split, SPLITS)
    if parsed.count < 1:
        raise ValueError(f"--count must be at least 1; got {parsed.count}")
    source = task.source(parsed.split, parsed.seed)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in task.facts:
        console.print(line)
    if task.facts:
        console.print(f"baselines ({task.main_metric}, test): {_baselines(task)}")
    for i in range(min(parsed.count, len(source))):
        console.print(f"-- {task.name} {parsed.split} {i}")
        console.print(task.decode(source[i]))


def checked(task: Task, split: str) -> Description:
    """Statistics of a split, every example of it read and checked.

    Raises ValueError naming the example that no model of the task could be given.
    """
    source = task.source(split)
    return described(task, len(source), _checked(task, source, split))


def _checked(task: Task, source: Source, split: str):
    title = f"reading {task.name} {split}"
    for i in track(range(len(source)), title, disable=len(source) < MANY):
        example = source[i]
        try:
            check_example(task, example)
        except ValueError as error:
            raise ValueError(f"task {task.name}, {split} example {i}: {error}") from error
        yield example


def _words(found: Description) -> str:
    return f"{found.size:,} examples; length {found.length}; {found.balance}"


def _baselines(task: Task) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in task.baselines("test").items())


def _parsed(argv: Sequence[str], action: str, own: type) -> tuple[Task, Any]:
    """The task of the flags, and the action's own options."""
    line = read(argv)
    kind = tasks.kind(named_task(line, "listops"))
    fields = [bare_field("own", own), ("data", kind, dataclasses.field(default_factory=kind))]
    flags = dataclasses.make_dataclass(action.capitalize(), fields, kw_only=True)
    parsed = parse(flags, line, f"seqzoo data {action}", "--data.* are the options of the task.")
    return parsed.data, parsed.own
