"""The rows of each split and what was found in them, opened and read once for a task's options."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path

from seqzoo.tasks.data.cache_folder import text_entry
from seqzoo.tasks.data.folders import files_key
from seqzoo.tasks.rows.columns import Series, all_rows, columns
from seqzoo.tasks.rows.facts import Facts, Options, find_facts
from seqzoo.tasks.rows.splits import Part, by_column, completed, files_of
from seqzoo.tasks.rows.tables import open_table

VERSION = 1  # of what is found


@functools.lru_cache(maxsize=8)
def given(task: Options) -> dict[str, Part]:
    """The splits that the data have."""
    files = files_of(task.data)
    tables = {split: open_table(own) for split, own in files.items()}
    if task.split:
        if len(files) > 1:
            raise ValueError(
                f"{task.data} has files of its own for {', '.join(files)}; leave out --data.split"
            )
        if task.series:
            return by_column(Series(tables["train"], task.series), task.split)
        return by_column(tables["train"], task.split)
    if task.series:
        tables = {split: Series(table, task.series) for split, table in tables.items()}
    return {split: Part(table, all_rows(table)) for split, table in tables.items()}


@functools.lru_cache(maxsize=8)
def parts(task: Options) -> dict[str, Part]:
    """The rows of each split, columns checked."""
    own = given(task)
    for part in own.values():
        names = columns(part.table, task.inputs)
        if task.kind == "pairs" and len(names) != 2:
            raise ValueError(f"task rows: pairs need two columns of inputs; got {', '.join(names)}")
        for name in filter(None, (task.target, task.lengths)):
            part.table.check(name)
        if task.target in names:
            raise ValueError(f"task rows: the target {task.target!r} is among the inputs")
    shares = {"validation": task.validation_share, "test": task.test_share}
    return completed(own, shares, task.group)


@functools.lru_cache(maxsize=8)
def facts_of(task: Options) -> Facts:
    """What is in the rows, which are all read once."""
    files = [path for several in files_of(task.data).values() for path in several]
    if task.tokens.endswith(".json"):
        files.append(Path(task.tokens))
    options = dataclasses.asdict(task) | {"data": "", "length": 0}
    key = repr((files_key("rows", "facts", files, reader=VERSION), sorted(options.items())))
    name = f"rows-facts-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    return text_entry(name, lambda: find_facts(task, parts(task)).to_json(), Facts.from_json)
