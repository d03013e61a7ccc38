"""Speech Commands: which of 35 words is spoken, from one second of sound (Warden 2018).

Version 0.02 as published, a folder a word, split by its two lists (SC35 of S4 and S5: 84 843,
9 981 and 11 005 recordings). Samples are divided by 2^15 and, by default, each recording is
standardised by its own mean and deviation; the original S4 code standardises every time step over
the training set instead, which is not repeated here. `test_rate` 8000 drops every second sample of
the test split alone, without a filter, for the zero-shot test of models whose step can be doubled.
"""

from __future__ import annotations

import dataclasses
import io
import os
import wave
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int16

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data import cache
from seqzoo.tasks.data.archives import unpack
from seqzoo.tasks.data.damage import MEND, lines_of, reading
from seqzoo.tasks.data.folders import check_sum, folder_of, missing, per_file, spread, stray
from seqzoo.tasks.data.stored import Part, StoredTask, Subset
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.task import Example, Source, Split

_WORDS = (
    "bed cat down five forward go house left marvin no on right sheila tree up visual yes backward "
    "bird dog eight follow four happy learn nine off one seven six stop three two wow zero"
)
WORDS = tuple(_WORDS.split())
RATE = 16_000  # samples a second, and of a row
ARCHIVE = "speech_commands_v0.02.tar.gz"
SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
ARCHIVE_BYTES = 2_428_923_189
SAMPLED = 200  # recordings that stand for a split's
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechCommands(StoredTask):
    """SC35: 35 words, 16000 samples padded on the right; files are read when they are asked for."""

    name: ClassVar[str] = "speech_commands"
    description: ClassVar[str] = "which of 35 words is spoken, 16000 samples"
    cite: ClassVar[str] = "Warden 2018, arXiv 1804.03209"
    classes: ClassVar[tuple[str, ...]] = WORDS
    fetch: ClassVar[str] = (
        f"{ARCHIVE} (2.4 GB) from http://download.tensorflow.org/data/; it is unpacked beside "
        "itself where it has not been (3.4 GB more). (The hub's google/speech_commands has another "
        "test split and cannot be loaded any more.)"
    )

    train_size: int = 84_843  # examples to train on
    validation_size: int = 9_981  # examples of the validation split
    test_size: int = 11_005  # examples of the test split
    normalise: Literal["recording", "none"] = "recording"  # none: in [-1, 1)
    test_rate: Literal[16000, 8000] = 16000  # samples a second of the test split

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_rate not in (RATE, RATE // 2):
            raise ValueError(
                f"task {self.name}: test_rate must be 16000 or 8000; got {self.test_rate}"
            )

    @property
    def spec(self) -> ModelSpec:
        """One of 35 classes from up to 16000 numbers."""
        return ModelSpec(head="classify", features=1, outputs=len(WORDS), length=RATE)

    @property
    def folder(self) -> Path:
        """Where the words' folders are. Raises FileNotFoundError, which says what to fetch."""
        root = folder_of(self.name, self.data, self.fetch)
        archive = root if root.name == ARCHIVE else root / ARCHIVE
        unpacked = archive.with_name(ARCHIVE.removesuffix(".tar.gz"))
        for place in (root, unpacked):
            if all((place / name).is_file() for name in LISTS.values()):
                return place
        if not archive.is_file():
            raise missing(self.name, root, self.fetch)
        if archive.stat().st_size == ARCHIVE_BYTES:
            check_sum(archive, "sha256", SHA256)
        return unpack(archive, unpacked)

    def data_files(self, split: Split) -> tuple[Path, ...]:
        """The lists, and some of the recordings."""
        rows = self.part(split).rows()
        return *rows.lists, *(rows.folder / name for name in spread(rows.names, SAMPLED))

    def part_of(self, split: Split) -> str:
        """The lists' splits."""
        return split

    def part(self, name: str) -> Part:
        """The recordings of a split; they are not cached, being as fast to read as a cache."""
        folder = self.folder
        return Part({"task": self.name, "split": name}, lambda: WaveRows(folder, name))

    def rows(self, name: str) -> cache.Rows:
        """The recordings of a split."""
        rows = self.part(name).rows()
        self.check_size(name, len(rows))
        return rows

    def prepare(self, split: Split, seed: int = 0, *, progress=True, workers=None) -> Source:
        """There is nothing to prepare but an archive to unpack."""
        return self.source(split, seed)

    def _source(self, split: Split, seed: int) -> Source:
        return WaveSource(
            self, self.split_rows(split), RATE // self.test_rate if split == "test" else 1
        )

    def example(self, row: cache.Row) -> Example:
        """All samples of a recording."""
        return self.sampled(row, 1)

    def sampled(self, row: cache.Row, every: int) -> Example:
        """Every so-manieth sample of a recording, padded to a second."""
        sound = row["samples"].astype(np.float32) / 2**15
        if self.normalise == "recording":
            sound = (sound - sound.mean()) / (sound.std() + np.float32(1e-5))
        padded = np.zeros(RATE, np.float32)
        padded[: len(sound)] = sound
        return {"inputs": padded[::every, None], "targets": np.int32(row["target"])}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Accuracy of the commonest word."""
        counts = np.bincount(self.split_rows(split).rows.targets, minlength=len(WORDS))
        return {"majority class": float(counts.max() / counts.sum())}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The waveform and the word."""
        sound = np.asarray(example["inputs"])[:, 0]
        return f"{shades.waveform(sound)}  {WORDS[int(example['targets'])]}"


@dataclasses.dataclass(frozen=True)
class WaveSource:
    """One split; `every` second sample or all."""

    task: SpeechCommands
    rows: Subset
    every: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.task.sampled(self.rows[index], self.every)


class WaveRows:
    """The recordings of one split, sorted by name."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self.lists = tuple(folder / name for name in LISTS.values())
        self.names = recordings(self.lists, folder)[split]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> cache.Row:
        name = self.names[index]
        try:
            samples = read_wave((self.folder / name).read_bytes())
        except ValueError as error:
            raise ValueError(f"{self.folder / name}: {error}") from error
        return {"samples": samples, "target": np.uint8(WORDS.index(name.split("/")[0]))}

    @property
    def targets(self) -> np.ndarray:
        """The classes of all recordings, which no file need be read for."""
        return np.array([WORDS.index(name.split("/")[0]) for name in self.names])

    def __reduce__(self):
        return WaveRows, (self.folder, self.split)


@per_file
def recordings(lists: tuple[Path, ...], folder: Path) -> dict[str, tuple[str, ...]]:
    """The names `word/file.wav` of each split; what no list names is for training.

    Raises ValueError, naming list and line, for a name that is malformed or not there.
    """
    there = sorted(
        f"{word}/{entry.name}"
        for word in WORDS
        if (folder / word).is_dir()
        for entry in os.scandir(folder / word)  # which asks for no file's size
        if entry.name.endswith(".wav") and entry.is_file() and not stray(PurePath(entry.name))
    )
    known, named = set(there), {}
    for split, file in zip(LISTS, lists, strict=True):
        lines = [line.strip() for line in lines_of(file)]
        for number, line in enumerate(lines, 1):
            if line not in known:
                raise ValueError(f"{file}, line {number}: there is no recording {line!r}; {MEND}")
        named[split] = tuple(sorted(lines))
    taken = {name for names in named.values() for name in names}
    return {"train": tuple(name for name in there if name not in taken), **named}


def read_wave(content: bytes) -> Int16[np.ndarray, "samples"]:
    """The samples of a recording: mono, 16 bits, 16 kHz, at most a second.

    Raises ValueError for anything else, and for a file that is cut short.
    """
    with reading("the recording", "a WAV file", content), wave.open(io.BytesIO(content)) as file:
        kind = file.getnchannels(), file.getsampwidth(), file.getframerate()
        announced, data = file.getnframes(), file.readframes(file.getnframes())
    if kind != (1, 2, RATE):
        wanted = f"they must be {(1, 2, RATE)}"
        raise ValueError(f"channels, bytes and rate are {kind}; {wanted}: fetch the original")
    if not 0 < announced <= RATE or len(data) != 2 * announced:
        there = f"{announced} samples announced, {len(data) // 2} there, at most {RATE}"
        raise ValueError(f"{there}: fetch it again")
    return np.frombuffer(data, "<i2").astype(np.int16)
