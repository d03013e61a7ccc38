"""Documents as bytes or characters: Long Range Arena's Text (IMDB) and Retrieval (AAN).

Bytes: id = byte + 1, 0 is padding. Characters: 0 padding, 1 unknown, 2 end, then by falling
frequency in the training documents, ties by code point; an end token closes each document.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int32, UInt32

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.files import (
    HUGGING_FACE,
    check_sum,
    files_key,
    folder_of,
    members,
    missing,
    parquet_files,
    per_file,
)
from seqzoo.tasks.data.stored import TRAIN, Hub, Part, StoredTask, Subset, check_class
from seqzoo.tasks.lra.archive import NESTING
from seqzoo.tasks.protocols import ProtocolTask
from seqzoo.tasks.task import Example, Split, check_count

UNKNOWN, END, FIRST = 1, 2, 3  # ids of characters
BYTES = 257
IMDB_ARCHIVE, IMDB_FOLDER = "aclImdb_v1.tar.gz", "aclImdb"
IMDB_MD5, IMDB_BYTES = "7c2ac02c03563afcf9b574c7e56c153a", 84_125_825
LONGEST = 16_000  # characters of a document that are kept in the cache
SENTIMENTS = ("negative", "positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Documents(StoredTask, ProtocolTask):
    """Rows hold UTF-8 bytes."""

    settled: ClassVar[tuple[str, ...]] = ("unit", "length", "vocab_size", "min_count", "pooling")
    texts: ClassVar[tuple[str, ...]]  # columns of a row with a document

    unit: Literal["bytes", "characters"] | None = None
    length: int | None = None  # tokens of a document, the end token among them; longer ones are cut
    vocab_size: int | None = None  # ids of characters, at most; the rest is unknown
    min_count: int | None = None  # times that a character must occur in training to have an id

    def __post_init__(self) -> None:
        StoredTask.__post_init__(self)
        ProtocolTask.__post_init__(self)
        for field, least in (("length", 2), ("vocab_size", FIRST + 1), ("min_count", 1)):
            if getattr(self, field) is not None:
                check_count(self, field, least=least)

    @property
    def _vocabulary_size(self) -> int:
        return BYTES if self.setting("unit") == "bytes" else self.setting("vocab_size")

    def _spec(self, head: str) -> ModelSpec:
        return ModelSpec(
            head=head,
            vocab_size=self._vocabulary_size + self.cls,
            outputs=len(self.classes),
            length=self.setting("length") + self.cls,
            pooling=self._pooling,
        )

    def _source(self, split: Split, seed: int) -> DocumentSource:
        rows = self.split_rows(split)
        alphabet = self.alphabet() if self.setting("unit") == "characters" else None
        return DocumentSource(self, rows, alphabet)

    def alphabet(self) -> UInt32[np.ndarray, "characters"]:
        """The code points of the ids from 3 on, of the training documents."""
        key = dict(self.part(TRAIN).key)
        sizes = {"min_count": self.setting("min_count"), "most": self.setting("vocab_size") - FIRST}
        key |= {"split": f"{key['split']}-alphabet", **sizes}
        found = cache.find(key)
        if found is None:
            found = cache.keep(key, [{"points": self._count(**sizes)}])
        return found[0]["points"]

    def _count(self, min_count: int, most: int) -> UInt32[np.ndarray, "characters"]:
        rows = self.split_rows("train")
        counts = np.zeros(0x110000, np.int64)
        for i in range(len(rows)):
            row = rows[i]
            for name in self.texts:
                points = points_of(row[name])[: self.setting("length") - 1]
                found, times = np.unique(points, return_counts=True)
                counts[found] += times
        return alphabet_of(counts, min_count, most)

    def example(self, row: cache.Row) -> Example:
        """See `DocumentSource`, which knows the alphabet."""
        raise NotImplementedError("documents are read through their source")

    def encode(self, text: np.ndarray, ids: np.ndarray | None) -> Int32[np.ndarray, "length"]:
        """A document's tokens, padded on the right; `ids` maps code points."""
        length = self.setting("length")
        out = np.zeros(length + self.cls, np.int32)
        if self.cls:
            out[0] = self._vocabulary_size
        body = out[int(self.cls) :]
        if ids is None:
            tokens = text[:length].astype(np.int32) + 1
        else:
            points = np.minimum(points_of(text[: 4 * length])[: length - 1], len(ids) - 1)
            tokens = np.append(ids[points], END)
        body[: len(tokens)] = tokens
        return out

    def _read(self, tokens: np.ndarray) -> str:
        """Tokens as text; an unknown character is shown as a box."""
        tokens = tokens[int(self.cls) :]
        tokens = tokens[tokens > 0]
        if self.setting("unit") == "bytes":
            return bytes((tokens - 1).astype(np.uint8)).decode("utf-8", "replace")
        shown = np.concatenate([[0x20, 0x25A1, 0x23CE], self.alphabet()])
        return "".join(map(chr, shown[tokens].tolist()))


@dataclasses.dataclass(frozen=True)
class DocumentSource:
    """One split; `alphabet` has the code points of the ids from 3 on, None for bytes."""

    task: _Documents
    rows: Subset
    alphabet: np.ndarray | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        made = [self.task.encode(row[name], self._ids) for name in self.task.texts]
        inputs = made[0] if len(made) == 1 else np.stack(made)
        segment_ids = (inputs > 0).astype(np.int32)
        return {"inputs": inputs, "targets": np.int32(row["target"]), "segment_ids": segment_ids}

    @functools.cached_property
    def _ids(self) -> np.ndarray | None:
        if self.alphabet is None:
            return None
        ids = np.full(int(self.alphabet.max()) + 2, UNKNOWN, np.int32)  # the last: all beyond
        ids[self.alphabet] = np.arange(FIRST, FIRST + len(self.alphabet))
        return ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(_Documents):
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

    train_size: int = 25_000
    validation_size: int = 25_000  # the test split; not an option of its own
    test_size: int = 25_000

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
                    return _reviews_part(sorted(folder.glob(f"{name}/[np][eo][gs]/*.txt")), name)
            if archive.is_file():
                key = files_key("imdb", name, [archive], reader=1)
                return Part(key, lambda: _archived_reviews(archive, name))
            paths = parquet_files(root, name)
            if not paths:
                raise missing(self.name, root, self.fetch)
        return self._table_part(name, review_of, paths)

    @property
    def _dataset(self) -> str:
        return "imdb"

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The review and its sentiment."""
        return f"{self._read(example['inputs'])}\n= {SENTIMENTS[int(example['targets'])]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(_Documents):
    """Long Range Arena's Retrieval: whether one paper cites the other (AAN), by two towers."""

    name: ClassVar[str] = "retrieval"
    description: ClassVar[str] = "whether two papers are linked, by their texts (LRA, AAN)"
    cite: ClassVar[str] = "Radev et al. 2013; Tay et al. 2020, arXiv 2011.04006"
    family: ClassVar[str] = "retrieval"
    classes: ClassVar[tuple[str, ...]] = ("not linked", "linked")
    texts: ClassVar[tuple[str, ...]] = ("text1", "text2")
    fetch: ClassVar[str] = (
        "new_aan_pairs.train.tsv (8.5 GB), .eval.tsv and .test.tsv (1 GB each): they are in "
        "tsv_data/ of the Long Range Arena archive lra_release.gz (about 8 GB, linked from the "
        "README of google-research/long-range-arena on GitHub; unpack it with `tar xf "
        "lra_release.gz`), or in data/aan of OpenNLPLab/lra on the Hugging Face hub"
    )

    train_size: int = 147_086
    validation_size: int = 18_090
    test_size: int = 17_437

    @property
    def spec(self) -> ModelSpec:
        """One of two classes of a pair of documents."""
        return self._spec("two_tower")

    def part_of(self, split: Split) -> str:
        """The files' own splits."""
        return split

    def part(self, name: str) -> Part:
        """One of the three files."""
        file = self._file(name)
        key = files_key("aan", name, [file], reader=1)
        return Part(key, lambda: PairRows(file))

    def _file(self, name: str) -> Path:
        root = folder_of(self.name, self.data, self.fetch)
        file = f"new_aan_pairs.{'eval' if name == 'validation' else name}.tsv"
        for above in (*(f"{nest}/tsv_data" for nest in NESTING), "data/aan", "."):
            if (root / above / file).is_file():
                return root / above / file
        raise missing(self.name, root / file, self.fetch)

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The beginnings of both papers, and whether they are linked."""
        one, two = (self._read(row)[:600] for row in np.asarray(example["inputs"]))
        return f"{one} …\n--\n{two} …\n= {self.classes[int(example['targets'])]}"


class PairRows:
    """Lines of an AAN file: label, two names, two texts; tabs between, no quoting, no header."""

    def __init__(self, path: Path):
        self.path = path
        self._ends = line_ends(path)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> cache.Row:
        begin = int(self._ends[index - 1]) if index else 0
        with self.path.open("rb") as file:
            file.seek(begin)
            line = file.read(int(self._ends[index]) - begin)
        try:
            return pair_of(line)
        except ValueError as error:
            raise ValueError(f"{self.path}, line {index + 1}: {error}") from error

    def __reduce__(self):
        return PairRows, (self.path,)


@per_file
def line_ends(path: Path) -> np.ndarray:
    """The offset after each line of a file; the last one may lack its line end."""
    ends, at = [], 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            ends.append(np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + at + 1)
            at += len(block)
    found = np.concatenate(ends) if ends else np.zeros(0, np.int64)
    return found if at == 0 or (len(found) and found[-1] == at) else np.append(found, at)


def pair_of(line: bytes) -> cache.Row:
    """A row of an AAN line. Raises ValueError for a malformed one."""
    columns = line.decode("utf-8").rstrip("\r\n").split("\t")
    if len(columns) != 5:
        raise ValueError(f"expected 5 columns separated by tabs; got {len(columns)}")
    if columns[0] not in ("0.0", "1.0", "0", "1"):
        raise ValueError(f"the label must be 0.0 or 1.0; got {columns[0][:40]!r}")
    return {
        "text1": as_bytes(columns[3]),
        "text2": as_bytes(columns[4]),
        "target": np.uint8(columns[0][0] == "1"),
    }


class _ReviewOf:
    """Reads a hub row of IMDB."""

    columns = ("text", "label")

    def __call__(self, values: Mapping[str, Any]) -> cache.Row:
        if not isinstance(values["text"], str):
            raise ValueError(f"the text is {values['text']!r}")
        return {"text": as_bytes(values["text"]), "target": check_class(values["label"], 2)}


review_of = _ReviewOf()


def _reviews_part(paths: list[Path], name: str) -> Part:
    def rows() -> list[cache.Row]:
        return [_review(str(path), path.read_bytes()) for path in paths]

    return Part(files_key("imdb", name, paths, reader=1), rows)


def _archived_reviews(archive: Path, part: str) -> list[cache.Row]:
    if archive.stat().st_size == IMDB_BYTES:
        check_sum(archive, "md5", IMDB_MD5)
    found = {}
    for name, content in members(archive):
        folders = name.split("/")
        if folders[-3:-1] in ([part, "neg"], [part, "pos"]) and name.endswith(".txt"):
            found[name] = content
    return [_review(f"{archive}:{name}", found[name]) for name in sorted(found)]


def _review(name: str, content: bytes) -> cache.Row:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: {error}") from error
    return {"text": as_bytes(text), "target": np.uint8("/pos/" in name)}


def as_bytes(text: str) -> np.ndarray:
    """The UTF-8 bytes of the beginning of a text."""
    return np.frombuffer(text[:LONGEST].encode("utf-8", "replace"), np.uint8)


def points_of(text: np.ndarray) -> UInt32[np.ndarray, "characters"]:
    """The code points of UTF-8 bytes; a character that is cut off is left out."""
    decoded = text.tobytes().decode("utf-8", "ignore")
    return np.frombuffer(decoded.encode("utf-32-le"), "<u4")


def alphabet_of(counts: np.ndarray, min_count: int, most: int) -> UInt32[np.ndarray, "characters"]:
    """The commonest code points by falling count, ties by code point."""
    points = np.flatnonzero(counts >= min_count)
    order = np.argsort(-counts[points], kind="stable")[:most]
    return points[order].astype(np.uint32)
