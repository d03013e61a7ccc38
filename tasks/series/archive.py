"""A data set of the UCR and UEA archives: its files, its rows, and whether it is the published one.

Looked for by name in a folder of the user's, `NAME_TRAIN` and `NAME_TEST` as `.ts` or `.arff`
anywhere below it, or the arrays that Log-NCDE's and LinOSS's code prepares (`NAME/data`,
`NAME/labels`, train and test in one, without repeated rows); else in the packages that bring sets.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from seqzoo.tasks.data import cache
from seqzoo.tasks.data.arrays import SUFFIXES as ARRAYS
from seqzoo.tasks.data.arrays import read_array, reals
from seqzoo.tasks.data.damage import DamagedError
from seqzoo.tasks.data.folders import files_below, files_key, folder_of, missing, per_file
from seqzoo.tasks.series import text

PARTS = ("TRAIN", "TEST")
PACKAGES = ("aeon", "sktime")  # in `datasets/data`
READER = 1


class Size(NamedTuple):
    """Rows of both parts, steps of the longest row, channels and classes."""

    train: int
    test: int
    steps: int
    channels: int
    classes: int


# As the archives publish them (Bagnall et al. 2018; Dau et al. 2019); the first six are the long
# ones that papers on state spaces report. Others are read as well, and not checked.
SIZES: dict[str, Size] = {
    "EigenWorms": Size(128, 131, 17_984, 6, 5),
    "EthanolConcentration": Size(261, 263, 1751, 3, 4),
    "Heartbeat": Size(204, 205, 405, 61, 2),
    "MotorImagery": Size(278, 100, 3000, 64, 2),
    "SelfRegulationSCP1": Size(268, 293, 896, 6, 2),
    "SelfRegulationSCP2": Size(200, 180, 1152, 7, 2),
    "ACSF1": Size(100, 100, 1460, 1, 10),
    "ArrowHead": Size(36, 175, 251, 1, 3),
    "BasicMotions": Size(40, 40, 100, 6, 4),
    "GunPoint": Size(50, 150, 150, 1, 2),
    "ItalyPowerDemand": Size(67, 1029, 24, 1, 2),
    "JapaneseVowels": Size(270, 370, 29, 12, 9),
    "OSULeaf": Size(200, 242, 427, 1, 6),
    "PickupGestureWiimoteZ": Size(50, 50, 361, 1, 10),
    "PLAID": Size(537, 537, 1344, 1, 11),
}

LONG = tuple(SIZES)[:6]
# Rows that differ from all others, as the code of Log-NCDE counts them: elsewhere all do.
DIFFERENT = {"EigenWorms": 236}


@dataclasses.dataclass(frozen=True)
class Archive:
    """All rows of a set, those of its training file first."""

    parts: tuple[cache.Rows, ...]
    train: int  # rows of the training file; all, where the parts are not told apart
    channels: int
    classes: tuple[str, ...]
    lengths: Int64[np.ndarray, "rows"]
    targets: Int64[np.ndarray, "rows"]
    stamped: bool  # whether steps have times
    lacking: bool  # whether values are missing
    pooled: bool  # whether the files hold both parts in one, repeated rows left out

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> cache.Row:
        first = len(self.parts[0])
        return self.parts[0][index] if index < first else self.parts[1][index - first]


def different_rows(found: Archive, name: str) -> Int64[np.ndarray, "rows"]:
    """The rows in the order of their values, without those that repeat one, as NumPy sorts.

    Raises ValueError where a known set has not as many as published.
    """
    if found.pooled:
        different = np.arange(len(found))
    else:
        every = np.stack([found[i]["values"] for i in range(len(found))])
        different = np.unique(every, axis=0, return_index=True)[1]
    size = SIZES.get(name) if name in LONG else None
    published = size and DIFFERENT.get(name, size.train + size.test)
    if published and len(different) != published:
        raise DamagedError(
            f"{name} has {len(different)} different rows (published: {published}): it is another "
            f"version, of which the published splits cannot be made; fetch {name} again"
        )
    return different


def files_of(task: str, name: str, data: str) -> tuple[Path, ...]:
    """The training and the test file, or data and labels. Raises FileNotFoundError."""
    root = folder_of(task, data, fetch(name)) if data else _package(task, name)
    for suffix in text.SUFFIXES:
        found = [files_below(root, f"**/{name}_{part}{suffix}") for part in PARTS]
        if all(found):
            return tuple(own[0] for own in found)
    for suffix in ARRAYS:
        found = [files_below(root, f"**/{stem}{suffix}") for stem in ("data", "labels")]
        found = [[path for path in own if path.parent.name == name] for own in found]
        if all(found):
            return tuple(own[0] for own in found)
    raise missing(task, root, fetch(name))


def fetch(name: str) -> str:
    """What to fetch of a set, in words."""
    size = SIZES.get(name)
    numbers = (size.train + size.test) * size.steps * size.channels if size else 0
    some = f" (about {max(1, round(numbers * 9e-6))} MB)" if numbers else ""
    return (
        f"{name}_TRAIN.ts and {name}_TEST.ts, or the same as .arff{some}, from "
        "https://www.timeseriesclassification.com; or NAME/data and NAME/labels as .npy or .pkl, "
        "as the code of Log-NCDE prepares them; pip install 'seqzoo[series]' brings "
        "BasicMotions, JapaneseVowels, ACSF1, OSULeaf and other small ones"
    )


def _package(task: str, name: str) -> Path:
    """The folder of a set in an installed package; nothing of the package is imported."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in spec.submodule_search_locations or () if spec else ():
            if (Path(root) / "datasets" / "data" / name).is_dir():
                return Path(root) / "datasets" / "data" / name
    raise missing(task, f"the packages {' and '.join(PACKAGES)}", fetch(name))


@per_file
def read(files: tuple[Path, ...], name: str) -> Archive:
    """The set in these files.

    Raises ValueError for a line that cannot be read, naming it, and for another version of a set.
    """
    found = _arrays(files, name) if files[0].suffix in ARRAYS else _texts(files, name)
    _check(found, files, name)
    return found


def _texts(files: tuple[Path, ...], name: str) -> Archive:
    headers = [text.header(path) for path in files]
    classes = tuple(sorted(set(headers[0].classes)))
    if set(headers[1].classes) != set(classes):
        raise DamagedError(
            f"{files[1]} has the classes {', '.join(sorted(headers[1].classes))}, and {files[0]} "
            f"{', '.join(classes)}: they are of two versions of {name}; fetch both again"
        )
    parts = tuple(_part(path, name, classes) for path in files)
    sizes = {int(row["channels"]) for own in parts for row in own}
    if len(sizes) > 1:
        raise DamagedError(f"{files[1]} has other channels than {files[0]}: {sorted(sizes)}")
    return _archive(parts, len(parts[0]), sizes.pop(), classes, pooled=False)


def _part(path: Path, name: str, classes: tuple[str, ...]) -> cache.Rows:
    """The rows of a file, kept in the cache: text is slow to read."""
    key = files_key(f"uea-{name}", path.stem.rpartition("_")[2].lower(), [path], READER)
    return cache.find(key) or cache.keep(key, _rows(path, classes))


def _rows(path: Path, classes: tuple[str, ...]) -> list[cache.Row]:
    found: list[cache.Row] = [
        {
            "values": row.values.reshape(-1),
            "times": row.times,
            "channels": np.int32(row.values.shape[1]),
            "target": np.int32(classes.index(row.label)),
        }
        for row in text.rows(path)
    ]
    if not found:
        raise DamagedError(f"{path} has no rows: fetch it again")
    return found


def _arrays(files: tuple[Path, ...], name: str) -> Archive:
    values, labels = (read_array(path) for path in files)
    fit = values.ndim == 3 and labels.shape == values.shape[:1] and labels.dtype.kind in "iu"
    if not fit or not values.size or labels.min() < 0:
        raise DamagedError(
            f"{files[0]} and {files[1]} have the shapes {values.shape} and {labels.shape}; they "
            "are rows, steps and channels, and a whole number from 0 on for each row"
        )
    values = reals(files[0], values, missing=True)
    rows = [
        {"values": own.reshape(-1), "times": np.zeros(0), "target": target}
        for own, target in zip(values, labels.astype(np.int32), strict=True)
    ]
    classes = tuple(str(c) for c in range(int(labels.max()) + 1))
    return _archive((rows,), len(rows), values.shape[2], classes, pooled=True)


def _archive(
    parts: tuple[cache.Rows, ...], train: int, channels: int, classes: tuple[str, ...], pooled: bool
) -> Archive:
    every = [row for own in parts for row in (own[i] for i in range(len(own)))]
    return Archive(
        parts,
        train,
        channels,
        classes,
        np.array([len(row["values"]) // channels for row in every]),
        np.array([int(row["target"]) for row in every]),
        stamped=any(len(row["times"]) for row in every),
        lacking=any(bool(np.isnan(row["values"]).any()) for row in every),
        pooled=pooled,
    )


def _check(found: Archive, files: Sequence[Path], name: str) -> None:
    """Raises ValueError, naming what differs, for files of another version of a set."""
    size = SIZES.get(name)
    if size is None:
        return
    steps = int(found.lengths.max())
    own = Size(found.train, len(found) - found.train, steps, found.channels, len(found.classes))
    differs = [
        f"{field} {mine} (published: {published})"
        for field, mine, published in zip(Size._fields, own, size, strict=True)
        if mine != published and not (found.pooled and field in ("train", "test"))
    ]
    if found.pooled and len(found) > size.train + size.test:
        differs.append(f"rows {len(found)} (published: at most {size.train + size.test})")
    if differs:
        raise DamagedError(
            f"the files in {files[0].parent} are of another version of {name}, or cut short: "
            f"{', '.join(differs)}; fetch {name} again"
        )
