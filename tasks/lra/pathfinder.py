"""Pathfinder: do two discs sit on one dashed contour? (Linsley et al. 2018, arXiv 1805.08315.)

`pathfinder` and `path_x` are Long Range Arena's tasks on the official pictures ("hard": contours of
14 paddles); `pathfinder_generated` and `path_x_generated` draw pictures by the rules of the
published generator. These are stand-ins: the number of short contours and the contrasts of the
released pictures are not documented beyond doubt, and numbers on ours belong to no published table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.folders import folder_of, missing
from seqzoo.tasks.data.stored import Part, StoredSource, StoredTask, Subset, class_counts
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.lra.archive import NESTING
from seqzoo.tasks.lra.pathfinder_files import (
    PictureRows,
    listing,
    metadata_files,
    some_pictures,
)
from seqzoo.tasks.lra.pathfinder_pictures import RECIPES, Recipe, draw_picture
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.pixels.encoding import pixel_example, pixel_spec, pixel_values
from seqzoo.tasks.protocols import ProtocolTask
from seqzoo.tasks.task import (
    SPLITS,
    Example,
    Metrics,
    Picture,
    Source,
    Split,
    check_count,
    measure_classes,
)

Resolution = Literal[32, 64, 128, 256]
CONTOURS = {"easy": 6, "intermediate": 9, "hard": 14}  # paddles of a long contour
FOLDERS = {
    "easy": "curv_baseline",
    "intermediate": "curv_contour_length_9",
    "hard": "curv_contour_length_14",
}
Difficulty = Literal["easy", "intermediate", "hard"]
CLASSES = ("different contours", "one contour")
GENERATOR = 1  # part of the cache's keys: raise it when the same index means another picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pathfinder(ProtocolTask):
    """What official and generated pictures share; rows hold size x size bytes."""

    cite: ClassVar[str] = "Linsley et al. 2018, arXiv 1805.08315; Tay et al. 2020, arXiv 2011.04006"
    family: ClassVar[str] = "pathfinder"
    settled: ClassVar[tuple[str, ...]] = ("pixels", "pooling")
    classes: ClassVar[tuple[str, ...]] = CLASSES

    resolution: Resolution = 32  # pixels along a side; the length is its square
    difficulty: Difficulty = "hard"  # Long Range Arena's is hard
    pixels: Literal["tokens", "continuous"] | None = None  # 256 ids, or numbers in [0, 1]

    def _check_options(self) -> None:
        super().__post_init__()
        for field, valid in (("resolution", Resolution), ("difficulty", Difficulty)):
            if getattr(self, field) not in get_args(valid):
                raise ValueError(
                    f"task {self.name}: unknown {field} {getattr(self, field)!r}; valid: "
                    f"{', '.join(map(str, get_args(valid)))}"
                )

    @property
    def spec(self) -> ModelSpec:
        """One of two classes from all pixels, row by row."""
        return pixel_spec(self, self.resolution**2, 2)

    @property
    def picture(self) -> Picture:
        """resolution x resolution pixels."""
        pixels = np.arange(self.resolution**2)
        return Picture(self.resolution, self.resolution, pixels, mirrored=True)

    def example(self, row: cache.Row) -> Example:
        """Pixels as tokens or in [0, 1]."""
        return pixel_example(self, row["pixels"], row["target"], 0.0, 1.0)

    def measure(self, outputs, batch) -> Metrics:
        """Cross-entropy and accuracy."""
        return measure_classes(outputs, batch)

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The picture and its class."""
        side = self.resolution
        grey = pixel_values(self, example, 0.0, 1.0).reshape(side, side)
        return f"{shades.picture(grey)}\n{CLASSES[int(example['targets'])]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pathfinder(_Pathfinder, StoredTask):
    """Long Range Arena's Pathfinder, from the official archive.

    Zero-byte pictures are skipped, as in the original code. The split is ours: neither original
    one is in the archive.
    """

    name: ClassVar[str] = "pathfinder"
    description: ClassVar[str] = "two discs on one dashed contour or not, 1024 pixels (LRA)"
    fetch: ClassVar[str] = (
        "the Long Range Arena archive lra_release.gz (a gzipped tar of about 8 GB, linked from the "
        "README of google-research/long-range-arena on GitHub) and unpack it with `tar xf "
        "lra_release.gz`"
    )

    train_size: int = 160_000  # with the skipped ones
    validation_size: int = 20_000  # examples of the validation split
    test_size: int = 20_000  # examples of the test split

    def __post_init__(self) -> None:
        StoredTask.__post_init__(self)
        self._check_options()

    @property
    def _dataset(self) -> str:
        return f"pathfinder{self.resolution}-{self.difficulty}"

    @property
    def folder(self) -> Path:
        """Where the pictures are. Raises FileNotFoundError, which says what to fetch."""
        root = folder_of(self.name, self.data, self.fetch)
        inside = Path(f"pathfinder{self.resolution}") / FOLDERS[self.difficulty]
        places = [root / above / inside for above in NESTING] + [root / inside.name, root]
        for place in places:
            if (place / "metadata").is_dir() and (place / "imgs").is_dir():
                return place
        raise missing(self.name, root / inside, self.fetch)

    def part(self, name: str) -> Part:
        """All pictures: the archive has no parts."""
        folder = self.folder
        looked = [*metadata_files(folder), *some_pictures(folder)]
        return self._files_part("all", looked, lambda: PictureRows(folder, self.resolution))

    def part_of(self, split: Split) -> str:
        """The archive is one."""
        return "all"

    def expected(self, name: str) -> tuple[int, str]:
        """All that the metadata lists, less the empty pictures."""
        total = sum(getattr(self, f"{split}_size") for split in SPLITS)
        skipped = listing(self.folder)[1]
        return total - len(
            skipped
        ), "train_size + validation_size + test_size, less empty pictures,"

    def split_rows(self, split: Split) -> Subset:
        """Validation and test are cut from our own fixed order first, training is the rest."""
        rows = self.rows("all")
        ends = np.cumsum([0, self.validation_size, self.test_size])
        cuts = {
            "validation": slice(*ends[:2]),
            "test": slice(*ends[1:]),
            "train": slice(ends[2], None),
        }
        return Subset(rows, self._order(len(rows))[cuts[split]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathX(Pathfinder):
    """Long Range Arena's Path-X: Pathfinder with 128 x 128 pixels."""

    name: ClassVar[str] = "path_x"
    description: ClassVar[str] = "two discs on one dashed contour or not, 16384 pixels (LRA)"

    resolution: Resolution = 128  # pixels along a side; the length is its square


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathfinderGenerated(_Pathfinder):
    """Pathfinder on pictures of our own; not the official ones."""

    name: ClassVar[str] = "pathfinder_generated"
    description: ClassVar[str] = "like pathfinder, on generated pictures (not LRA's)"

    train_size: int = 160_000  # pictures
    validation_size: int = 20_000  # examples of the validation split
    test_size: int = 20_000  # examples of the test split
    distractors: int = 0  # short contours; 0: the documented number
    snake_contrast: float = 0.0  # of the lines; 0: the documented one

    def __post_init__(self) -> None:
        for split in SPLITS:
            check_count(self, f"{split}_size")
        check_count(self, "distractors", least=0)
        self._check_options()

    @property
    def notes(self) -> tuple[str, ...]:
        """That these are stand-ins."""
        return ("Generated pictures, not the official ones: no published number belongs here.",)

    @property
    def recipe(self) -> Recipe:
        """The generator's settings."""
        recipe, contour = RECIPES[self.resolution], CONTOURS[self.difficulty]
        short = contour // 3
        total = {32: 20, 64: 22, 128: 35, 256: 30}[self.resolution]
        return dataclasses.replace(
            recipe,
            contour_length=contour,
            distractor_length=short,
            distractors=self.distractors or total // short,
            snake_contrast=self.snake_contrast or recipe.snake_contrast,
        )

    def prepare(
        self, split: Split, seed: int = 0, *, progress: bool = True, workers: int | None = None
    ) -> Source:
        """The source of a split, drawn by several processes and cached; continues where it was."""
        rows = self._rows(split, self.effective_seed(split, seed))
        if isinstance(rows, DrawnRows):
            rows = cache.keep(rows.key, rows, workers=workers, progress=progress)
        return StoredSource(self, Subset(rows, np.arange(len(rows))))

    def _source(self, split: Split, seed: int) -> Source:
        rows = self._rows(split, seed)
        if isinstance(rows, DrawnRows) and split != "train":
            rows = cache.keep(rows.key, rows)
        return StoredSource(self, Subset(rows, np.arange(len(rows))))

    def _rows(self, split: Split, seed: int) -> cache.Rows:
        rows = DrawnRows(self.recipe, split, seed, getattr(self, f"{split}_size"))
        found = cache.find(rows.key)
        return rows if found is None else found

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Accuracy of the commoner class."""
        counts = class_counts(self.source(split, seed).rows, 2)
        return {"majority class": float(counts.max() / counts.sum())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathXGenerated(PathfinderGenerated):
    """Path-X on pictures of our own; not the official ones."""

    name: ClassVar[str] = "path_x_generated"
    description: ClassVar[str] = "like path_x, on generated pictures (not LRA's)"

    resolution: Resolution = 128  # pixels along a side; the length is its square


@dataclasses.dataclass(frozen=True)
class DrawnRows:
    """One split of generated pictures; `rows[i]` is drawn anew each time, in 10 ms to 0.6 s."""

    recipe: Recipe
    split: str
    seed: int
    size: int
    chunk: ClassVar[int] = 64

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> cache.Row:
        if not 0 <= index < self.size:
            raise IndexError(f"example {index} of {self.size}")
        draws = Draws("pathfinder", self.recipe.size, self.split, self.seed, int(index))
        picture = draw_picture(self.recipe, draws)
        return {"pixels": picture.image.ravel(), "target": np.uint8(picture.label)}

    @property
    def key(self) -> cache.Key:
        """What the set is a function of, for the cache."""
        recipe = dataclasses.asdict(self.recipe)
        numbers = {"seed": self.seed, "count": self.size, "generator": GENERATOR}
        return {
            "task": f"pathfinder{self.recipe.size}_generated",
            "split": self.split,
            **numbers,
            **{name: value for name, value in recipe.items() if name != "margins"},
            "margins": " ".join(map(str, self.recipe.margins)),
        }
