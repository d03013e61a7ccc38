"""`genome`: the next nucleotide, on FASTA files or on a genome that a package brings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from seqzoo.tasks.genomes import fasta
from seqzoo.tasks.language import corpus
from seqzoo.tasks.language.corpus import Corpus
from seqzoo.tasks.language.modelling import LanguageModelling
from seqzoo.tasks.language.tokenizers import Alphabet, Tokenizer
from seqzoo.tasks.task import Needs, Split

NUCLEOTIDES = Alphabet(fasta.ALPHABET)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Genome(LanguageModelling):
    """Each record is a document, of which the first 90% are for training, then 5 and 5.

    A byte is a nucleotide, so `bits_per_byte` are bits a nucleotide: 2 for four that are as often.
    The forward strand alone is read.
    """

    needs: ClassVar[Needs] = "package"  # or files
    name: ClassVar[str] = "genome"
    description: ClassVar[str] = "next nucleotide of a genome: E. coli, or your FASTA files"
    cite: ClassVar[str] = "as HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794), on small genomes"

    data: str = ""  # FASTA file or folder, e_coli (as where it is empty) or c_diphtheriae

    def data_files(self, split: Split) -> list[Path]:
        """All files: each split is a stretch of every record."""
        return fasta.files_of(self.name, self.data, "e_coli")

    def corpus_key(self) -> str:
        """Names, sizes and times of the files."""
        return f"dna-{corpus.fingerprint(self.data_files('train'))}"

    @property
    def _characters(self) -> Tokenizer:
        return NUCLEOTIDES

    def _text(self, split: Split) -> Corpus:
        records = [record for path in self.data_files(split) for record in fasta.read(path)]
        parts = (corpus.cut(record.letters, split) for record in records)
        return corpus.joined(part.tobytes() for part in parts if len(part))
