"""Language modelling on the sources of Python's standard library."""

from __future__ import annotations

import dataclasses
import functools
import sysconfig
from pathlib import Path
from typing import ClassVar

from seqzoo.tasks.data.folders import files_below
from seqzoo.tasks.data.places import place
from seqzoo.tasks.language import corpus
from seqzoo.tasks.language.corpus import Corpus
from seqzoo.tasks.language.modelling import LanguageModelling
from seqzoo.tasks.task import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonSource(LanguageModelling):
    """The sources of Python's standard library: real text that needs no network.

    All `.py` files but tests and installed packages, each a document, pinned by content: `digest`
    is filled in with that of this Python, so that a run says what it was trained on and is not
    continued on other text.
    """

    name: ClassVar[str] = "python_source"
    description: ClassVar[str] = "language modelling on the source of Python's standard library"
    cite: ClassVar[str] = "the Python standard library (PSF-2.0)"

    digest: str = ""  # sha256 of the corpus; empty: that of what is there

    WITHOUT: ClassVar[tuple[str, ...]] = (
        "site-packages",
        "dist-packages",
        "__pycache__",
        "test",
        "tests",
        "idle_test",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.digest:
            object.__setattr__(self, "digest", _source_digest(self._root()))

    def corpus_key(self) -> str:
        """The digest."""
        return self.digest[:20]

    def _root(self) -> Path:
        return place(self.data or sysconfig.get_paths()["stdlib"])

    def data_files(self, split: Split) -> list[Path]:
        """All sources: each split is some of them."""
        return _sources(self._root())

    def _text(self, split: Split) -> Corpus:
        root = self._root()
        found = _source_digest(root)
        if found != self.digest:
            raise ValueError(
                f"task python_source: the sources in {root} have digest {found}, not "
                f"{self.digest}: they belong to another Python. Name a folder with the right ones "
                "as data, or train anew"
            )
        return corpus.joined_files(corpus.of_split(_sources(root), split))


@functools.lru_cache(maxsize=4)
def _source_digest(root: Path) -> str:
    return corpus.content_digest(root, _sources(root))


def _sources(root: Path) -> list[Path]:
    found = files_below(root, "**/*.py", without=PythonSource.WITHOUT)
    if not found:
        raise FileNotFoundError(
            f"task python_source: no .py files in {root}; this Python comes without its sources, "
            "so name a folder that has some (any Lib/ of a CPython release) with the option data"
        )
    return found
