"""Rows of the files that people have, a piece at a time: CSV, JSON lines, Parquet, Arrow.

    for rows in read(path): ...             # dictionaries of Python values, some thousand at once

An error names the file and the row: a line of text files, else a number from 0. A column of a text
file is of integers where every cell is one, else of numbers, else of text; empty cells are None.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqzoo.tasks.data.damage import HEAD, TEXT, DamagedError, check_kind, reading

PIECE = 4096  # rows at once
SEPARATORS = {".csv": ",", ".tsv": "\t"}
TEXTS = (*SEPARATORS, ".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow", ".feather")
SUFFIXES = (*TEXTS, *TABLES, ".npz")
CELL = 1 << 27  # characters of the longest cell

Rows = dict[str, list[Any]]  # column -> values


def read(path: Path) -> Iterator[Rows]:
    """All rows of a file. Raises ValueError for a damaged one, naming the row."""
    suffix = path.suffix.lower()
    if suffix in TEXTS:
        with path.open("rb") as file:
            check_kind(path, TEXT, file.read(HEAD))
        yield from _csv(path, SEPARATORS[suffix]) if suffix in SEPARATORS else _lines(path)
    else:
        yield from _arrow(path)


def first_row(path: Path) -> int:
    """The number by which an error names the first row of a file."""
    suffix = path.suffix.lower()
    return 2 if suffix in SEPARATORS else 1 if suffix in TEXTS else 0


def row_name(path: Path, index: int) -> str:
    """A row of a file for an error, counted from 0."""
    suffix = path.suffix.lower()
    word = "line" if suffix in (".jsonl", ".ndjson") else "row"
    return f"{path}, {word} {index + first_row(path)}"


def _csv(path: Path, separator: str) -> Iterator[Rows]:
    csv.field_size_limit(CELL)
    kinds = [int] * len(_header(path, separator))
    for _, cells in _records(path, separator):  # what a column holds is known at its end alone
        for i, cell in enumerate(cells):
            while cell and kinds[i] is not str and not _is(kinds[i], cell):
                kinds[i] = float if kinds[i] is int else str
    names = _header(path, separator)
    rows: Rows = {name: [] for name in names}
    for number, (_, cells) in enumerate(_records(path, separator), 1):
        for name, kind, cell in zip(names, kinds, cells, strict=True):
            rows[name].append(None if cell == "" and kind is not str else kind(cell))
        if number % PIECE == 0:
            yield rows
            rows = {name: [] for name in names}
    yield rows


def _is(kind: type, cell: str) -> bool:
    try:
        kind(cell)
    except ValueError:
        return False
    return "_" not in cell


def _header(path: Path, separator: str) -> list[str]:
    with reading(path, TEXT, path), path.open(encoding="utf-8-sig", newline="") as file:
        names = [name.strip() for name in next(csv.reader(file, delimiter=separator), [])]
    twice = [name for name in names if names.count(name) > 1]
    if twice or "" in names or not names:
        what = f"the column {twice[0]!r} twice" if twice else "a column without a name"
        raise DamagedError(f"{path}: its first line should name the columns; it has {what}")
    return names


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    width = len(_header(path, separator))
    with reading(path, TEXT, path), path.open(encoding="utf-8-sig", newline="") as file:
        records = csv.reader(file, delimiter=separator, strict=True)
        next(records)
        index = 0
        while True:
            try:
                cells = next(records, None)
            except csv.Error as error:
                raise DamagedError(f"{row_name(path, index)}: {error}") from error
            if cells is None:
                return
            if len(cells) != width:
                if not cells:  # a blank line
                    continue
                raise DamagedError(
                    f"{row_name(path, index)} has {len(cells)} cells and the header {width}; mend "
                    "that row"
                )
            yield index, cells
            index += 1


def _lines(path: Path) -> Iterator[Rows]:
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for index, line in enumerate(file):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise DamagedError(f"{row_name(path, index)} is not JSON: {error}") from None
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise DamagedError(f"{row_name(path, index)} is a {kind}; a row is an object")
            rows.append(row)
            if len(rows) == PIECE:
                yield _columns(rows)
                rows = []
    yield _columns(rows)


def _columns(rows: list[dict[str, Any]]) -> Rows:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _arrow(path: Path) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, f"{'an' if path.suffix != '.parquet' else 'a'} {_KIND[path.suffix]}", path):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=PIECE):
                    yield batch.to_pydict()
            return
        with pa.memory_map(str(path)) as source:
            try:
                opened = pa.ipc.open_file(source)
                batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
            except pa.ArrowInvalid:  # as `datasets` writes them
                source.seek(0)
                batches = iter(pa.ipc.open_stream(source))
            for batch in batches:
                yield batch.to_pydict()


_KIND = {".parquet": "Parquet file", ".arrow": "Arrow file", ".feather": "Arrow file"}
