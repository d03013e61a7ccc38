"""What texts are made of: bytes, or the tokens of a tokenizer's file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from seqzoo.tasks.language.tokenizers import library

Spans = Sequence[tuple[int, int]]  # begin and end of strings, in bytes of the text


class Codec(Protocol):
    """A map from text to tokens that knows which bytes a token has."""

    size: int

    def counts(self, pieces: Sequence[bytes]) -> np.ndarray:
        """Tokens of each piece alone."""

    def encode(self, text: bytes, spans: Spans) -> tuple[np.ndarray, np.ndarray]:
        """Ids, and for each the number of the span that has it, from 1 on; 0: in none."""

    def decode(self, ids: np.ndarray) -> str:
        """The text of some ids."""


class Bytes:
    """One token a byte."""

    size = 256

    def counts(self, pieces: Sequence[bytes]) -> np.ndarray:
        """Bytes of each piece."""
        return np.fromiter(map(len, pieces), np.int64, len(pieces))

    def encode(self, text: bytes, spans: Spans) -> tuple[np.ndarray, np.ndarray]:
        """The bytes themselves."""
        part = np.zeros(len(text), np.int32)
        for i, (begin, end) in enumerate(spans, 1):
            part[begin:end] = i
        return np.frombuffer(text, np.uint8).astype(np.int32), part

    def decode(self, ids: np.ndarray) -> str:
        """The text, bytes that are none as Latin letters."""
        return bytes(np.asarray(ids, np.uint8)).decode("latin-1")


class File:
    """The tokenizer in a file of the library `tokenizers`. Raises ValueError for another file."""

    def __init__(self, file: str):
        self._library = library(file)
        self.size = self._library.get_vocab_size()

    def counts(self, pieces: Sequence[bytes]) -> np.ndarray:
        """Tokens of each piece alone, equal ones asked for once."""
        kinds = list(dict.fromkeys(pieces))
        found = self._library.encode_batch(
            [kind.decode(errors="replace") for kind in kinds], add_special_tokens=False
        )
        count = {kind: len(e.ids) for kind, e in zip(kinds, found, strict=True)}
        return np.fromiter((count[piece] for piece in pieces), np.int64, len(pieces))

    def encode(self, text: bytes, spans: Spans) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the whole text; a token on the border of a span is in it."""
        found = self._library.encode(text.decode(errors="replace"), add_special_tokens=False)
        offsets = np.asarray(found.offsets, np.int64).reshape(-1, 2)
        part = np.zeros(len(offsets), np.int32)
        for i, span in enumerate(spans, 1):
            begin, end = (len(text[:at].decode(errors="replace")) for at in span)
            part[(offsets[:, 1] > begin) & (offsets[:, 0] < end)] = i
        return np.asarray(found.ids, np.int32), part

    def decode(self, ids: np.ndarray) -> str:
        """The text of some tokens."""
        return self._library.decode(np.asarray(ids).tolist(), skip_special_tokens=False)


BYTES = Bytes()


def codec(tokenizer: str) -> Codec:
    """That of `byte`, or of a tokenizer's file."""
    return BYTES if tokenizer == "byte" else File(tokenizer)
