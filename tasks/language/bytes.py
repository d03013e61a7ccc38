"""Language modelling on any text file or folder of files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from seqzoo.tasks.data.folders import files_below
from seqzoo.tasks.data.places import place
from seqzoo.tasks.language import corpus
from seqzoo.tasks.language.corpus import Corpus
from seqzoo.tasks.language.modelling import LanguageModelling
from seqzoo.tasks.task import SPLITS, Needs, Split

NAMES: Mapping[str, str] = {  # of folders and files -> the split that they are of
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes(LanguageModelling):
    """Any file or folder.

    A file is cut 90, 5 and 5%. A folder with splits of its own keeps them: folders `train`,
    `validation` (`valid`, `val`, `dev`) and `test`, or files such as `wiki.valid.txt` and
    `wiki_valid.txt`; one that has some of them is refused. Otherwise of each twenty files in order
    of their paths, the 19th is validation and the 20th test (fewer than twenty files are joined and
    cut).
    """

    name: ClassVar[str] = "bytes"
    description: ClassVar[str] = "language modelling on any text file or folder"
    cite: ClassVar[str] = "your own text"
    needs: ClassVar[Needs] = "files"

    pattern: str = "*"  # files of a folder that count, as in "*.txt"
    splits: Literal["own", "cut"] = "own"  # cut: a folder's train, test, ... are names like others

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.splits not in ("own", "cut"):
            raise ValueError(f"task bytes: splits must be own or cut; got {self.splits!r}")

    def corpus_key(self) -> str:
        """Names, sizes and times of the files, and how they are divided."""
        return f"{corpus.fingerprint(self._files())}-{self.splits}"

    def _files(self) -> list[Path]:
        if not self.data:
            raise FileNotFoundError("task bytes: name a text file or folder with the option data")
        root = place(self.data)
        found = [root] if root.is_file() else files_below(root, f"**/{self.pattern}")
        if not found:
            raise FileNotFoundError(f"task bytes: no file {self.pattern!r} in {root}")
        return found

    def data_files(self, split: Split) -> list[Path]:
        """The split's own files, or all where they are divided here."""
        files = self._files()
        own = self._own(files) if self.splits == "own" else None
        return own[split] if own else files

    def _text(self, split: Split) -> Corpus:
        files = self._files()
        own = self._own(files) if self.splits == "own" else None
        if own:
            return corpus.joined_files(own[split])
        if len(files) >= corpus.SPLIT:
            return corpus.joined_files(corpus.of_split(files, split))
        data = corpus.mapped(files[0]) if len(files) == 1 else corpus.joined_files(files).data
        return Corpus.one(corpus.cut(data, split))

    def _own(self, files: list[Path]) -> dict[str, list[Path]] | None:
        """The files of each split, where the folder says; raises ValueError where it half does."""
        root = place(self.data)
        if root.is_file():
            return None
        named: dict[str, list[Path]] = {}
        for path in files:
            named.setdefault(split_named(path.relative_to(root)), []).append(path)
        named.pop(None, None)
        lacking = [split for split in SPLITS if split not in named]
        if not lacking:
            return named
        # A lone test.txt among other files is one of them; a folder `test` is not.
        in_folders = any(
            part.lower() in NAMES
            for paths in named.values()
            for path in paths
            for part in path.relative_to(root).parts[:-1]
        )
        if not in_folders and ("train" not in named or len(named) == 1):
            return None
        shown = ", ".join(str(paths[0].relative_to(root)) for paths in named.values())
        raise ValueError(
            f"task bytes: {root} has splits of its own ({shown}), but nothing named "
            f"{' or '.join(lacking)}: add what is missing, or divide all files alike with "
            "splits='cut' (--data.splits cut)"
        )


def split_named(path: Path) -> str | None:
    """The split that a path below a corpus says it is of, by a folder or by the file's name."""
    *folders, file = (part.lower() for part in path.parts)
    words = re.split(r"[-_.]", file)
    return next((NAMES[part] for part in (*folders, *words) if part in NAMES), None)
