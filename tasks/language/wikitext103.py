"""WikiText-103: Wikipedia's articles, from the original files or the hub's."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from seqzoo.tasks.data.archives import is_zip, zip_member
from seqzoo.tasks.data.damage import HEAD, damaged
from seqzoo.tasks.data.parquet import column_bytes, split_files
from seqzoo.tasks.data.places import place
from seqzoo.tasks.language import corpus
from seqzoo.tasks.language.corpus import Corpus
from seqzoo.tasks.language.modelling import LanguageModelling
from seqzoo.tasks.task import Needs, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class WikiText103(LanguageModelling):
    """Articles of Wikipedia; perplexity a word counts one <eos> a line, by any tokenizer."""

    name: ClassVar[str] = "wikitext103"
    description: ClassVar[str] = "language modelling on 103 million words of Wikipedia's articles"
    cite: ClassVar[str] = "Merity et al. 2016, arXiv 1609.07843"
    needs: ClassVar[Needs] = "download"
    main_metric: ClassVar[str] = "word_perplexity"

    variant: Literal["tokens", "raw"] = "tokens"  # tokens: rare words are <unk>; raw: all words

    WORDS: ClassVar[dict[str, int]] = {  # with one <eos> a line
        "train": 103_227_021,
        "validation": 217_646,
        "test": 245_569,
    }
    LINES: ClassVar[dict[str, int]] = {"train": 1_801_350, "validation": 3_760, "test": 4_358}
    COUNTED: ClassVar[int] = 10_000_000  # bytes up to which words are counted on loading

    def corpus_key(self) -> str:
        """The variant."""
        return f"{self.name}-{self.variant}"

    def words_per_byte(self, split: Split) -> float:
        """From the published number of words."""
        return self.WORDS[split] / len(_text_of_wikipedia(self, split).data)

    def data_files(self, split: Split) -> list[Path]:
        """The split's file, or the archive, or the hub's files."""
        return _files(self, split)[1]

    def _text(self, split: Split) -> Corpus:
        return _text_of_wikipedia(self, split)


def _files(task: WikiText103, split: Split) -> tuple[str, list[Path]]:
    """The name of the split's original file; it, or the archive that holds it, or Parquet."""
    suffix, folder = {
        "tokens": ("tokens", "wikitext-103"),
        "raw": ("raw", "wikitext-103-raw"),
    }[task.variant]
    root = place(task.data or folder)
    short = "valid" if split == "validation" else split
    file = f"wiki.{short}.{suffix}"
    plain = [root / file, root / folder / file]
    archives = [root, root / f"{folder}-v1.zip"]
    found = [p for p in plain if p.is_file()] or [p for p in archives if p.is_file() and is_zip(p)]
    if found:
        return file, found[:1]
    if tables := split_files(root, split, (f"{folder}-v1", ".")):
        return file, tables
    raise FileNotFoundError(
        f"task wikitext103: there is no {file} in {root}. Fetch {folder}-v1 (about 550 MB "
        "unpacked): its Parquet files from Salesforce/wikitext on the Hugging Face Hub, or the "
        "zip archive of the original, and give its folder as the option data"
    )


@functools.lru_cache(maxsize=3)
def _text_of_wikipedia(task: WikiText103, split: Split) -> Corpus:
    file, files = _files(task, split)
    path = files[0]
    if path.suffix == ".parquet":
        path = path.parent
        data = corpus.kept(files, task.corpus_key(), lambda: _lines(files)).data
    elif is_zip(path):
        data = corpus.plain(np.frombuffer(zip_member(path, file), np.uint8))
    else:
        data = corpus.plain(corpus.mapped(path))
    lines = int(np.count_nonzero(data == ord("\n")))
    while lines > task.LINES[split] and data[-2:].tobytes() == b"\n\n":  # an editor's
        data, lines = data[:-1], lines - 1
    if lines != task.LINES[split]:
        wrong = f"{split} has {lines:,} lines, not {task.LINES[split]:,}"
        raise damaged(path, f"the file {file}", data[:HEAD].tobytes(), wrong)
    if task.variant == "tokens" and len(data) <= task.COUNTED:
        words = lines + len(data.tobytes().decode().split())
        if words != task.WORDS[split]:
            wrong = f"{words:,} words, <eos> included, not {task.WORDS[split]:,}"
            raise damaged(path, f"the file {file}", data[:HEAD].tobytes(), wrong)
    return Corpus(data, _articles(data))


def _lines(files: Sequence[Path]) -> Iterator[bytes]:
    # Blank lines come as empty rows, others with their line end.
    return (row.rstrip(b"\n") + b"\n" for row in column_bytes(files, "text"))


def _articles(data: np.ndarray) -> np.ndarray:
    """Where articles begin: at headings of the first level, ` = Title = ` between blank lines."""
    heading = re.compile(rb"(?m)^ = [^=\n](?:[^\n]*[^=\n])? = ?\n(?= *\n)")
    begins = [found.start() for found in heading.finditer(memoryview(np.ascontiguousarray(data)))]
    return np.unique(np.array([0, *begins, len(data)], np.int64))
