"""Language modelling on any text file or folder of files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from seqzoo.tasks.language import corpus
from seqzoo.tasks.language.corpus import Corpus
from seqzoo.tasks.language.modelling import LanguageModelling
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
        return corpus.fingerprint(self._files())

    def _files(self) -> list[Path]:
        if not self.data:
            raise FileNotFoundError("task bytes: name a text file or folder with the option data")
        root = Path(self.data).expanduser()
        found = [root] if root.is_file() else corpus.files_below(root, self.pattern)
        if not found:
            raise FileNotFoundError(f"task bytes: no file {self.pattern!r} in {root}")
        return found

    def _text(self, split: Split) -> Corpus:
        files, root = self._files(), Path(self.data).expanduser()
        if all((root / name).is_dir() for name in SPLITS):
            return corpus.joined_files([p for p in files if p.relative_to(root).parts[0] == split])
        if len(files) >= corpus.SPLIT:
            return corpus.joined_files(corpus.of_split(files, split))
        data = corpus.mapped(files[0]) if len(files) == 1 else corpus.joined_files(files).data
        return Corpus.one(corpus.cut(data, split))
