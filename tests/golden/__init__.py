"""Arrays that published implementations computed; `manifest.json` says where each file comes from.

    case = golden("s4/dplr_kernel_legs_0")

Every npz file holds inputs, parameters and outputs of one case, and for many of them gradients;
safetensors files hold weights under their published names, the table of ListOps its rows.
"""

from __future__ import annotations

import csv
import fnmatch
import functools
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent


class File(NamedTuple):
    """A line of the manifest."""

    path: Path
    source: str  # what computed it
    made_with: str  # versions, and how
    sha256: str


@functools.cache
def manifest() -> Mapping[str, File]:
    """All files by name: family/case."""
    families = json.loads((FOLDER / "manifest.json").read_text())
    return {
        f"{family}/{name.rpartition('.')[0]}": File(
            FOLDER / family / name, made["source"], made["made_with"], sha256
        )
        for family, made in families.items()
        for name, sha256 in made["files"].items()
    }


def golden_cases(family: str, pattern: str = "*") -> list[str]:
    """The cases of a family that match a pattern of the shell, in order."""
    of_family = [
        name.removeprefix(f"{family}/") for name in manifest() if name.startswith(f"{family}/")
    ]
    return sorted(fnmatch.filter(of_family, pattern))


def golden(name: str) -> Any:
    """The arrays of a case by name; of a table its rows. Raises ValueError if it has changed."""
    file = manifest()[name]
    data = file.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ValueError(f"{file.path} is not the file of the manifest: golden files never change")
    if file.path.suffix == ".npz":
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    if file.path.suffix == ".safetensors":
        return _safetensors(data)
    return list(csv.DictReader(io.StringIO(data.decode()), delimiter="\t"))


def _safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file of float32."""
    size = int.from_bytes(data[:8], "little")
    body = data[8 + size :]
    out = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            out[name] = np.frombuffer(body[start:end], np.float32).reshape(entry["shape"])
    return out
