"""`uea`: classification of a series of the UCR and UEA archives, by the name of the data set.

Protocol `uea` is that of Log-NCDE (Walker et al. 2024) and of what followed it, LinOSS among them:
training and test rows are joined, repeated rows left out, and 70, 15 and 15% drawn by the seeds
2345, 3456, 4567, 5678 and 6789, here bit for bit as there; values as they are; the model of the
best validation is tested. A mean of theirs is over five splits, so it takes five runs, one for
each `split_seed`. Protocol `archive` keeps the archives' own test rows, cuts the validation rows
from the training rows and standardises each channel by what is left of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Array, Float, Float32, Int64

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.folders import per_file
from seqzoo.tasks.data.streams import words
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.series import archive, permutation
from seqzoo.tasks.task import (
    Example,
    Metrics,
    Needs,
    Selection,
    Source,
    Split,
    Task,
    measure_classes,
)

SEEDS = (2345, 3456, 4567, 5678, 6789)
HELD_OUT = 0.15  # of the training rows, for validation where the archive has none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uea(Task):
    """One data set; rows of unequal lengths are padded, and missing values carried forward."""

    name: ClassVar[str] = "uea"
    description: ClassVar[str] = "class of a series of the UCR and UEA archives, by the set's name"
    cite: ClassVar[str] = "Bagnall et al. 2018, arXiv 1811.00075; Walker et al. 2024, 2402.18512"
    needs: ClassVar[Needs] = "package"  # or files

    dataset: str = "BasicMotions"  # EigenWorms, Heartbeat, ... as the files are called
    protocol: Literal["uea", "archive"] = "uea"  # five joint splits, or the archive's test rows
    split_seed: int = SEEDS[0]  # of protocol uea: 2345, 3456, 4567, 5678 or 6789
    time: Literal["auto", "none", "channel"] = "auto"  # as the first input; auto: where files say
    missing: Literal["carry", "flag"] = "carry"  # flag: as more channels, 1 where a value is there
    normalise: Literal["none", "channel"] | None = None  # None: none for uea, else by channel
    keep: float = 1.0  # share of each row's steps that are kept, drawn: irregular times
    data: str = ""  # folder of the files; empty: of the package aeon or sktime

    def __post_init__(self) -> None:
        for field, valid in (
            ("protocol", ("uea", "archive")),
            ("time", ("auto", "none", "channel")),
            ("missing", ("carry", "flag")),
            ("normalise", (None, "none", "channel")),
        ):
            if getattr(self, field) not in valid:
                shown = ", ".join(map(str, valid))
                raise ValueError(
                    f"task uea: {field} must be one of {shown}; got {getattr(self, field)!r}"
                )
        if not self.dataset or "/" in self.dataset or "\\" in self.dataset:
            raise ValueError(f"task uea: dataset is a name, as Heartbeat; got {self.dataset!r}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"task uea: keep is a share, more than 0 and at most 1: {self.keep}")
        if self.protocol == "uea":
            self._check_published()

    def _check_published(self) -> None:
        if self.split_seed not in SEEDS:
            raise ValueError(f"task uea: split_seed must be one of {SEEDS}; got {self.split_seed}")
        if self.normalise == "channel" or self.keep < 1:
            raise ValueError(
                "task uea: protocol uea takes values as they are and all steps; with "
                "protocol='archive' normalise and keep may be chosen"
            )

    @property
    def selection(self) -> Selection:
        """Of both protocols: best validation."""
        return "best"

    @property
    def archive(self) -> archive.Archive:
        """The data set. Raises FileNotFoundError, and ValueError for another version of it."""
        return archive.read(self.data_files("train"), self.dataset)

    def data_files(self, split: Split) -> tuple[Path, ...]:
        """Both files, of which every split has some."""
        return archive.files_of(self.name, self.dataset, self.data)

    @property
    def timed(self) -> bool:
        """Whether time is an input; no set of `archive.SIZES` has times of its own."""
        known = self.dataset in archive.SIZES
        return self.time == "channel" or (
            self.time == "auto" and not known and self.archive.stamped
        )

    @property
    def standardised(self) -> bool:
        """Whether channels are divided by their spread."""
        own = "channel" if self.protocol == "archive" else "none"
        return (self.normalise or own) == "channel"

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Steps, channels and classes; those of a known set need no files, as plans have none."""
        if size := archive.SIZES.get(self.dataset):
            return size[2:]
        found = self.archive
        return int(found.lengths.max()), found.channels, len(found.classes)

    @property
    def steps(self) -> int:
        """Steps of a row, with padding."""
        return _kept(self._sizes[0], self.keep)

    @property
    def spec(self) -> ModelSpec:
        """A class from channels, of time and of flags among them."""
        _, channels, classes = self._sizes
        features = self.timed + channels + channels * (self.missing == "flag")
        return ModelSpec(head="classify", features=features, outputs=classes, length=self.steps)

    @property
    def notes(self) -> tuple[str, ...]:
        """The protocol."""
        if self.protocol == "archive":
            cut = f"{HELD_OUT:.0%} of its training rows are for validation"
            return (f"Protocol: archive; the archive's own test rows, and {cut}.",)
        return (
            f"Protocol: uea (Walker et al. 2024, arXiv 2402.18512), split {self.split_seed} of "
            f"{', '.join(map(str, SEEDS))}; a published mean is over all five splits.",
        )

    @property
    def facts(self) -> tuple[str, ...]:
        """Lines of what was found, for `seqzoo data show`."""
        found = self.archive
        shortest, longest = int(found.lengths.min()), int(found.lengths.max())
        return (
            f"{self.dataset}: {len(found)} rows, {found.channels} channels, "
            f"{shortest} to {longest} steps{', with times' if found.stamped else ''}"
            f"{', values missing' if found.lacking else ''}",
            f"classes: {', '.join(found.classes)}",
            *self.notes,
        )

    def rows_of(self, split: Split) -> Int64[np.ndarray, "rows"]:
        """The rows of a split, by their places in the archive."""
        if self.protocol == "uea":
            return joint_split(self.data_files(split), self.dataset, self.split_seed)[split]
        found = self.archive
        if found.pooled:
            raise ValueError(
                "task uea: these arrays hold training and test rows in one, so the archive's "
                "split is not known; use protocol uea, or the .ts files"
            )
        if split == "test":
            return np.arange(found.train, len(found))
        order = words(found.train, "split of", self.dataset).argsort(kind="stable")
        cut = max(1, round(HELD_OUT * found.train))
        return order[:cut] if split == "validation" else order[cut:]

    def _source(self, split: Split, seed: int) -> Source:
        return SeriesSource(self, split)

    def measure(self, outputs: Float[Array, "B C"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy and accuracy."""
        return measure_classes(outputs, batch)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Accuracy of the commonest class."""
        self.effective_seed(split, seed)
        counts = np.bincount(self.archive.targets[self.rows_of(split)])
        return {"majority class": float(counts.max() / counts.sum())}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """A line for each of the first channels, and the class."""
        real = np.asarray(example.get("segment_ids", np.ones(self.steps))) > 0
        lines = [shades.waveform(own) for own in np.asarray(example["inputs"])[real].T[:6]]
        return "\n".join([*lines, self.archive.classes[int(example["targets"])]])


class SeriesSource:
    """The rows of one split; the whole set is read once."""

    def __init__(self, task: Uea, split: Split):
        self.task, self.split = task, split
        files = task.data_files(split)
        self._archive = archive.read(files, task.dataset)
        self._rows = task.rows_of(split)
        self._steps, self._timed = task.steps, task.timed
        self._whole = span(files, task.dataset) if self._archive.stamped else 0.0
        self._scale = training_scale(files, task) if task.standardised else (0.0, 1.0)

    def __reduce__(self):
        return SeriesSource, (self.task, self.split)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """Inputs [steps, channels], and ids where lengths differ."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        found, place = self._archive, int(self._rows[index])
        row = found[place]
        values = row["values"].reshape(-1, found.channels)
        there = ~np.isnan(values)
        mean, spread = self._scale
        values = (carried(values) - mean) / spread
        values = np.where(there.cumsum(0) > 0, values, 0)  # nothing was seen of it yet
        columns = [values.astype(np.float32)]
        if self._timed:
            columns.insert(0, self._times(row, len(values)))
        if self.task.missing == "flag":
            columns.append(there.astype(np.float32))
        inputs = np.concatenate(columns, axis=1)[self._kept(place, len(values))]
        example = {"inputs": padded(inputs, self._steps), "targets": np.int32(row["target"])}
        if found.lengths.min() < found.lengths.max():
            example["segment_ids"] = padded(np.ones(len(inputs), np.int32), self._steps)
        return example

    def _times(self, row: cache.Row, steps: int) -> Float32[np.ndarray, "L 1"]:
        """Time from 0, in units of the longest row; steps where files say none, as published."""
        if self._archive.stamped:
            return ((row["times"] - row["times"][0]) / self._whole).astype(np.float32)[:, None]
        return (np.arange(steps) / self._archive.lengths.max()).astype(np.float32)[:, None]

    def _kept(self, place: int, steps: int) -> Int64[np.ndarray, "kept"]:
        drawn = words(steps, "kept steps", self.task.dataset, place).argsort(kind="stable")
        return np.sort(drawn[: _kept(steps, self.task.keep)])


@per_file
def joint_split(
    files: tuple[Path, ...], name: str, seed: int
) -> dict[Split, Int64[np.ndarray, "rows"]]:
    """The splits of protocol uea: one permutation of all different rows, cut at 70 and 85%."""
    found = archive.read(files, name)
    if found.lengths.min() < found.lengths.max():
        raise ValueError(
            f"task uea: rows of {name} have {found.lengths.min()} to {found.lengths.max()} steps; "
            "protocol uea is of sets of equal lengths: use protocol archive"
        )
    every = archive.different_rows(found, name)
    data_key = permutation.split(permutation.key_of(seed), 4)[0]
    order = permutation.permutation(permutation.split(data_key)[0], len(every))
    first, second = int(len(every) * 0.7), int(len(every) * 0.85)
    cuts = {"train": order[:first], "validation": order[first:second], "test": order[second:]}
    return {split: every[own] for split, own in cuts.items()}


@per_file
def training_scale(files: tuple[Path, ...], task: Uea) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of each channel over the training rows; what is missing does not count."""
    found = archive.read(files, task.dataset)
    rows = [found[i]["values"].reshape(-1, found.channels) for i in task.rows_of("train")]
    every = np.concatenate(rows).astype(np.float64)
    spread = np.nanstd(every, axis=0)
    return np.nanmean(every, axis=0), np.where(spread > 0, spread, 1.0)


@per_file
def span(files: tuple[Path, ...], name: str) -> float:
    """The longest time from the first to the last step of a row; 1 where there is none."""
    found = archive.read(files, name)
    return max(float(np.ptp(found[i]["times"])) for i in range(len(found))) or 1.0


def carried(values: Float32[np.ndarray, "L C"]) -> Float32[np.ndarray, "L C"]:
    """Each missing value becomes the last one before it; 0 where none was."""
    there = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(there, np.arange(len(values))[:, None], 0))
    return np.nan_to_num(np.take_along_axis(values, last, axis=0))


def padded(array: np.ndarray, steps: int) -> np.ndarray:
    """`array` with zeros behind it."""
    out = np.zeros((steps, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


def _kept(steps: int, share: float) -> int:
    return max(1, round(share * steps))
