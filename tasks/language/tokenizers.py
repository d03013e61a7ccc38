"""From bytes to token ids and back: single bytes, a small alphabet, or byte-pair encoding.

    tokenizer = bpe(text, size, key)       # learned from the train split, kept in the cache
    ids = tokenizer.encode(b"...")         # decode(encode(x)) == x
    tokenizer.bytes_of[ids]                # bytes that each token stands for

Byte-pair encoding is that of GPT-2 (Sennrich et al. 2016 over bytes, Radford et al. 2019), by the
library `tokenizers`; it starts from all 256 bytes, so that nothing is out of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Int32

from seqzoo.tasks.data.cache_folder import text_entry
from seqzoo.tasks.language.corpus import Corpus

if TYPE_CHECKING:
    import tokenizers
    from etils import epath

VERSION = 1  # part of the cache's names: raise it when the same text gives another tokenizer
PIECE = 2**16  # bytes that are encoded at once; pieces end at line ends
LEARN_FROM = 50_000_000  # bytes of the train split that a tokenizer is learned from


class Tokenizer(Protocol):
    """A map between bytes and ids below `size`."""

    size: int

    @property
    def bytes_of(self) -> Int32[np.ndarray, "size"]:
        """How many bytes each token stands for."""

    def encode(self, data: bytes) -> np.ndarray:
        """Token ids; raises ValueError for what has none."""

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of some tokens."""


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """One token a byte; ids follow the order of `characters`."""

    characters: bytes

    @property
    def size(self) -> int:
        """Distinct characters."""
        return len(self.characters)

    @property
    def bytes_of(self) -> Int32[np.ndarray, "size"]:
        """All one."""
        return np.ones(self.size, np.int32)

    def encode(self, data: bytes) -> np.ndarray:
        """Ids of single bytes. Raises ValueError for a byte outside the alphabet."""
        ids = self._table[np.frombuffer(data, np.uint8)]
        if ids.size and ids.min() < 0:
            at = int(np.argmax(ids < 0))
            raise ValueError(f"byte {data[at]} at offset {at} is none of {self.characters!r}")
        return ids.astype(np.uint8)

    def decode(self, ids: np.ndarray) -> bytes:
        """The characters of some ids."""
        return np.frombuffer(self.characters, np.uint8)[np.asarray(ids, np.int64)].tobytes()

    @functools.cached_property
    def _table(self) -> np.ndarray:
        table = np.full(256, -1, np.int16)
        table[np.frombuffer(self.characters, np.uint8)] = np.arange(self.size)
        return table


BYTES = Alphabet(bytes(range(256)))
LETTERS = Alphabet(b" abcdefghijklmnopqrstuvwxyz")  # those of text8


class BPE:
    """Byte-pair encoding; made by `bpe`."""

    def __init__(self, library: tokenizers.Tokenizer):
        self._library = library
        self.size = library.get_vocab_size()

    @functools.cached_property
    def bytes_of(self) -> Int32[np.ndarray, "size"]:
        """How many bytes each token stands for."""
        words = self._library.get_vocab(with_added_tokens=False)
        bytewise = "ByteLevel" in json.dumps(json.loads(self._library.to_str())["decoder"])
        counts = np.zeros(self.size, np.int32)
        for word, i in words.items():
            counts[i] = len(word) if bytewise else _written(word)
        return counts

    def encode(self, data: bytes) -> np.ndarray:
        """Ids of UTF-8 text. Raises ValueError where it is none."""
        try:
            text = _utf8(data)
        except ValueError as error:
            raise ValueError(f"{error}; use tokenizer='byte'") from None
        encoded = self._library.encode_batch_fast(list(_pieces(text)), add_special_tokens=False)
        dtype = np.uint16 if self.size <= 2**16 else np.uint32
        return np.concatenate([np.asarray(e.ids, dtype) for e in encoded] or [np.zeros(0, dtype)])

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of some tokens; a character that is cut becomes the replacement character."""
        return self._library.decode(np.asarray(ids).tolist(), skip_special_tokens=False).encode()


class Published(BPE):
    """The tokenizer.json of published weights, whatever is in it; made by `published`."""

    def encode(self, data: bytes) -> np.ndarray:
        """Ids of UTF-8 text, with what the file puts before it. Raises ValueError for no UTF-8."""
        return np.asarray(self._library.encode(_utf8(data)).ids, np.int64)

    def decode(self, ids: np.ndarray) -> bytes:
        """The text of some tokens, without the special ones."""
        return self._library.decode(np.asarray(ids).tolist()).encode()


def published(file: epath.Path) -> Published:
    """The tokenizer in a file. Raises ValueError for one that the library cannot read."""
    return Published(library(str(file)))


@functools.lru_cache(maxsize=4)
def library(file: str) -> tokenizers.Tokenizer:
    """The library's tokenizer in a file. Raises ValueError without it and for another file."""
    from etils import epath

    try:
        import tokenizers
    except ImportError:
        raise ValueError("tokenizer files need `pip install 'seqzoo[text]'`") from None
    try:
        return tokenizers.Tokenizer.from_str(epath.Path(file).read_text())
    except Exception as error:  # which is all that the library says of its own
        raise ValueError(f"{file} is no tokenizer of the library tokenizers: {error}") from None


def is_file(name: str) -> bool:
    """Whether a name of a task's tokens is that of a tokenizer's file, which is there."""
    return name.endswith(".json") and Path(name).is_file()


def check_room(what: str, file: str, room: int) -> None:
    """Raises ValueError where a tokenizer has more tokens than a model; `room` 0: all it has."""
    size = library(file).get_vocab_size()
    if room and size > room:
        raise ValueError(
            f"{what}: {file} has {size} tokens and the model {room}, so they do not belong "
            "together; give the tokenizer of these weights, or other tokens (byte)"
        )


def bpe(text: Corpus, size: int, key: str) -> BPE:
    """The tokenizer of `size` tokens learned from a text, or the one in the cache under `key`.

    Raises ImportError without the library, ValueError where the text has fewer tokens than that.
    """
    import tokenizers

    def learned() -> str:
        library = _learn(text.head(LEARN_FROM), size)
        found = library.get_vocab_size()
        if found != size:
            raise ValueError(
                f"the text gives a tokenizer of {found} tokens, not {size}; ask for at most {found}"
            )
        return library.to_str()

    name = f"bpe-{size}-{key}-v{VERSION}.json"
    return BPE(text_entry(name, learned, tokenizers.Tokenizer.from_str))


def _written(word: str) -> int:
    """Bytes of a token as tokenizers of characters write it: ▁ a space, ## a word's end, <0x0A>."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", word):
        return 1
    return len(word.replace("▁", " ").removeprefix("##").encode())


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8 ({error}), as byte-pair encoding needs") from None


def _learn(text: Corpus, size: int) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(_decoded(text), trainer)
    return library


def _decoded(text: Corpus) -> Iterator[str]:
    for document in text.documents():
        yield from _pieces(document.decode(errors="replace"))


def _pieces(text: str) -> Iterator[str]:
    """Parts of about PIECE characters that end where a line does, if lines are that short."""
    begin = 0
    line_end = re.compile("\n(?=[^\\s])")
    while begin < len(text):
        found = line_end.search(text, begin + PIECE, begin + 2 * PIECE)
        end = found.end() if found else min(begin + 2 * PIECE, len(text))
        yield text[begin:end]
        begin = end
