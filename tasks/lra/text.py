"""Long Range Arena's Text: the sentiment of an IMDB review, in bytes or characters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.archives import tar_members
from seqzoo.tasks.data.damage import text_of
from seqzoo.tasks.data.folders import (
    HUGGING_FACE,
    check_sum,
    files_below,
    folder_of,
    missing,
)
from seqzoo.tasks.data.parquet import split_files
from seqzoo.tasks.data.stored import Hub, Part, check_class
from seqzoo.tasks.lra.documents import DocumentTask, as_bytes
from seqzoo.tasks.task import Split

IMDB_ARCHIVE, IMDB_FOLDER = "aclImdb_v1.tar.gz", "aclImdb"
IMDB_MD5, IMDB_BYTES = "7c2ac02c03563afcf9b574c7e56c153a", 84_125_825
SENTIMENTS = ("negative", "positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(DocumentTask):
    """Long Range Arena's Text: the sentiment of a film review, in bytes or characters.

    Validation is the test split, as in all published protocols.
    """

    name: ClassVar[str] = "text"
    description: ClassVar[str] = "sentiment of an IMDB review in bytes or characters (LRA)"
    cite: ClassVar[str] = "Maas et al. 2011; Tay et al. 2020, arXiv 2011.04006"
    family: ClassVar[str] = "text"
    classes: ClassVar[tuple[str, ...]] = SENTIMENTS
    texts: ClassVar[tuple[str, ...]] = ("text",)
    hub: ClassVar[Hub] = Hub("stanfordnlp/imdb", "plain_text")
    balance: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (12_500,) * 2,
        "test": (12_500,) * 2,
    }
    fetch: ClassVar[str] = (
        "the Parquet files of stanfordnlp/imdb (42 MB) from the Hugging Face hub, or "
        "aclImdb_v1.tar.gz (84 MB) from https://ai.stanford.edu/~amaas/data/sentiment/, which need "
        "not be unpacked; or let `datasets` download the former with --data.data huggingface"
    )

    train_size: int = 25_000  # examples to train on
    validation_size: int = 25_000  # the test split; not an option of its own
    test_size: int = 25_000  # examples of the test split

    @property
    def spec(self) -> ModelSpec:
        """One of two classes."""
        return self._spec("classify")

    def part_of(self, split: Split) -> str:
        """Validation is the test split."""
        return "train" if split == "train" else "test"

    def part(self, name: str) -> Part:
        """Parquet, or the original texts."""
        paths: list[Path] = []
        if self.data != HUGGING_FACE:
            root = folder_of(self.name, self.data, self.fetch)
            archive = root if root.name == IMDB_ARCHIVE else root / IMDB_ARCHIVE
            for folder in (root / IMDB_FOLDER, root):
                if (folder / name / "pos").is_dir():
                    paths = files_below(folder, f"{name}/neg/*.txt", f"{name}/pos/*.txt")
                    return self._files_part(name, paths, functools.partial(_reviews, paths))
            if archive.is_file():
                return self._files_part(name, [archive], lambda: _archived_reviews(archive, name))
            paths = split_files(root, name)
            if not paths:
                raise missing(self.name, root, self.fetch)
        return self._table_part(name, review_of, paths)

    @property
    def _dataset(self) -> str:
        return "imdb"

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The review and its sentiment."""
        return f"{self._read(example['inputs'])}\n= {SENTIMENTS[int(example['targets'])]}"


class _ReviewOf:
    """Reads a hub row of IMDB."""

    columns = ("text", "label")

    def __call__(self, values: Mapping[str, Any]) -> cache.Row:
        if not isinstance(values["text"], str):
            raise ValueError(f"the text is {values['text']!r}")
        return {"text": as_bytes(values["text"]), "target": check_class(values["label"], 2)}


review_of = _ReviewOf()


def _reviews(paths: list[Path]) -> list[cache.Row]:
    return [_review(str(path), path.read_bytes()) for path in paths]


def _archived_reviews(archive: Path, part: str) -> list[cache.Row]:
    if archive.stat().st_size == IMDB_BYTES:
        check_sum(archive, "md5", IMDB_MD5)

    def wanted(name: str) -> bool:
        folders = name.split("/")[-3:-1]
        return folders in ([part, "neg"], [part, "pos"]) and name.endswith(".txt")

    found = tar_members(archive, wanted)
    return [_review(f"{archive}:{name}", found[name]) for name in sorted(found)]


def _review(name: str, content: bytes) -> cache.Row:
    return {"text": as_bytes(text_of(name, content)), "target": np.uint8("/pos/" in name)}
