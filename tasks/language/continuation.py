"""Text of tokens that come one by one: whole characters, up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqzoo.tasks.language.tokenizers import Tokenizer

CUT = b"\xef\xbf\xbd"  # what tokenizers give for a character that is not whole
LONGEST = 4  # bytes of a character


class Continuation:
    """The text of one row. `push` gives what is certain of it; `done` says that no more counts.

    Tokens are decoded behind those that were decoded before, since some tokenizers write a token
    at the beginning of a text otherwise than behind others.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], end: frozenset[int]
    ):
        """`stop`: strings that end the text and are no part of it. `end`: tokens that do."""
        self._tokenizer, self._end = tokenizer, end
        self._stop = [text.encode() for text in stop]
        self._tokens = list(prompt[-LONGEST:])
        self._read = len(self._tokens)  # tokens whose text was taken
        self._held = b""  # text that may begin a stop string
        self.done, self.count = False, 0

    def push(self, token: int) -> bytes:
        """The text that is certain now and was not before."""
        if self.done:
            return b""
        self.count += 1
        if token in self._end:
            text = self.rest()
            self.done = True
            return text
        self._tokens.append(token)
        text = self._unread()
        if text.endswith(CUT) and len(self._tokens) - self._read < LONGEST:
            return b""  # more bytes of a character are to come
        self._tokens = self._tokens[self._read :]
        self._read = len(self._tokens)
        return self._certain(self._held + text)

    def rest(self) -> bytes:
        """What was held back, where no more tokens come."""
        text = b"" if self.done else self._held + self._unread()
        self._held, self._read = b"", len(self._tokens)
        return text

    def _unread(self) -> bytes:
        before = self._decode(self._tokens[: self._read])
        return self._decode(self._tokens)[len(before) :]

    def _certain(self, text: bytes) -> bytes:
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.done, self._held = True, b""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decode(self, tokens: list[int]) -> bytes:
        return self._tokenizer.decode(np.asarray(tokens, np.int64))


def _overlap(text: bytes, stop: bytes) -> int:
    """Bytes at the end of a text that begin a stop string."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
