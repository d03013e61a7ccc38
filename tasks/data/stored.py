"""What tasks on published data share: their files' rows, counts, splits, and trivial baselines.

A data set has one or two parts, files of their own; a split is a part or a share of one. Parts are
read once, checked against the published counts, and kept in the cache. Where the original does not
store its split, ours is a fixed random one, the same for everybody and not the original's.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float, Int64

from seqzoo.tasks.data import cache
from seqzoo.tasks.data.folders import HUGGING_FACE, files_key, missing, per_file
from seqzoo.tasks.data.parquet import read_table
from seqzoo.tasks.data.streams import words
from seqzoo.tasks.task import (
    SPLITS,
    Example,
    Metrics,
    Needs,
    Source,
    Split,
    Task,
    check_count,
    measure_classes,
)

TRAIN, TEST = "train", "test"


@dataclasses.dataclass(frozen=True)
class Hub:
    """Where a data set is on the Hugging Face hub."""

    repository: str
    config: str | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of a part before they are cached, and the key that they have there."""

    key: cache.Key
    rows: Callable[[], cache.Rows]
    files: tuple[Path, ...] = ()  # that the rows are read from


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTask(Task):
    """Classification of published examples; the sizes are those that the files must hold."""

    needs: ClassVar[Needs] = "download"
    classes: ClassVar[tuple[str, ...]]
    fetch: ClassVar[str]  # what to fetch, how large, from where
    hub: ClassVar[Hub | None] = None
    # Examples of each class of a part as published; checked where the part has that many in all.
    balance: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    train_size: int = 1  # examples to train on
    validation_size: int = 1  # examples of the validation split
    test_size: int = 1  # examples of the test split
    data: str = ""  # folder of the files, or huggingface to download them with `datasets`

    def __post_init__(self) -> None:
        for split in SPLITS:
            check_count(self, f"{split}_size")

    @abc.abstractmethod
    def part(self, name: str) -> Part:
        """A part of the files. Raises FileNotFoundError, which says what to fetch."""

    @abc.abstractmethod
    def example(self, row: cache.Row) -> Example:
        """What a model is given of a row; `target` is its class."""

    def rows(self, name: str) -> cache.Rows:
        """A part, from the cache where it is there.

        Raises ValueError for files that are not as published, naming file and row.
        """
        part = self.part(name)
        found = cache.find(part.key)
        if found is not None:
            return found
        rows = part.rows()
        self.check_size(name, len(rows))
        kept = cache.keep(part.key, rows)
        if len(kept) == sum(self.balance.get(name, ())):
            self.check_balance(name, kept)
        return kept

    def data_files(self, split: Split) -> tuple[Path, ...]:
        """The files of the split's part."""
        return self.part(self.part_of(split)).files

    def part_of(self, split: Split) -> str:
        """The part that a split is in."""
        return TEST if split == "test" else TRAIN

    def split_rows(self, split: Split) -> Subset:
        """The rows of a split: a share of the first part, or the whole of the second."""
        rows = self.rows(self.part_of(split))
        whole = self.part_of(split) == split and (split != "train" or not self._shared)
        order = np.arange(len(rows)) if whole else self._order(len(rows))[self._share(split)]
        return Subset(rows, order)

    @property
    def _shared(self) -> bool:
        """Whether the validation split is cut from the training files."""
        return self.part_of("validation") == TRAIN

    def _share(self, split: Split) -> slice:
        size = self.validation_size
        return slice(size) if split == "validation" else slice(size, None)

    def _order(self, size: int) -> Int64[np.ndarray, "size"]:
        """Our own fixed order of a part, from which splits are cut."""
        return words(size, "split of", self._dataset).argsort(kind="stable")

    @property
    def _dataset(self) -> str:
        """Tasks on the same data set have the same splits."""
        return self.name

    def expected(self, name: str) -> tuple[int, str]:
        """How many examples a part must hold, and the options that say so."""
        if name == TRAIN and self._shared:
            return self.train_size + self.validation_size, "train_size + validation_size"
        return getattr(self, f"{name}_size"), f"{name}_size"

    def check_size(self, name: str, found: int) -> None:
        """Raises ValueError where a part has not the size that the options say."""
        expected, options = self.expected(name)
        if found != expected:
            which = "" if name == "all" else f"{name} "
            raise ValueError(
                f"task {self.name}: the {which}files in {self.data} hold {found} examples, but "
                f"{options} = {expected}: they are cut short or others (fetch them again), or set "
                "these options"
            )

    def check_balance(self, name: str, rows: cache.Rows) -> None:
        """Raises ValueError where the classes are not as frequent as published."""
        counts = class_counts(rows, len(self.classes))
        for label, found, expected in zip(self.classes, counts, self.balance[name], strict=True):
            if found != expected:
                raise ValueError(
                    f"task {self.name}: the {name} files in {self.data} have {found} examples of "
                    f"class {label!r}, not {expected}: they are not the published ones"
                )

    def _source(self, split: Split, seed: int) -> Source:
        return StoredSource(self, self.split_rows(split))

    def prepare(
        self, split: Split, seed: int = 0, *, progress: bool = True, workers: int | None = None
    ) -> Source:
        """The source of a split; parts that are not in the cache are read into it."""
        self.effective_seed(split, seed)
        name = self.part_of(split)
        part = self.part(name)
        if cache.find(part.key) is None:
            rows = part.rows()
            self.check_size(name, len(rows))
            cache.keep(part.key, rows, workers=workers, progress=progress)
        return self.source(split, seed)

    def measure(self, outputs: Float[Array, "B C"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy and accuracy."""
        return measure_classes(outputs, batch)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Accuracy of the commonest class."""
        counts = class_counts(self.split_rows(split), len(self.classes))
        return {"majority class": float(counts.max() / counts.sum())}

    def _table_part(self, name: str, convert: Callable, paths: Sequence[Path]) -> Part:
        """A part in Parquet files, or on the hub where the user asks for a download."""
        if self.data == HUGGING_FACE:
            key = {"task": self._dataset, "split": name, "hub": self.hub.repository, "reader": 1}
            return Part(key, lambda: TableRows(("hub", self.name, self.hub, name), convert))
        origin = ("parquet", self.name, tuple(paths), name)
        return self._files_part(name, paths, lambda: TableRows(origin, convert))

    def _files_part(self, name: str, files: Sequence[Path], rows: Callable) -> Part:
        return Part(files_key(self._dataset, name, files, reader=1), rows, tuple(files))


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some rows of a part, in an order."""

    rows: cache.Rows
    indices: Int64[np.ndarray, "size"]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> cache.Row:
        if not 0 <= index < len(self.indices):
            raise IndexError(f"example {index} of {len(self.indices)}")
        return self.rows[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class StoredSource:
    """One split of a stored task."""

    task: StoredTask
    rows: Subset

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.task.example(self.rows[index])


class TableRows:
    """Rows of Parquet files or of the hub; `convert` makes a row from the columns that it names.

    Raises ValueError, naming file and row, for what `convert` refuses.
    """

    def __init__(self, origin: tuple, convert: Callable[[Mapping[str, Any]], cache.Row]):
        self.origin, self.convert = origin, convert
        self._table = _table(origin[2] if origin[0] == "parquet" else (), origin)
        lacking = set(convert.columns) - set(self._table.column_names)
        if lacking:
            raise ValueError(
                f"{self._place()} has no column {', '.join(sorted(lacking))}; it has "
                f"{', '.join(self._table.column_names)}: fetch the original"
            )

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> cache.Row:
        values = {name: self._table.column(name)[index].as_py() for name in self.convert.columns}
        try:
            return self.convert(values)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self._place()}, row {index}: {error}") from error

    def __reduce__(self):
        return TableRows, (self.origin, self.convert)

    def _place(self) -> str:
        kind, _, where, part = self.origin
        return f"{where.repository} {part}" if kind == "hub" else ", ".join(map(str, where))


@per_file
def _table(files: tuple[Path, ...], origin: tuple) -> Any:
    """The Arrow table of files or of the hub. Raises ValueError for a damaged file."""
    kind, task, where, part = origin
    return _downloaded(task, where, part) if kind == "hub" else read_table(files)


def _downloaded(task: str, hub: Hub, part: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(hub.repository, hub.config, split=part).data.table
    except Exception as error:  # of many kinds, no network among them
        raise missing(
            task,
            f"the reach of this machine ({' '.join(str(error).split())[:200]})",
            f"the Parquet files of {hub.repository} from the Hugging Face hub",
        ) from error


def class_counts(rows: cache.Rows, classes: int) -> Int64[np.ndarray, "classes"]:
    """How many rows each class has."""
    targets = [int(rows[i]["target"]) for i in range(len(rows))]
    return np.bincount(targets, minlength=classes)


def check_class(label: Any, classes: int) -> np.uint8:
    """A class from 0. Raises ValueError for anything else."""
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < classes:
        raise ValueError(f"the label must be an integer from 0 to {classes - 1}; got {label!r}")
    return np.uint8(label)
