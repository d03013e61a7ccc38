"""What Text and Retrieval share: documents as bytes or characters.

Bytes: id = byte + 1, 0 is padding. Characters: 0 padding, 1 unknown, 2 end, then by falling
frequency in the training documents, ties by code point; an end token closes each document.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int32, UInt32

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.stored import TRAIN, StoredTask, Subset
from seqzoo.tasks.protocols import ProtocolTask
from seqzoo.tasks.task import Example, Split, check_count

UNKNOWN, END, FIRST = 1, 2, 3  # ids of characters
BYTES = 257
LONGEST = 16_000  # characters of a document that are kept in the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentTask(StoredTask, ProtocolTask):
    """Rows hold UTF-8 bytes."""

    settled: ClassVar[tuple[str, ...]] = ("unit", "length", "vocab_size", "min_count", "pooling")
    texts: ClassVar[tuple[str, ...]]  # columns of a row with a document

    unit: Literal["bytes", "characters"] | None = None  # a token; None: the protocol's
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

    task: DocumentTask
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
