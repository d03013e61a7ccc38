"""`genome_species`: which genome a stretch of DNA is from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float, UInt8

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.folders import per_file
from seqzoo.tasks.data.generated import GeneratedTask
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.genomes import fasta
from seqzoo.tasks.genomes.genome import NUCLEOTIDES
from seqzoo.tasks.language.corpus import cut
from seqzoo.tasks.task import (
    SPLITS,
    Example,
    Metrics,
    Needs,
    Source,
    Split,
    check_count,
    measure_classes,
)

LOOKED = 500  # windows that the baseline is found on


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenomeSpecies(GeneratedTask):
    """Windows of either strand, drawn at random; a class is a file, and all are as frequent.

    The splits are disjoint stretches, 90, 5 and 5% of every record. As HyenaDNA's classification of
    five animals (Nguyen et al. 2023), on whatever genomes are there; by default two bacteria.
    """

    needs: ClassVar[Needs] = "package"  # or files
    name: ClassVar[str] = "genome_species"
    description: ClassVar[str] = (
        "which genome a stretch of DNA is from: bacteria, or your FASTA files"
    )
    cite: ClassVar[str] = "after HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794)"

    length: int = 1024  # nucleotides of a window
    both_strands: bool = True  # half of the windows are reverse complements
    data: str = ""  # folder with a FASTA file a class; empty: E. coli and C. diphtheriae

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "length")

    def data_files(self, split: Split) -> list[Path]:
        """All files: each split is a stretch of every record."""
        return list(_files(self.data))

    @property
    def classes(self) -> tuple[str, ...]:
        """The files' names."""
        if not self.data:
            return tuple(fasta.GENOMES)
        return tuple(path.name.partition(".")[0] for path in _files(self.data))

    @property
    def spec(self) -> ModelSpec:
        """A class from nucleotides."""
        size, outputs = NUCLEOTIDES.size, len(_files(self.data))
        return ModelSpec(head="classify", vocab_size=size, outputs=outputs, length=self.length)

    def _source(self, split: Split, seed: int) -> Source:
        for path in _files(self.data):  # what cannot be used is said before anything is drawn
            stretches(path, split, self.length)
        return super()._source(split, seed)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        files = _files(self.data)
        target = draws.below(len(files))
        parts = stretches(files[target], split, self.length)
        sizes = np.cumsum([len(part) - self.length + 1 for part in parts])
        begin = draws.below(int(sizes[-1]))
        record = int(np.searchsorted(sizes, begin, "right"))
        begin -= int(sizes[record - 1]) if record else 0
        window = parts[record][begin : begin + self.length].tobytes()
        if self.both_strands and draws.chance(0.5):
            window = window.translate(fasta.COMPLEMENT)[::-1]
        inputs = NUCLEOTIDES.encode(window).astype(np.int32)
        return {"inputs": inputs, "targets": np.int32(target)}

    def measure(self, outputs: Float[Array, "B C"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy and accuracy."""
        return measure_classes(outputs, batch)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Chance, and the genome whose training windows have the nearest share of G and C."""
        train, own = self.source("train"), self.source(split, seed)
        shares, targets = _contents(train, LOOKED)
        known = [shares[targets == k] for k in range(len(self.classes))]
        means = np.array([part.mean() if len(part) else np.inf for part in known])
        shares, targets = _contents(own, len(own))
        guesses = np.abs(shares[:, None] - means).argmin(1)
        return {"chance": 1 / len(means), "nearest GC content": float((guesses == targets).mean())}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The letters and the genome."""
        letters = NUCLEOTIDES.decode(np.asarray(example["inputs"])).decode()
        return f"{letters} = {self.classes[int(example['targets'])]}"


@functools.lru_cache(maxsize=8)
def _files(data: str) -> tuple[Path, ...]:
    """A file for each class; looked for once, not for every window."""
    name = GenomeSpecies.name
    found = tuple(fasta.files_of(name, data))
    if len(found) < 2:
        raise ValueError(
            f"task {name}: {found[0]} is one genome; name a folder with a file for each"
        )
    return found


def _contents(source: Source, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The share of G and C of the first windows, and their targets."""
    rows = [source[i] for i in range(min(most, len(source)))]
    shares = [np.isin(row["inputs"], (1, 2)).mean() for row in rows]
    return np.array(shares), np.array([int(row["targets"]) for row in rows])


@per_file
def stretches(path: Path, split: Split, length: int) -> list[UInt8[np.ndarray, " L"]]:
    """A split's stretch of every record that holds a window. Raises ValueError where none does."""
    every = {name: [cut(record.letters, name) for record in fasta.read(path)] for name in SPLITS}
    found = [part for part in every[split] if len(part) >= length]
    if not found:
        longest = max(map(len, every[split]))
        raise ValueError(
            f"task genome_species: the {split} stretches of {path} have at most {longest} "
            f"nucleotides; windows have length={length}: make them shorter"
        )
    return found
