"""The corpora of language modelling: any text, enwik8, text8, WikiText-103, PG-19, Python's source.

Each reads its original format from a folder that the user names, checks sizes (and checksums where
the original has them), and says what to fetch where something is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import sysconfig
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from seqzoo.tasks.language import corpus_files as text
from seqzoo.tasks.language.corpus_files import Text
from seqzoo.tasks.language.language import LanguageModelling
from seqzoo.tasks.language.tokenizers import LETTERS, Tokenizer
from seqzoo.tasks.task import SPLITS, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes(LanguageModelling):
    """Any file or folder.

    A file is cut 90, 5 and 5%. A folder with `train`, `validation` and `test` inside has its own
    splits; otherwise of each twenty files in order of their paths, the 19th is validation and the
    20th test (fewer than twenty files are joined and cut).
    """

    name: ClassVar[str] = "bytes"
    description: ClassVar[str] = "language modelling on any text file or folder"
    cite: ClassVar[str] = "your own text"

    pattern: str = "*"  # files of a folder that count, as in "*.txt"

    def corpus_key(self) -> str:
        """Names, sizes and times of the files."""
        return text.fingerprint(self._files())

    def _files(self) -> list[Path]:
        if not self.data:
            raise FileNotFoundError("task bytes: name a text file or folder with the option data")
        root = Path(self.data).expanduser()
        found = [root] if root.is_file() else text.files_below(root, self.pattern)
        if not found:
            raise FileNotFoundError(f"task bytes: no file {self.pattern!r} in {root}")
        return found

    def _text(self, split: Split) -> Text:
        files, root = self._files(), Path(self.data).expanduser()
        if all((root / name).is_dir() for name in SPLITS):
            return text.joined_files([p for p in files if p.relative_to(root).parts[0] == split])
        if len(files) >= text.SPLIT:
            return text.joined_files(text.of_split(files, split))
        data = text.mapped(files[0]) if len(files) == 1 else text.joined_files(files).data
        return Text.one(text.cut(data, split))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonSource(LanguageModelling):
    """The sources of Python's standard library: real text that needs no network.

    All `.py` files but tests and installed packages, each a document, pinned by content: `digest`
    is filled in with that of this Python, so that a run says what it was trained on and is not
    continued on other text.
    """

    name: ClassVar[str] = "python_source"
    description: ClassVar[str] = "language modelling on the source of Python's standard library"
    cite: ClassVar[str] = "the Python standard library (PSF-2.0)"

    digest: str = ""  # sha256 of the corpus; empty: that of what is there

    WITHOUT: ClassVar[tuple[str, ...]] = (
        "site-packages",
        "dist-packages",
        "__pycache__",
        "test",
        "tests",
        "idle_test",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.digest:
            object.__setattr__(self, "digest", _source_digest(self._root()))

    def corpus_key(self) -> str:
        """The digest."""
        return self.digest[:20]

    def _root(self) -> Path:
        return Path(self.data or sysconfig.get_paths()["stdlib"]).expanduser()

    def _text(self, split: Split) -> Text:
        root = self._root()
        found = _source_digest(root)
        if found != self.digest:
            raise ValueError(
                f"task python_source: the sources in {root} have digest {found}, not "
                f"{self.digest}: they belong to another Python. Name a folder with the right ones "
                "as data, or train anew"
            )
        return text.joined_files(text.of_split(_sources(root), split))


@functools.lru_cache(maxsize=4)
def _source_digest(root: Path) -> str:
    return text.content_digest(root, _sources(root))


def _sources(root: Path) -> list[Path]:
    found = text.files_below(root, "*.py", PythonSource.WITHOUT)
    if not found:
        raise FileNotFoundError(
            f"task python_source: no .py files in {root}; this Python comes without its sources, "
            "so name a folder that has some (any Lib/ of a CPython release) with the option data"
        )
    return found


class _HutterPrize(LanguageModelling):
    """What enwik8 and text8 share: 10^8 bytes, of which the last two twentieths are held out."""

    SIZE: ClassVar[int] = 100_000_000
    HELD_OUT: ClassVar[int] = 5_000_000  # bytes of validation and of test
    MD5: ClassVar[str]

    def corpus_key(self) -> str:
        """The name; there is one such file."""
        return f"{self.name}-{self.MD5[:8]}"

    def _text(self, split: Split) -> Text:
        whole = _whole(type(self), self.data)
        end = {"train": -2 * self.HELD_OUT, "validation": -self.HELD_OUT, "test": None}[split]
        begin = {"train": 0, "validation": -2 * self.HELD_OUT, "test": -self.HELD_OUT}[split]
        return Text.one(whole[begin:end])


@functools.lru_cache(maxsize=2)
def _whole(kind: type[_HutterPrize], data: str) -> np.ndarray:
    name, root = kind.name, Path(data or name).expanduser()
    places = [root, root / name, root / f"{name}.zip", root / name / name]
    path = next((place for place in places if place.is_file()), None)
    if path is not None:
        zipped = zipfile.is_zipfile(path)
        whole = np.frombuffer(text.unzipped(path, name), np.uint8) if zipped else text.mapped(path)
    else:
        path = root
        parts = [text.parquet_files(root, ("data",), split) for split in SPLITS]
        if not all(parts):
            raise FileNotFoundError(
                f"task {name}: there is no {name} or {name}.zip in {root}. Fetch {name}.zip (about "
                f"30 MB, {kind.SIZE:,} bytes unpacked) from mattmahoney.net/dc and give the file "
                "or its folder as the option data"
            )
        whole = np.concatenate([_only_row(files, kind) for files in parts])
    if len(whole) != kind.SIZE:
        raise ValueError(f"{path} has {len(whole):,} bytes; {name} has {kind.SIZE:,}")
    found = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    if found != kind.MD5:
        raise ValueError(f"{path} has the MD5 sum {found}; that of {name} is {kind.MD5}")
    return whole


def _only_row(files: Sequence[Path], kind: type[_HutterPrize]) -> np.ndarray:
    return np.frombuffer(b"".join(text.parquet_column(files, "text")), np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enwik8(_HutterPrize):
    """The first 10^8 bytes of a Wikipedia dump; 90, 5 and 5 million bytes."""

    name: ClassVar[str] = "enwik8"
    description: ClassVar[str] = "language modelling on 10^8 bytes of Wikipedia with its markup"
    cite: ClassVar[str] = "Hutter Prize 2006; splits of the AWD-LSTM and Transformer-XL scripts"
    MD5: ClassVar[str] = "a1fa5ffddb56f4953e226637dabbb36a"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text8(_HutterPrize):
    """10^8 characters of Wikipedia's text, 27 letters; 90, 5 and 5 million; bits a character."""

    name: ClassVar[str] = "text8"
    description: ClassVar[str] = "language modelling on 10^8 letters and spaces of Wikipedia"
    cite: ClassVar[str] = "Mahoney 2006; splits of the AWD-LSTM and Transformer-XL scripts"
    MD5: ClassVar[str] = "3bea1919949baf155f99411df5fada7e"

    @property
    def _characters(self) -> Tokenizer:
        return LETTERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class WikiText103(LanguageModelling):
    """Articles of Wikipedia; perplexity a word counts one <eos> a line, by any tokenizer."""

    name: ClassVar[str] = "wikitext103"
    description: ClassVar[str] = "language modelling on 103 million words of Wikipedia's articles"
    cite: ClassVar[str] = "Merity et al. 2016, arXiv 1609.07843"
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

    def _text(self, split: Split) -> Text:
        return _text_of_wikipedia(self, split)


@functools.lru_cache(maxsize=3)
def _text_of_wikipedia(task: WikiText103, split: Split) -> Text:
    suffix, folder = {
        "tokens": ("tokens", "wikitext-103"),
        "raw": ("raw", "wikitext-103-raw"),
    }[task.variant]
    root = Path(task.data or folder).expanduser()
    short = "valid" if split == "validation" else split
    file = f"wiki.{short}.{suffix}"
    plain = [root / file, root / folder / file]
    archives = [root, root / f"{folder}-v1.zip"]
    tables = text.parquet_files(root, (f"{folder}-v1",), split)
    if path := next((p for p in plain if p.is_file()), None):
        data = text.mapped(path)
    elif path := next((p for p in archives if p.is_file() and zipfile.is_zipfile(p)), None):
        data = np.frombuffer(text.unzipped(path, file), np.uint8)
    elif tables:
        path = tables[0].parent
        data = text.kept(tables, task.corpus_key(), _lines(tables)).data
    else:
        raise FileNotFoundError(
            f"task wikitext103: there is no {file} in {root}. Fetch {folder}-v1 (about 550 MB "
            "unpacked): its Parquet files from Salesforce/wikitext on the Hugging Face Hub, or the "
            "zip archive of the original, and give its folder as the option data"
        )
    lines = int(np.count_nonzero(data == ord("\n")))
    if lines != task.LINES[split]:
        raise ValueError(f"{path}: {split} has {lines:,} lines, not {task.LINES[split]:,}")
    if task.variant == "tokens" and len(data) <= task.COUNTED:
        words = lines + len(data.tobytes().decode().split())
        if words != task.WORDS[split]:
            raise ValueError(f"{path}: {words:,} words, <eos> included, not {task.WORDS[split]:,}")
    return Text(data, _articles(data))


def _lines(files: Sequence[Path]) -> Iterator[bytes]:
    # Blank lines come as empty rows, others with their line end.
    return (row.rstrip(b"\n") + b"\n" for row in text.parquet_column(files, "text"))


def _articles(data: np.ndarray) -> np.ndarray:
    """Where articles begin: at headings of the first level, ` = Title = ` between blank lines."""
    heading = re.compile(rb"(?m)^ = [^=\n](?:[^\n]*[^=\n])? = ?\n(?= *\n)")
    begins = [found.start() for found in heading.finditer(memoryview(np.ascontiguousarray(data)))]
    return np.unique(np.array([0, *begins, len(data)], np.int64))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PG19(LanguageModelling):
    """Books of Project Gutenberg before 1919, each a document; perplexity a word."""

    name: ClassVar[str] = "pg19"
    description: ClassVar[str] = "language modelling on 28,752 books"
    cite: ClassVar[str] = "Rae et al. 2019, arXiv 1911.05507"
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

    def _text(self, split: Split) -> Text:
        return _books(self, split)


@functools.lru_cache(maxsize=3)
def _books(task: PG19, split: Split) -> Text:
    root = Path(task.data or task.name).expanduser()
    files = text.files_below(root / split, "*.txt") if (root / split).is_dir() else []
    tables = [] if files else text.parquet_files(root, ("data",), split)
    if files:
        found, count = text.joined_files(files), len(files)
    elif tables:
        found = text.kept(tables, f"pg19-{split}", text.parquet_column(tables, "text"))
        count = len(found.starts) - 1
    else:
        raise FileNotFoundError(
            f"task pg19: there are no books in {root / split}. Fetch PG-19 (about 11 GB): the "
            "folders train, validation and test of text files from the bucket deepmind-gutenberg, "
            "or the Parquet files of emozilla/pg19 from the Hugging Face Hub, and give the folder "
            "as the option data"
        )
    if count != task.BOOKS[split]:
        raise ValueError(f"{root}: {split} has {count:,} books, not {task.BOOKS[split]:,}")
    return found
