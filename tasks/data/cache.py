"""Sets of examples kept on disk, as Arrow through Hugging Face `datasets`.

A set is named by a key, a flat dict of everything that it is a function of, and lives in a folder
`<task>-<split>-<digest of the key>` of the cache (see `cache_folder`), readable by
`datasets.load_from_disk`. It is whole or absent, whoever is killed and however many write it at
once.

Large sets are made in parts, files of a hidden folder `.<name>.parts` that are whole or absent
too: who makes the set again after an interruption continues with the parts that are missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from rich.progress import track

from seqzoo.tasks.data.atomic import write_file
from seqzoo.tasks.data.cache_folder import check, damaged, entry, new_entry

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, np.ndarray]  # arrays of one axis, or scalars
Key = Mapping[str, str | int | float | bool | None]

CHUNK = 512  # rows made at a time
LARGE = 20_000  # rows from which more than one process is worth its start


class Rows(Protocol):
    """What can be cached: random access to rows with the same columns; picklable.

    Rows that take long to make may say how many of them make a part: an attribute `chunk`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


def find(key: Key) -> CachedRows | None:
    """The set of a key, or None if it is not there. Raises ValueError if it is damaged."""
    path = entry(_name(key))
    return None if path is None else CachedRows(path)


def keep(key: Key, rows: Rows, *, workers: int | None = None, progress: bool = True) -> Rows:
    """The cached set of a key, made first if need be; `rows` itself where nothing can be written.

    `workers` processes make the rows, by default one for small sets and one a core for large ones.
    Where a set of several parts was interrupted, the parts that are there are not made again.
    """
    found = find(key)
    if found is not None:
        return found
    name, title = _name(key), f"{key['task']} {key['split']}"

    def fill(partial: Path) -> None:
        parts = partial.with_name(f".{name}.parts")
        _save(_chunks(rows, parts, workers, progress, title), partial, name)
        (partial / "key.json").write_text(json.dumps(dict(key), indent=1, sort_keys=True))

    path = new_entry(name, fill)
    if path is None:
        return rows
    shutil.rmtree(path.with_name(f".{name}.parts"), ignore_errors=True)
    return CachedRows(path)


def _name(key: Key) -> str:
    """The entry of a key, which has at least "task" and "split"."""
    text = json.dumps(dict(key), sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
    return f"{key['task']}-{key['split']}-{digest}"


# Making rows.


def _chunks(
    rows: Rows, parts: Path, workers: int | None, progress: bool, title: str
) -> list[pa.Table]:
    size = getattr(rows, "chunk", CHUNK)
    begins = range(0, len(rows), size)
    if len(begins) == 1:
        return [_table(rows, 0, size)]
    missing = [begin for begin in begins if _part(parts, begin, rows) is None]
    if workers is None:
        workers = _cores() if len(missing) * size >= LARGE or size < CHUNK else 1
    shown = progress and (len(rows) >= LARGE or size < CHUNK)
    with _mapper(min(workers, len(missing))) as mapped:
        made = mapped(_make_part, [rows] * len(missing), [parts] * len(missing), missing)
        for _ in _tracked(made, len(begins), len(begins) - len(missing), shown, title):
            pass
    return [_read_part(_part_of(parts, begin)) for begin in begins]


@contextlib.contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator]]:
    if workers <= 1:
        yield map
        return
    # Forking a process in which JAX runs threads can hang, so the workers are spawned.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _tracked(made: Iterator, total: int, done: int, shown: bool, title: str) -> Iterator:
    return track(
        made, description=f"making {title}", total=total, completed=done, disable=not shown
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _make_part(rows: Rows, parts: Path, begin: int) -> None:
    """Writes the part of the rows from `begin`: a file that is whole or absent."""
    import pyarrow as pa

    table = _table(rows, begin, getattr(rows, "chunk", CHUNK))
    made = pa.BufferOutputStream()
    with pa.ipc.new_file(made, table.schema) as writer:
        writer.write_table(table)
    write_file(_part_of(parts, begin), made.getvalue())


def _part_of(parts: Path, begin: int) -> Path:
    return parts / f"{begin}.arrow"


def _part(parts: Path, begin: int, rows: Rows) -> Path | None:
    """The file of a part, or None where it is not there, damaged or of another size."""
    import pyarrow as pa

    path = _part_of(parts, begin)
    expected = min(getattr(rows, "chunk", CHUNK), len(rows) - begin)
    try:
        return path if _read_part(path).num_rows == expected else None
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        return None


def _read_part(path: Path) -> pa.Table:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _table(rows: Rows, begin: int, size: int) -> pa.Table:
    import pyarrow as pa

    made = [rows[i] for i in range(begin, min(begin + size, len(rows)))]
    return pa.table({name: _arrow([row[name] for row in made]) for name in made[0]})


def _arrow(values: list[np.ndarray]) -> pa.Array:
    import pyarrow as pa

    if np.ndim(values[0]) == 0:
        return pa.array(np.array(values))
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))


# Arrow files.


def _save(chunks: list[pa.Table], path: Path, fingerprint: str) -> None:
    import datasets
    import pyarrow as pa

    table = datasets.table.InMemoryTable(pa.concat_tables(chunks))
    with _quiet(datasets):
        datasets.Dataset(table, fingerprint=fingerprint).save_to_disk(path)


@contextlib.contextmanager
def _quiet(datasets) -> Iterator[None]:
    """No bars of `datasets` inside: ours is the one that is shown."""
    was_shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_shown:
            datasets.enable_progress_bars()


class CachedRows:
    """A set on disk, mapped into memory: the arrays are read-only views of its file."""

    def __init__(self, path: Path):
        import datasets
        import pyarrow as pa

        self.path = path
        check(path)
        try:
            table = datasets.load_from_disk(str(path)).data.table
            self._columns = {name: _Column(table.column(name)) for name in table.column_names}
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise damaged(path, error) from error
        self._length = table.num_rows

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self._length:
            raise IndexError(f"example {index} of {self._length}")
        return {name: column[index] for name, column in self._columns.items()}

    def __reduce__(self):
        return CachedRows, (self.path,)


class _Column:
    """The chunks of an Arrow column as NumPy arrays."""

    def __init__(self, column: pa.ChunkedArray):
        import pyarrow as pa

        self._begins = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
        self._lists = pa.types.is_list(column.type)
        self._chunks = [
            (chunk.offsets.to_numpy(), chunk.values.to_numpy())
            if self._lists
            else (None, chunk.to_numpy())
            for chunk in column.chunks
        ]

    def __getitem__(self, index: int) -> np.ndarray:
        chunk = int(np.searchsorted(self._begins, index, side="right")) - 1
        offsets, values = self._chunks[chunk]
        at = index - self._begins[chunk]
        return values[offsets[at] : offsets[at + 1]] if self._lists else values[at]
