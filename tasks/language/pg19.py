"""PG-19: books of Project Gutenberg before 1919."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar

from seqzoo.tasks.data.folders import files_below
from seqzoo.tasks.data.parquet import column_bytes, split_files
from seqzoo.tasks.data.places import place
from seqzoo.tasks.language import corpus
from seqzoo.tasks.language.corpus import Corpus
from seqzoo.tasks.language.modelling import LanguageModelling
from seqzoo.tasks.task import Needs, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class PG19(LanguageModelling):
    """Books of Project Gutenberg before 1919, each a document; perplexity a word."""

    name: ClassVar[str] = "pg19"
    description: ClassVar[str] = "language modelling on 28,752 books"
    cite: ClassVar[str] = "Rae et al. 2019, arXiv 1911.05507"
    needs: ClassVar[Needs] = "download"
    main_metric: ClassVar[str] = "word_perplexity"

    BOOKS: ClassVar[dict[str, int]] = {"train": 28_602, "validation": 50, "test": 100}
    WORDS: ClassVar[dict[str, int]] = {
        "train": 1_973_136_207,
        "validation": 3_007_061,
        "test": 6_966_499,
    }

    def corpus_key(self) -> str:
        """The name."""
        return self.name

    def words_per_byte(self, split: Split) -> float:
        """From the published number of words."""
        return self.WORDS[split] / len(_books(self, split).data)

    def data_files(self, split: Split) -> list[Path]:
        """The split's books, or the hub's files of it."""
        return _files(self, split)

    def _text(self, split: Split) -> Corpus:
        return _books(self, split)


def _files(task: PG19, split: Split) -> list[Path]:
    root = place(task.data or task.name)
    files = files_below(root / split, "**/*.txt") if (root / split).is_dir() else []
    files = files or split_files(root, split, ("data", "."))
    if not files:
        raise FileNotFoundError(
            f"task pg19: there are no books in {root / split}. Fetch PG-19 (about 11 GB): the "
            "folders train, validation and test of text files from the bucket deepmind-gutenberg, "
            "or the Parquet files of emozilla/pg19 from the Hugging Face Hub, and give the folder "
            "as the option data"
        )
    return files


@functools.lru_cache(maxsize=3)
def _books(task: PG19, split: Split) -> Corpus:
    files = _files(task, split)
    root = files[0].parent
    if files[0].suffix == ".parquet":
        found = corpus.kept(files, f"pg19-{split}", lambda: column_bytes(files, "text"))
        count = len(found.starts) - 1
    else:
        found, count = corpus.joined_files(files), len(files)
    if count != task.BOOKS[split]:
        raise ValueError(f"{root}: {split} has {count:,} books, not {task.BOOKS[split]:,}")
    return found
