"""enwik8 and text8: 10^8 bytes of Wikipedia, with its markup and as bare letters."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from seqzoo.tasks.data.archives import is_zip, zip_member
from seqzoo.tasks.data.damage import HEAD, damaged
from seqzoo.tasks.data.parquet import column_bytes, split_files
from seqzoo.tasks.data.places import place
from seqzoo.tasks.language import corpus
from seqzoo.tasks.language.corpus import Corpus
from seqzoo.tasks.language.modelling import LanguageModelling
from seqzoo.tasks.language.tokenizers import LETTERS, Tokenizer
from seqzoo.tasks.task import SPLITS, Needs, Split


class _HutterPrize(LanguageModelling):
    """What enwik8 and text8 share: 10^8 bytes, of which the last two twentieths are held out."""

    needs: ClassVar[Needs] = "download"
    SIZE: ClassVar[int] = 100_000_000
    HELD_OUT: ClassVar[int] = 5_000_000  # bytes of validation and of test
    MD5: ClassVar[str]

    def corpus_key(self) -> str:
        """The name; there is one such file."""
        return f"{self.name}-{self.MD5[:8]}"

    def data_files(self, split: Split) -> list[Path]:
        """The one file, or the hub's files of all splits."""
        return _files(type(self), self.data)

    def _text(self, split: Split) -> Corpus:
        whole = _whole(type(self), self.data)
        end = {"train": -2 * self.HELD_OUT, "validation": -self.HELD_OUT, "test": None}[split]
        begin = {"train": 0, "validation": -2 * self.HELD_OUT, "test": -self.HELD_OUT}[split]
        return Corpus.one(whole[begin:end])


def _files(kind: type[_HutterPrize], data: str) -> list[Path]:
    """The plain file or the archive, else the hub's files of all splits in order."""
    name, root = kind.name, place(data or kind.name)
    places = [root, root / name, root / f"{name}.zip", root / name / name]
    path = next((p for p in places if p.is_file()), None)
    if path is not None:
        return [path]
    parts = [split_files(root, split, ("data", ".")) for split in SPLITS]
    if not all(parts):
        raise FileNotFoundError(
            f"task {name}: there is no {name} or {name}.zip in {root}. Fetch {name}.zip (about "
            f"30 MB, {kind.SIZE:,} bytes unpacked) from mattmahoney.net/dc and give the file "
            "or its folder as the option data"
        )
    return [file for files in parts for file in files]


@functools.lru_cache(maxsize=2)
def _whole(kind: type[_HutterPrize], data: str) -> np.ndarray:
    files, name = _files(kind, data), kind.name
    path = files[0]
    if path.suffix == ".parquet":
        path = path.parent
        whole = np.frombuffer(b"".join(column_bytes(files, "text")), np.uint8)
    elif is_zip(path):
        whole = np.frombuffer(zip_member(path, name), np.uint8)
    else:
        whole = corpus.mapped(path)
    what, head = f"the file {name}", whole[:HEAD].tobytes()
    if len(whole) != kind.SIZE:
        raise damaged(path, what, head, f"{len(whole):,} bytes; {name} has {kind.SIZE:,}")
    found = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    if found != kind.MD5:
        raise damaged(path, what, head, f"its MD5 sum is {found}, not {kind.MD5}")
    return whole


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
