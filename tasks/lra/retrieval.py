"""Long Range Arena's Retrieval: whether one paper cites the other (AAN), by two towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.damage import MEND, check_kind, head_of
from seqzoo.tasks.data.folders import folder_of, missing, per_file
from seqzoo.tasks.data.stored import Part
from seqzoo.tasks.lra.archive import NESTING
from seqzoo.tasks.lra.documents import DocumentTask, as_bytes
from seqzoo.tasks.task import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(DocumentTask):
    """Long Range Arena's Retrieval: whether one paper cites the other (AAN), by two towers."""

    name: ClassVar[str] = "retrieval"
    description: ClassVar[str] = "whether two papers are linked, by their texts (LRA, AAN)"
    cite: ClassVar[str] = "Radev et al. 2013; Tay et al. 2020, arXiv 2011.04006"
    family: ClassVar[str] = "retrieval"
    classes: ClassVar[tuple[str, ...]] = ("not linked", "linked")
    texts: ClassVar[tuple[str, ...]] = ("text1", "text2")
    fetch: ClassVar[str] = (
        "new_aan_pairs.train.tsv (8.5 GB), .eval.tsv and .test.tsv (1 GB each): they are in "
        "tsv_data/ of the Long Range Arena archive lra_release.gz (about 8 GB, linked from the "
        "README of google-research/long-range-arena on GitHub; unpack it with `tar xf "
        "lra_release.gz`), or in data/aan of OpenNLPLab/lra on the Hugging Face hub"
    )

    train_size: int = 147_086  # examples to train on
    validation_size: int = 18_090  # examples of the validation split
    test_size: int = 17_437  # examples of the test split

    @property
    def spec(self) -> ModelSpec:
        """One of two classes of a pair of documents."""
        return self._spec("two_tower")

    def part_of(self, split: Split) -> str:
        """The files' own splits."""
        return split

    def part(self, name: str) -> Part:
        """One of the three files."""
        file = self._file(name)
        return self._files_part(name, [file], lambda: PairRows(file))

    @property
    def _dataset(self) -> str:
        return "aan"

    def _file(self, name: str) -> Path:
        root = folder_of(self.name, self.data, self.fetch)
        file = f"new_aan_pairs.{'eval' if name == 'validation' else name}.tsv"
        for above in (*(f"{nest}/tsv_data" for nest in NESTING), "data/aan", "."):
            if (root / above / file).is_file():
                return root / above / file
        raise missing(self.name, root / file, self.fetch)

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The beginnings of both papers, and whether they are linked."""
        one, two = (self._read(row)[:600] for row in np.asarray(example["inputs"]))
        return f"{one} …\n--\n{two} …\n= {self.classes[int(example['targets'])]}"


class PairRows:
    """Lines of an AAN file: label, two names, two texts; tabs between, no quoting, no header."""

    def __init__(self, path: Path):
        self.path = path
        check_kind(path, "a text of pairs of papers", head_of(path))
        self._ends = line_ends(path)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> cache.Row:
        begin = int(self._ends[index - 1]) if index else 0
        with self.path.open("rb") as file:
            file.seek(begin)
            line = file.read(int(self._ends[index]) - begin)
        try:
            return pair_of(line)
        except ValueError as error:
            raise ValueError(f"{self.path}, line {index + 1}: {error}; {MEND}") from error

    def __reduce__(self):
        return PairRows, (self.path,)


@per_file
def line_ends(path: Path) -> np.ndarray:
    """The offset after each line of a file; blank ones at the end are none."""
    ends, at = [], 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            ends.append(np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + at + 1)
            at += len(block)
        found = np.concatenate(ends) if ends else np.zeros(0, np.int64)
        if at and not (len(found) and found[-1] == at):
            found = np.append(found, at)
        while len(found):
            file.seek(found[-2] if len(found) > 1 else 0)
            if file.read(int(found[-1]) - file.tell()).strip():
                break
            found = found[:-1]
    return found


def pair_of(line: bytes) -> cache.Row:
    """A row of an AAN line. Raises ValueError for a malformed one."""
    columns = line.decode("utf-8-sig").rstrip("\r\n").split("\t")
    if len(columns) != 5:
        raise ValueError(f"expected 5 columns separated by tabs; got {len(columns)}")
    if columns[0] not in ("0.0", "1.0", "0", "1"):
        raise ValueError(f"the label must be 0.0 or 1.0; got {columns[0][:40]!r}")
    return {
        "text1": as_bytes(columns[3]),
        "text2": as_bytes(columns[4]),
        "target": np.uint8(columns[0][0] == "1"),
    }
