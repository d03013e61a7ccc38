"""What a column's values are as sequences: text, tokens, words, or real numbers in channels.

A `Reading` is found from the rows once and is plain data; it then makes arrays of any row.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from seqzoo.models.errors import unknown
from seqzoo.tasks.language.tokenizers import is_file, library

Form = Literal["text", "tokens", "words", "reals"]
Tokens = str  # byte, character, or the file of a tokenizer
NUMBER = re.compile(r"[\s,;]+")
UNKNOWN = 0  # id of characters and words that no training row has
MOST = 2**24  # largest token id: its embedding would not fit otherwise


class RowError(ValueError):
    """What is wrong with a value; whoever knows the row adds it."""


def sequence(value: Any, *, numbers: bool = False) -> tuple[Form, Any]:
    """A value as text (bytes), tokens [L], words, or reals [L, channels].

    With `numbers` a text holds numbers, as in `0.1 0.2` or `[0.1, 0.2]`. Raises RowError.
    """
    if isinstance(value, str) and numbers:
        return sequence(_parsed(value))
    if isinstance(value, str):
        return "text", value.encode()
    if isinstance(value, bytes):
        return "text", value
    if value is None:
        raise RowError("is empty")
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return "words", value
    try:
        array = np.asarray(value)
    except ValueError:
        raise RowError("has steps of different numbers of channels") from None
    if array.dtype == object or array.dtype.kind not in "iufb" or array.ndim not in (1, 2):
        raise RowError(f"is {_shown(value)}; a sequence is a text or a list of numbers or words")
    if array.dtype.kind in "iub" and array.ndim == 1:
        return "tokens", array.astype(np.int64)
    reals = array.astype(np.float32)
    if not np.isfinite(reals).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(reals))[0])
        raise RowError(f"is not finite at step {at[0]}")
    return "reals", reals[:, None] if reals.ndim == 1 else reals


def _parsed(text: str) -> np.ndarray:
    words = [word for word in NUMBER.split(text.strip().strip("[]()").strip()) if word]
    try:
        return np.array([int(word) for word in words], np.int64)
    except ValueError:
        pass
    try:
        return np.array([float(word) for word in words])
    except ValueError as error:
        raise RowError(f"holds no numbers: {error}") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."


@dataclasses.dataclass
class Found:
    """What the training rows hold, gathered row by row."""

    form: Form | None = None
    longest: int = 0
    largest: int = 0  # token
    channels: int = 0
    symbols: set[str] = dataclasses.field(default_factory=set)  # characters or words
    count: int = 0  # of real steps
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, form: Form, value: Any, tokens: Tokens) -> None:
        """Takes in one sequence. Raises RowError where it is unlike those before."""
        if self.form not in (None, form) and {self.form, form} != {"tokens", "reals"}:
            raise RowError(f"is of {form}; the rows before are of {self.form}")
        self.form = "reals" if "reals" in (self.form, form) else form
        if form == "text" and tokens == "character":
            value = _text(value)
            self.symbols.update(value)
        if form == "words":
            self.symbols.update(value)
        if form == "tokens" and len(value) and not 0 <= value.min() <= value.max() < MOST:
            low, high = int(value.min()), int(value.max())
            raise RowError(f"has tokens from {low} to {high}; they go from 0 to {MOST - 1}")
        if form == "tokens" and len(value):
            self.largest = max(self.largest, int(value.max()))
        if form in ("tokens", "reals"):
            reals = value[:, None] if value.ndim == 1 else value
            if self.channels not in (0, reals.shape[1]):
                raise RowError(f"has {reals.shape[1]} channels; rows before have {self.channels}")
            self.channels = reals.shape[1]
            self.count += len(reals)
            self.total = self.total + reals.sum(0, dtype=np.float64)
            self.squares = self.squares + np.square(reals, dtype=np.float64).sum(0)
        self.longest = max(self.longest, len(value))

    def reading(self, tokens: Tokens, standardise: bool) -> Reading:
        """What makes arrays of rows."""
        mean = scale = ()
        if self.form == "reals" and standardise:
            mean = self.total / max(self.count, 1)
            spread = np.sqrt(np.maximum(self.squares / max(self.count, 1) - mean**2, 0))
            scale = tuple(np.where(spread > 0, spread, 1.0).tolist())
            mean = tuple(mean.tolist())
        return Reading(
            form=self.form,
            tokens=tokens,
            size=self.largest + 1,
            channels=self.channels,
            symbols=tuple(sorted(self.symbols)),
            mean=mean,
            scale=scale,
        )


@dataclasses.dataclass(frozen=True)
class Reading:
    """How values become arrays: plain data, the same for every row."""

    form: Form
    tokens: Tokens
    size: int  # tokens that were found
    channels: int
    symbols: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def vocab_size(self) -> int | None:
        """How many token ids there are; None for real numbers."""
        if self.form == "reals":
            return None
        if self.form == "tokens":
            return self.size
        if self.form == "words" or self.tokens == "character":
            return len(self.symbols) + 1
        return 256 if self.tokens == "byte" else library(self.tokens).get_vocab_size()

    def array(self, form: Form, value: Any) -> np.ndarray:
        """Ids [L] or reals [L, channels]. Raises RowError for what no training row is like."""
        if self.form == "reals" and form in ("tokens", "reals"):
            reals = (value[:, None] if value.ndim == 1 else value).astype(np.float32)
            if reals.shape[1] != self.channels:
                raise RowError(f"has {reals.shape[1]} channels; training rows have {self.channels}")
            if self.mean:
                reals = (reals - np.float32(self.mean)) / np.float32(self.scale)
            return reals.astype(np.float32)
        if form != self.form:
            raise RowError(f"is of {form}; training rows are of {self.form}")
        if form == "tokens":
            return self._checked(value)
        if form == "words":
            return np.array([self._ids.get(word, UNKNOWN) for word in value], np.int32)
        if self.tokens == "byte":
            return np.frombuffer(value, np.uint8).astype(np.int32)
        if self.tokens == "character":
            return np.array([self._ids.get(sign, UNKNOWN) for sign in _text(value)], np.int32)
        ids = library(self.tokens).encode(_text(value), add_special_tokens=False).ids
        return np.array(ids, np.int32)

    def words(self, ids: np.ndarray) -> str:
        """Tokens for human eyes."""
        if self.form == "tokens":
            return " ".join(map(str, ids.tolist()))
        if self.form == "words" or self.tokens == "character":
            between = " " if self.form == "words" else ""
            return between.join(self.symbols[i - 1] if i else "?" for i in ids.tolist())
        if self.tokens == "byte":
            return ids.astype(np.uint8).tobytes().decode(errors="replace")
        return library(self.tokens).decode(ids.tolist())

    @functools.cached_property
    def _ids(self) -> Mapping[str, int]:
        return {symbol: i + 1 for i, symbol in enumerate(self.symbols)}

    def _checked(self, value: np.ndarray) -> np.ndarray:
        if len(value) and not 0 <= value.min() <= value.max() < min(self.size, MOST):
            raise RowError(
                f"has the token {int(value.min() if value.min() < 0 else value.max())}; training "
                f"rows have 0 to {self.size - 1}"
            )
        return value.astype(np.int32)


def check_tokens(tokens: Tokens) -> None:
    """Raises ValueError for what names no way to make tokens of a text."""
    if tokens not in ("byte", "character"):
        if is_file(tokens):
            library(tokens)
            return
        raise ValueError(
            f"{unknown('tokens', tokens, ('byte', 'character'))}, or a tokenizer.json file"
        )


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RowError(f"is no UTF-8: {error}") from None


def number(value: Any) -> np.ndarray:
    """A target for regression: one number or several. Raises RowError."""
    try:
        found = np.atleast_1d(np.asarray(value, np.float32))
    except (TypeError, ValueError):
        raise RowError(f"is {_shown(value)}; a target is a number or a list of numbers") from None
    if value is None or found.ndim != 1 or not np.isfinite(found).all():
        raise RowError(f"is {_shown(value)}, not finite numbers")
    return found


def label(value: Any) -> str | int:
    """A class: a text or an integer. Raises RowError."""
    value = (
        value.item() if isinstance(value, np.generic | np.ndarray) and value.ndim == 0 else value
    )
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if not isinstance(value, int | str) or value == "":
        raise RowError(f"is {_shown(value)}; a class is a text or an integer")
    return value


def classes_of(found: Sequence[str | int]) -> tuple[str | int, ...]:
    """All classes in order: integers first, then texts."""
    return tuple(sorted(set(found), key=lambda v: (isinstance(v, str), v)))
