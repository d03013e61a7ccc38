"""Time series of the UCR and UEA archives as published: `.ts` and `.arff`, a row a line.

    found = header(path)
    for row in rows(path): ...          # Row(values [L, channels], times [L] or empty, label)

No library is used: SciPy's reader has no relational attributes, and those of `aeon` and `sktime`
name no line and bring numba and pandas along. An error names file, line and what is wrong there.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Float32, Float64

from seqzoo.tasks.data.damage import HEAD, MEND, TEXT, DamagedError, check_kind, reading

SUFFIXES = (".ts", ".arff")
STAMPED = re.compile(r"\(([^(),]*),([^(),]*)\)")  # of one step: its time and its value
QUOTED = re.compile(r"""\s*(["'])(?P<series>.*)\1\s*,\s*(?P<label>[^,]*)\s*$""")
DIMENSIONS = re.compile(r"\\n")  # two characters: between the channels of a relational attribute


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says before its data."""

    classes: tuple[str, ...]
    start: int  # line of the first row
    stamped: bool = False  # whether steps have times
    relational: bool = False  # of ARFF: a row is one quoted cell of several channels
    channels: int = 0  # 0: not said


@dataclasses.dataclass(frozen=True)
class Row:
    """One series; what is missing is NaN."""

    values: Float32[np.ndarray, "L channels"]
    times: Float64[np.ndarray, "L"]  # seconds, or the file's units; empty where it has none
    label: str


def header(path: Path) -> Header:
    """Raises ValueError, naming the line, for a file that does not say what it holds."""
    with path.open("rb") as file:
        check_kind(path, TEXT, file.read(HEAD))
    said: dict[str, str] = {}
    attributes: list[str] = []
    for number, line in _lines(path):
        if not line or line[0] in "#%":
            continue
        word, _, rest = line.partition(" ")
        key = word.lower()
        if key == "@data":
            return _header(path, number, said, attributes)
        if not key.startswith("@"):
            _wrong(path, number, f"{_shown(line)} stands before @data")
        said[key] = rest.strip()
        if key == "@attribute":
            attributes.append(rest.strip())
    raise DamagedError(f"{path} has no line @data: fetch it again")


def _header(path: Path, number: int, said: dict[str, str], attributes: list[str]) -> Header:
    if path.suffix.lower() == ".arff":
        classes = re.search(r"\{(.*)\}\s*$", attributes[-1]) if attributes else None
        if classes is None:
            _wrong(path, number, "the attribute before @data has no {classes}")
        words = tuple(word.strip().strip("'\"") for word in classes[1].split(","))
        relational = any(a.lower().endswith(" relational") for a in attributes)
        return Header(words, number + 1, relational=relational, channels=0 if relational else 1)
    if said.get("@targetlabel", "").lower().startswith("true"):
        _wrong(path, number, "@targetLabel says that targets are numbers, and this reads classes")
    labels = said.get("@classlabel", "").split()
    if not labels or labels[0].lower() != "true":
        _wrong(path, number, "no line @classLabel true A B before it says the classes")
    single = said.get("@univariate", "").lower() == "true"
    dimensions = said.get("@dimensions", "1" if single else "0")
    if not dimensions.isdecimal():
        _wrong(path, number, f"@dimensions says {_shown(dimensions)}, which is no number")
    stamped = said.get("@timestamps", "").lower() == "true"
    return Header(tuple(labels[1:]), number + 1, stamped, channels=int(dimensions))


def rows(path: Path) -> Iterator[Row]:
    """All rows. Raises ValueError, naming the line, for one that cannot be read."""
    found = header(path)
    channels = found.channels
    one = _of_arff if path.suffix.lower() == ".arff" else _of_ts
    for number, line in _lines(path):
        if number < found.start or not line or line[0] in "#%":
            continue
        row = one(path, number, line, found)
        if row.label not in found.classes:
            _wrong(path, number, f"class {_shown(row.label)} is none of {', '.join(found.classes)}")
        if channels not in (0, row.values.shape[1]):
            _wrong(path, number, f"there are {row.values.shape[1]} channels, not {channels}")
        channels = row.values.shape[1]
        yield row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines from 1, without the white space around them."""
    with reading(path, TEXT, path), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            yield number, line.strip()


def _of_ts(path: Path, number: int, line: str, found: Header) -> Row:
    series, colon, label = line.rpartition(":")
    if not colon:
        _wrong(path, number, "there is no colon between series and class")
    if not found.stamped:
        channels = [_numbers(path, number, text.split(",")) for text in series.split(":")]
        return Row(_stacked(path, number, channels), np.zeros(0), label.strip())
    values, times = [], []
    for text in series.split("):("):
        text = f"({text.strip('()')})"
        steps = STAMPED.findall(text)
        if ",".join(f"({time},{value})" for time, value in steps) != text:
            _wrong(path, number, "steps are not (time,value),(time,value)")
        values.append(_numbers(path, number, [value for _, value in steps]))
        times.append(np.array([_time(path, number, time) for time, _ in steps]))
    if any(not np.array_equal(own, times[0]) for own in times[1:]):
        _wrong(path, number, "channels have different times")
    if (np.diff(times[0]) < 0).any():
        _wrong(path, number, f"time goes back at step {int((np.diff(times[0]) < 0).argmax()) + 1}")
    return Row(_stacked(path, number, values), times[0], label.strip())


def _of_arff(path: Path, number: int, line: str, found: Header) -> Row:
    if found.relational:
        match = QUOTED.match(line)
        if not match:
            _wrong(path, number, "a row is 'channel\\nchannel',class")
        parts, label = DIMENSIONS.split(match["series"]), match["label"]
        channels = [_numbers(path, number, part.split(",")) for part in parts]
    else:
        *cells, label = line.split(",")
        channels = [_numbers(path, number, cells)]
    return Row(_stacked(path, number, channels), np.zeros(0), label.strip().strip("'\""))


def _numbers(path: Path, number: int, cells: list[str]) -> Float64[np.ndarray, "L"]:
    """The numbers of cells, of which `?` and NaN are missing."""
    try:
        found = np.array(cells, np.float64)
    except ValueError:
        cells = ["nan" if cell.strip() == "?" else cell for cell in cells]
        for place, cell in enumerate(cells):
            if not _is_number(cell):
                _wrong(path, number, f"value {place} is {_shown(cell)}, no number")
        found = np.array(cells, np.float64)
    large = np.abs(found) > np.finfo(np.float32).max
    if large.any():
        place = int(large.argmax())
        _wrong(path, number, f"value {place} is {cells[place]}, which is not finite")
    return found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _stacked(path: Path, number: int, channels: list[np.ndarray]) -> Float32[np.ndarray, "L C"]:
    sizes = [len(channel) for channel in channels]
    if len(set(sizes)) > 1:
        _wrong(path, number, f"channels have {min(sizes)} to {max(sizes)} steps")
    return np.stack(channels, axis=1).astype(np.float32)


def _time(path: Path, number: int, text: str) -> float:
    """A number, or the seconds of a date."""
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if not math.isfinite(seconds):
            _wrong(path, number, f"the time {_shown(text)} is not finite")
        return seconds
    try:
        date = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        _wrong(path, number, f"the time {_shown(text)} is no number and no date")
    zone = date.tzinfo or datetime.UTC
    return date.replace(tzinfo=zone).timestamp()


def _shown(text: str) -> str:
    return repr(text if len(text) < 40 else f"{text[:40]}...")


def _wrong(path: Path, number: int, what: str) -> NoReturn:
    raise DamagedError(f"{path}, line {number}: {what}; {MEND}")
