"""Language modelling: predict the next token of a text.

A corpus says where the bytes of a split are; this file makes rows of them (`windows`,
`packing`), measures, and knows what compressors reach. Numbers are comparable across tokenizers:
bits per byte is all nats over all bytes that were predicted, divided by ln 2. How much context a
prediction had depends on `rows` and `length`, which belong to every number: windows start with
none, lanes carry state.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.language.compressors import bits_per_byte
from seqzoo.tasks.language.corpus import Corpus, kept_arrays
from seqzoo.tasks.language.packing import Packing, pack, packed_row
from seqzoo.tasks.language.tokenizers import (
    BPE,
    BYTES,
    Tokenizer,
    bpe,
    check_room,
    is_file,
    library,
)
from seqzoo.tasks.language.windows import Stream, count_windows, window
from seqzoo.tasks.task import (
    IGNORED,
    Example,
    Metrics,
    Source,
    Split,
    Task,
    check_count,
    measure_tokens,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelling(Task):
    """Next-token prediction on a corpus; subclasses read it."""

    main_metric: ClassVar[str] = "bits_per_byte"

    data: str = ""  # the file or folder of the corpus
    length: int = 1024  # tokens of a row
    rows: Literal["windows", "packed", "lanes"] = "windows"  # lanes: state goes on to the next row
    tokenizer: str = "byte"  # byte, bpe, or a tokenizer.json
    bpe_size: int = 4096  # tokens of the byte-pair encoding, learned from the train split
    vocab: int = 0  # tokens of a model whose tokenizer.json has fewer; 0: as many
    validation_bytes: int = 0  # of the validation split's beginning that count; 0: all

    def __post_init__(self) -> None:
        check_count(self, "length")
        check_count(self, "bpe_size", least=257, most=2**20)
        check_count(self, "validation_bytes", least=0)
        check_count(self, "vocab", least=0)
        words = ("byte", "bpe", "the name of a tokenizer.json that is there")
        for field, known in (("rows", tuple(_ROWS)), ("tokenizer", words)):
            if getattr(self, field) not in known and not is_file(getattr(self, field)):
                raise ValueError(
                    f"task {self.name}: {field} must be one of {', '.join(known)}; "
                    f"got {getattr(self, field)!r}"
                )
        if is_file(self.tokenizer):
            check_room(f"task {self.name}", self.tokenizer, self.vocab)

    @abc.abstractmethod
    def _text(self, split: Split) -> Corpus:
        """The bytes of a split. Raises FileNotFoundError, which says what to fetch."""

    @abc.abstractmethod
    def corpus_key(self) -> str:
        """A short name of what `_text` reads, for the cache; another content has another name."""

    def text(self, split: Split) -> Corpus:
        """The bytes of a split as they count."""
        text = _text_of(self._text_only(), split)
        limited = split == "validation" and self.validation_bytes
        return text.head(self.validation_bytes) if limited else text

    @property
    def stateful(self) -> bool:
        """Whether row i + 1 continues row i."""
        return self.rows == "lanes"

    @property
    def spec(self) -> ModelSpec:
        """One token at every position."""
        size = self.bpe_size if self.tokenizer == "bpe" else self.vocab
        if self.tokenizer == "byte":
            size = self._characters.size
        size = size or self.make_tokenizer().size
        return ModelSpec(
            head="lm",
            vocab_size=size,
            outputs=size,
            length=self.length,
            packed=self.rows == "packed",
            causal=True,
        )

    @property
    def _characters(self) -> Tokenizer:
        return BYTES

    def make_tokenizer(self) -> Tokenizer:
        """The tokenizer; byte-pair encoding is learned from the train split, once."""
        if self.tokenizer == "byte":
            return self._characters
        if is_file(self.tokenizer):
            return BPE(library(self.tokenizer))
        return _bpe_of(self._text_only())

    def _text_only(self) -> LanguageModelling:
        """This task with nothing set that does not change text or tokenizer."""
        return dataclasses.replace(self, length=1, rows="windows", vocab=0, validation_bytes=0)

    def _source(self, split: Split, seed: int) -> Source:
        stream = self.stream(split)
        if len(stream.tokens) <= self.length:
            raise ValueError(
                f"task {self.name}: the {split} split has {len(stream.tokens)} tokens; it needs "
                f"more than length={self.length}"
            )
        return _ROWS[self.rows](self, split)

    def stream(self, split: Split) -> Stream:
        """The tokens of a split."""
        return _stream_for(self, split)

    def _as_split(self, split: Split) -> LanguageModelling:
        limit = self.validation_bytes if split == "validation" else 0
        return dataclasses.replace(self._text_only(), validation_bytes=limit)

    def words_per_byte(self, split: Split) -> float | None:
        """Words over bytes of a split, where the corpus counts perplexity a word."""
        return None

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """`loss` in nats a token, `bits_per_byte`, and `token_accuracy`."""
        found = measure_tokens(outputs, batch)
        total, tokens = found["loss"]
        size = jnp.sum(batch["bytes"] * batch["weight"]) if "bytes" in batch else tokens
        metrics = {
            "loss": (total, tokens),
            "bits_per_byte": (total / math.log(2), size),
            "token_accuracy": found["token_accuracy"],
        }
        if "words" in batch:
            metrics["nats_per_word"] = total, jnp.sum(batch["words"] * batch["weight"])
        return metrics

    def derived(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Perplexity a word, where words are counted."""
        if "nats_per_word" not in metrics:
            return {}
        nats = metrics["nats_per_word"]
        xp = jnp if isinstance(nats, jax.Array) else np
        return {"word_perplexity": xp.exp(nats)}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Bits per byte by compressors, on the same bytes."""
        self.effective_seed(split, 0)
        train = None if split == "train" else self.text("train").data
        found, words = bits_per_byte(self.text(split).data, train), self.words_per_byte(split)
        if self.main_metric == "bits_per_byte":
            return found
        return {name: math.exp(bits * math.log(2) / words) for name, bits in found.items()}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The text of a row; packed documents on lines of their own."""
        inputs, tokenizer = np.asarray(example["inputs"]), self.make_tokenizer()
        ids = np.asarray(example.get("segment_ids", np.ones(len(inputs), np.int32)))
        parts = [tokenizer.decode(inputs[ids == i]) for i in range(1, int(ids.max()) + 1)]
        return "\n".join(repr(part.decode(errors="replace")) for part in parts)


@functools.lru_cache(maxsize=8)
def _text_of(corpus: LanguageModelling, split: Split) -> Corpus:
    return corpus._text(split)


@functools.lru_cache(maxsize=4)
def _bpe_of(corpus: LanguageModelling) -> Tokenizer:
    return bpe(corpus.text("train"), corpus.bpe_size, corpus.corpus_key())


@functools.lru_cache(maxsize=32)
def _stream_for(task: LanguageModelling, split: Split) -> Stream:
    return _stream_of(task._as_split(split), split)


@functools.lru_cache(maxsize=8)
def _stream_of(task: LanguageModelling, split: Split) -> Stream:
    text = task.text(split)
    tokenizer = task.make_tokenizer()
    if tokenizer is BYTES:
        return Stream(*text)
    if task.tokenizer == "byte":
        return Stream(tokenizer.encode(text.data.tobytes()), text.starts)
    made_by = str(task.bpe_size)
    if is_file(task.tokenizer):
        made_by = hashlib.sha256(Path(task.tokenizer).read_bytes()).hexdigest()[:16]
    name = f"tokens-{task.corpus_key()}-{split}-{made_by}-{task.validation_bytes}"
    dtype = np.uint16 if tokenizer.size <= 2**16 else np.uint32
    return Stream(*kept_arrays(name, dtype, lambda: map(tokenizer.encode, text.documents())))


@functools.lru_cache(maxsize=8)
def _packing_of(task: LanguageModelling, split: Split) -> Packing:
    return pack(task.stream(split), task.length)


@dataclasses.dataclass(frozen=True)
class WindowSource:
    """One split in windows; the same for every seed."""

    task: LanguageModelling
    split: Split
    padded: ClassVar[bool] = False

    def __len__(self) -> int:
        return count_windows(self.task.stream(self.split), self.task.length)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return _counted(self.task, self.split, self._row(int(index)))

    def _row(self, index: int) -> Example:
        stream = self.task.stream(self.split)
        return window(stream, self.task.length, index, padded=self.padded)


@dataclasses.dataclass(frozen=True)
class LaneSource(WindowSource):
    """Windows of which each continues the one before."""

    padded: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class PackedSource(WindowSource):
    """One split in rows of whole documents or large pieces."""

    def __len__(self) -> int:
        return len(self._packing.rows) - 1

    @property
    def _packing(self) -> Packing:
        return _packing_of(self.task, self.split)

    def _row(self, index: int) -> Example:
        stream = self.task.stream(self.split)
        return packed_row(stream, self._packing, self.task.length, index)


_ROWS = {"windows": WindowSource, "packed": PackedSource, "lanes": LaneSource}


def _counted(task: LanguageModelling, split: Split, example: Example) -> Example:
    """Adds the bytes (and words) that the targets stand for, where tokens are not bytes."""
    words = _words_of(task, split)
    if task.tokenizer == "byte" and words is None:
        return example
    targets = example["targets"]
    size = task.make_tokenizer().bytes_of[targets[targets != IGNORED]].sum(dtype=np.float32)
    return {**example, "bytes": size, **({} if words is None else {"words": size * words})}


@functools.lru_cache(maxsize=32)
def _words_of(task: LanguageModelling, split: Split) -> np.float32 | None:
    words = task.words_per_byte(split)
    return None if words is None else np.float32(words)
