"""Some files as one table with random access, whatever its size: rows are kept in the cache.

What was read once lies there as an Arrow file, which is mapped and not loaded. NPZ archives hold
arrays whose first axis is the rows; they are loaded.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.models.errors import unknown
from seqzoo.tasks.data import cache_folder
from seqzoo.tasks.data.damage import reading
from seqzoo.tasks.data.folders import files_key, per_file
from seqzoo.tasks.rows.readers import Rows, read, row_name

VERSION = 1  # of what is kept
ARROW, STARTS = "rows.arrow", "starts.json"


class Table:
    """Rows of some files, in the order of these."""

    def __init__(self, files: Sequence[Path], columns: dict[str, Any], starts: Sequence[int]):
        self.files, self._columns, self._starts = tuple(files), columns, starts

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return self._starts[-1]

    def check(self, name: str) -> None:
        """Raises ValueError for a column that is not there."""
        if name not in self._columns:
            files = str(self.files[0]) + (" and others" if len(self.files) > 1 else "")
            raise unknown(f"column of {files}", name, self.names)

    def value(self, name: str, index: int) -> Any:
        """A Python value, or an array where it is a list of numbers. None: it is missing."""
        found = self._columns[name][index]
        return found if isinstance(found, np.ndarray | np.generic) else _value(found)

    def place(self, index: int) -> str:
        """File and row, for an error."""
        file = bisect.bisect_right(self._starts, index) - 1
        return row_name(self.files[file], index - self._starts[file])


def _value(scalar: Any) -> Any:
    """What an Arrow scalar holds."""
    import pyarrow as pa

    if isinstance(scalar, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        inner = scalar.values
        if inner is not None and pa.types.is_primitive(inner.type) and not inner.null_count:
            return inner.to_numpy(zero_copy_only=False)
    return scalar.as_py()


@per_file
def open_table(files: tuple[Path, ...]) -> Table:
    """The table of some files. Raises ValueError for what cannot be read, naming file and row."""
    archives = [path for path in files if path.suffix.lower() == ".npz"]
    if archives:
        if len(files) > 1:
            raise ValueError(f"{archives[0]}: give one .npz file for a split")
        return _archive(archives[0])
    name = f"rows-{files_key('rows', 'all', files, reader=VERSION)['files'][:24]}-v{VERSION}"
    kept = cache_folder.entry(name)
    if kept is None:
        kept = cache_folder.new_entry(name, lambda folder: _write(files, folder))
    if kept is None:  # no room: in memory
        return _table(files, *_in_memory(files))
    cache_folder.check(kept)
    import pyarrow as pa

    with reading(kept, "an Arrow file", None):
        table = pa.ipc.open_file(pa.memory_map(str(kept / ARROW))).read_all()
        starts = json.loads((kept / STARTS).read_text())
    return _table(files, table, starts)


def _table(files: Sequence[Path], table: Any, starts: Sequence[int]) -> Table:
    return Table(files, {name: table.column(name) for name in table.column_names}, starts)


def _write(files: Sequence[Path], folder: Path) -> None:
    import pyarrow as pa

    schema = _schema(files)
    starts = [0]
    with pa.OSFile(str(folder / ARROW), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
        for path in files:
            size = 0
            for rows in read(path):
                out.write_batch(_batch(rows, schema, path, size))
                size += len(next(iter(rows.values()), ()))
            starts.append(starts[-1] + size)
    (folder / STARTS).write_text(json.dumps(starts))


def _in_memory(files: Sequence[Path]) -> tuple[Any, list[int]]:
    import pyarrow as pa

    schema, batches, starts = _schema(files), [], [0]
    for path in files:
        size = 0
        for rows in read(path):
            batches.append(_batch(rows, schema, path, size))
            size += batches[-1].num_rows
        starts.append(starts[-1] + size)
    return pa.Table.from_batches(batches, schema), starts


def _schema(files: Sequence[Path]) -> Any:
    """What all rows of all files fit into; integers and numbers in one column are numbers."""
    import pyarrow as pa

    found = pa.schema([])
    for path in files:
        size = 0
        for rows in read(path):
            own = pa.schema([])
            for name, values in rows.items():
                own = own.append(pa.field(name, _array(values, None, path, size, name).type))
            try:
                found = pa.unify_schemas([found, own], promote_options="permissive")
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(
                    f"{row_name(path, size)} and the rows after it differ in type from those "
                    f"before: {error}"
                ) from error
            size += len(next(iter(rows.values()), ()))
    return found


def _batch(rows: Rows, schema: Any, path: Path, start: int) -> Any:
    import pyarrow as pa

    count = len(next(iter(rows.values()), ()))
    columns = [
        _array(rows.get(field.name, [None] * count), field.type, path, start, field.name)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _array(values: list, kind: Any, path: Path, start: int, name: str) -> Any:
    """An Arrow array. Raises ValueError for the first row that is of another type."""
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        good: list[Any] = []
        for i, value in enumerate(values):
            try:
                pa.array([*good[-1:], value], kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise ValueError(
                    f"{row_name(path, start + i)}: column {name!r} is of another type than in the "
                    f"rows before ({' '.join(str(error).split())[:150]})"
                ) from error
            good = good if value is None else [value]
        raise


@dataclasses.dataclass(frozen=True)
class _Column:
    """An array of an archive; indexing gives a row."""

    array: np.ndarray

    def __getitem__(self, index: int) -> Any:
        found = self.array[index]
        return str(found) if found.dtype.kind == "U" else np.asarray(found)


def _archive(path: Path) -> Table:
    kind = "a zip archive of NumPy arrays"
    with reading(path, kind, path), np.load(path, allow_pickle=False) as file:
        pickled = [name for name in file.files if _is_pickled(file, name)]
        arrays = {name: file[name] for name in file.files if name not in pickled}
    if pickled:
        raise ValueError(
            f"{path}: the array {pickled[0]!r} holds Python objects, which could be any program; "
            "save rows of different lengths as one padded array and an array of their lengths "
            "(--data.lengths)"
        )
    sizes = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(sizes.values())) != 1 or len(sizes) != len(arrays):
        raise ValueError(f"{path}: the first axis of every array is the rows; got {sizes}")
    return Table(
        (path,), {name: _Column(a) for name, a in arrays.items()}, [0, *sizes.values()][:2]
    )


def _is_pickled(file: Any, name: str) -> bool:
    try:
        file[name]
    except ValueError as error:
        return "pickle" in str(error)
    return False
