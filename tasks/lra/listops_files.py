"""The official files of Long Range Arena's ListOps."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from rich.progress import track

from seqzoo.tasks.data import cache
from seqzoo.tasks.data.damage import MEND, check_kind, head_of
from seqzoo.tasks.lra.archive import find_file
from seqzoo.tasks.lra.expressions import evaluate_tokens, expression_to_tokens
from seqzoo.tasks.protocols import ProtocolTask
from seqzoo.tasks.task import Split

LONGEST = 1999  # tokens; officially 500 < length < 2000
FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}


def official_file(task: ProtocolTask, split: Split) -> Path:
    """The file of a split. Raises FileNotFoundError, which says what to fetch."""
    return find_file(task.data, task.name, "listops-1000", FILES[split], "about 0.7 GB")


def official_rows(task: ProtocolTask, split: Split) -> cache.Rows:
    """The expressions of a split, kept in the cache. Raises ValueError for another number."""
    path = official_file(task, split)
    stat = path.stat()
    key = {
        "task": task.name,
        "split": split,
        "file": str(path.resolve()),
        "bytes": stat.st_size,
        "modified": stat.st_mtime_ns,
        "reader": 1,
    }
    found = cache.find(key)
    rows = read_tsv(path) if found is None else found
    size = getattr(task, f"{split}_size")
    if len(rows) != size:
        raise ValueError(
            f"{path} holds {len(rows)} expressions, but {split}_size={size} are expected: the file "
            "is cut short or another one, or set that option"
        )
    return cache.keep(key, rows) if found is None else found


def read_tsv(path: Path) -> list[cache.Row]:
    """The expressions of an official file, each evaluated and compared with its target.

    Raises ValueError, which names file and line, for a malformed line or a wrong target.
    """
    check_kind(path, "a table of expressions", head_of(path))
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines, number = csv.reader(file, delimiter="\t"), 1
        try:
            header = next(lines, None)
            if header != ["Source", "Target"]:
                raise ValueError(f"the header must be Source<TAB>Target; got {header}")
            large, rows, blank = path.stat().st_size > 50e6, [], []
            for line in track(lines, f"reading {path.name}", total=None, disable=not large):
                if not any(line):  # allowed at the end alone
                    blank.append(lines.line_num)
                    continue
                number = blank[0] if blank else lines.line_num
                rows.append(_parse([] if blank else line))
        except (ValueError, csv.Error) as error:  # a UnicodeDecodeError is a ValueError
            raise ValueError(f"{path}, line {number}: {error}; {MEND}") from error
    return rows


def _parse(line: list[str]) -> cache.Row:
    if len(line) != 2:
        raise ValueError(f"expected 2 columns separated by a tab; got {len(line)}")
    expression, target = line
    if target not in tuple("0123456789"):
        raise ValueError(f"the target must be an integer from 0 to 9; got {target!r}")
    tokens = expression_to_tokens(expression)
    value = evaluate_tokens(tokens)
    if len(tokens) > LONGEST:
        raise ValueError(f"{len(tokens)} tokens; official expressions have at most {LONGEST}")
    if value != int(target):
        raise ValueError(f"the target is {target}, but the expression is worth {value}")
    return {"tokens": tokens, "target": np.uint8(value)}
