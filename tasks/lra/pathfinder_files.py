"""The official files of Pathfinder: metadata, and the pictures that it lists."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from seqzoo.tasks.data import cache
from seqzoo.tasks.data.damage import MEND, head_of, lines_of, reading
from seqzoo.tasks.data.folders import per_file, spread
from seqzoo.tasks.pixels.pictures import read_png

COLUMNS = 11  # of the metadata


class PictureRows:
    """The official pictures of one folder, in the order of its metadata."""

    chunk = 256

    def __init__(self, folder: Path, resolution: int):
        self.folder, self.resolution = folder, resolution
        self._listed, skipped = listing(folder)
        if skipped:
            shown = ", ".join(map(str, skipped[:3]))
            warnings.warn(f"{len(skipped)} empty pictures are skipped: {shown}", stacklevel=2)

    def __len__(self) -> int:
        return len(self._listed)

    def __getitem__(self, index: int) -> cache.Row:
        path, label = self._listed[index]
        try:
            pixels = read_png((self.folder / path).read_bytes())
            if pixels.shape != (self.resolution, self.resolution, 1):
                raise ValueError(
                    f"a picture of shape {pixels.shape}; it must be "
                    f"{self.resolution} x {self.resolution} grey pixels"
                )
        except ValueError as error:
            raise ValueError(f"{self.folder / path} (picture {index}): {error}") from error
        return {"pixels": pixels.ravel(), "target": np.uint8(label)}

    def __reduce__(self):
        return PictureRows, (self.folder, self.resolution)


def metadata_files(folder: Path) -> list[Path]:
    """The metadata of a folder, in the order of their numbers."""
    found = (folder / "metadata").glob("*.npy")
    files = [path for path in found if path.stem.isdigit() and path.is_file()]
    return sorted(files, key=lambda path: int(path.stem))


def some_pictures(folder: Path) -> list[Path]:
    """A few pictures of some folders, which change when the pictures do."""
    folders = spread(sorted(path for path in (folder / "imgs").iterdir() if path.is_dir()), 16)
    return [path for each in folders for path in spread(sorted(each.glob("*.png")), 4)]


def listing(folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """(path, label) of every picture below a folder, and the paths of the empty ones.

    Raises:
        ValueError: for a malformed line, naming file and line, and a picture that is not there.
    """
    return _listing(tuple(metadata_files(folder)), folder)


@per_file
def _listing(files: tuple[Path, ...], folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    listed, skipped = [], []
    for file in files:
        for number, fields in enumerate(read_metadata(file), 1):
            path = f"{fields[0]}/{fields[1]}"
            picture = folder / path
            if fields[3] not in ("0", "1") or Path(path).is_absolute() or ".." in path.split("/"):
                raise ValueError(f"{file}, line {number}: malformed: {' '.join(fields)!r}; {MEND}")
            if not picture.is_file():
                raise ValueError(f"{file}, line {number}: there is no {picture}; {MEND}")
            if picture.stat().st_size:
                listed.append((path, int(fields[3])))
            else:
                skipped.append(path)
    return listed, skipped


def read_metadata(file: Path) -> list[list[str]]:
    """The lines of a metadata file: text in the official archive, an array in the generator's.

    Raises ValueError for a line without its 11 columns.
    """
    if head_of(file).startswith(b"\x93NUMPY"):
        with reading(file, "a NumPy array of text", file):
            rows = np.load(file, allow_pickle=False)
        lines = [[str(x) for x in row] for row in np.atleast_2d(rows)]
    else:
        lines = [line.split() for line in lines_of(file)]
    for number, fields in enumerate(lines, 1):
        if len(fields) != COLUMNS:
            raise ValueError(
                f"{file}, line {number}: {len(fields)} columns; the metadata has {COLUMNS}; {MEND}"
            )
    return lines
