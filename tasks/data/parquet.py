"""Parquet files, as the Hugging Face hub has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqzoo.tasks.data.damage import DamagedError, reading
from seqzoo.tasks.data.folders import files_below

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "a Parquet file"
CHECKED = {"page_checksum_verification": True}  # of the pages that have one


def split_files(root: Path, split: str, folders: Sequence[str] = ("**",)) -> list[Path]:
    """The Parquet files of one split in the first of `folders` below `root` that has any."""
    for folder in folders:
        names = f"{split}.parquet", f"{split}-*.parquet", f"{split}/*.parquet"
        if found := files_below(root, *(f"{folder}/{name}" for name in names)):
            return found
    return []


def read_table(files: Sequence[Path]) -> pa.Table:
    """All rows of some files. Raises ValueError for a damaged one; their checksums are checked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in files:
        with reading(path, KIND, path):
            tables.append(pq.read_table(path, **CHECKED))
    return pa.concat_tables(tables, promote_options="permissive")


def column_bytes(files: Sequence[Path], column: str) -> Iterator[bytes]:
    """The values of a text column as UTF-8, row by row, through all files.

    Raises ValueError for a file that is damaged or lacks the column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in files:
        with reading(path, KIND, path), pq.ParquetFile(path, **CHECKED) as file:
            names = file.schema_arrow.names
            if column not in names:
                held = ", ".join(names)
                raise DamagedError(
                    f"{path} has no column {column!r}; it has {held}: fetch the original"
                )
            for batch in file.iter_batches(columns=[column], batch_size=256):
                for value in batch.column(0).cast(pa.large_binary()):
                    yield value.as_py() or b""
