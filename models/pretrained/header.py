"""What a safetensors file says of itself, believed only after it was checked.

A file is an eight-byte length, a JSON header of that length, and bytes without holes. Everything
here is about the header: nothing is allocated by what a file claims before the claim is found true.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": jnp.dtype("bfloat16"),
}
# Buffers that no parameter is filled with, such as position ids.
WIDTHS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
QUANTISED = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2")


class Tensor(NamedTuple):
    """A tensor of a file."""

    file: epath.Path
    name: str  # in it
    dtype: str  # as the file names it
    shape: tuple[int, ...]

    def bytes(self) -> int:
        """Bytes in the file."""
        return _width(self.dtype) * math.prod(self.shape)


def is_regular(file: epath.PathLike) -> bool:
    """Whether a file is there. A pipe, which would be waited for, is none; to etils it is one."""
    if "://" in str(file):
        return epath.Path(file).is_file()
    return os.path.isfile(file)


def check_file(file: epath.Path) -> None:
    """Raises ValueError for what is there and no file."""
    if file.exists() and not is_regular(file):
        raise ValueError(f"{file} is no file, but a folder or a device")


def read_header(file: epath.Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises ValueError for a file that is not what it says."""
    check_file(file)
    try:
        size = file.stat().length
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            _require(size >= 8, file, f"it has {size} bytes, no header")
            _require(
                length <= LARGEST_HEADER,
                file,
                f"its header claims {length} bytes, above the format's limit {LARGEST_HEADER}",
            )
            _require(
                length <= size - 8,
                file,
                f"its header claims {length} bytes, and {size - 8} follow: it is cut off or no "
                "safetensors file",
            )
            text = f.read(length)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    header = read_json(text, file)
    metadata = header.pop("__metadata__", None)
    _require(metadata is None or isinstance(metadata, dict), file, "its __metadata__ is no object")
    spans = {name: _entry(name, entry, file) for name, entry in header.items()}
    _check_spans({name: span for name, (_, span) in spans.items()}, size - 8 - length, file)
    return {name: tensor for name, (tensor, _) in spans.items()}


def read_json(text: bytes, file: epath.Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError for anything else, and for a key that stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) < len(pairs):
            twice = next(k for i, (k, _) in enumerate(pairs) if k in dict(pairs[:i]))
            raise ValueError(f"{twice!r} stands twice")
        return seen

    try:
        made = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except RecursionError:
        raise ValueError(f"{file}: nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"{file}: no JSON that can be read: {error}") from None
    _require(isinstance(made, dict), file, "its JSON is no object")
    return made


def _entry(name: str, entry: Any, file: epath.Path) -> tuple[Tensor, tuple[int, int]]:
    fields = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, Mapping) or set(entry) != fields:
        raise ValueError(f"{file}: tensor {name!r} needs dtype, shape and data_offsets")
    dtype, shape, span = (entry[f] for f in ("dtype", "shape", "data_offsets"))
    if dtype in QUANTISED:
        raise ValueError(
            f"{file}: tensor {name!r} is quantised ({dtype}); load a checkpoint in float32, "
            "float16 or bfloat16"
        )
    if not isinstance(dtype, str) or (dtype not in DTYPES and dtype not in WIDTHS):
        known = ", ".join((*DTYPES, *WIDTHS))
        raise ValueError(f"{file}: tensor {name!r} has the unknown dtype {dtype!r}; known: {known}")
    for what, numbers in (("shape", shape), ("data_offsets", span)):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"{file}: tensor {name!r} has no list of sizes as {what}: {numbers!r}")
    _require(len(span) == 2, file, f"tensor {name!r} needs two data_offsets; got {span}")
    needed = _width(dtype) * math.prod(shape)
    if span[1] - span[0] != needed:
        raise ValueError(
            f"{file}: tensor {name!r} of shape {shape} in {dtype} has {needed} bytes; its "
            f"data_offsets {span} hold {span[1] - span[0]}"
        )
    return Tensor(file, name, dtype, tuple(shape)), (span[0], span[1])


def _check_spans(spans: Mapping[str, tuple[int, int]], size: int, file: epath.Path) -> None:
    """Every byte belongs to one tensor."""
    at, before = 0, "the header"
    for name, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
        if end > size:
            raise ValueError(
                f"{file}: tensor {name!r} ends at byte {end} of {size}: the file is cut off"
            )
        if start < at:
            raise ValueError(f"{file}: tensors {before!r} and {name!r} overlap at byte {start}")
        _require(
            start == at, file, f"{start - at} bytes before tensor {name!r} belong to no tensor"
        )
        at, before = end, name
    _require(at == size, file, f"{size - at} bytes after its last tensor belong to no tensor")


def _width(dtype: str) -> int:
    return DTYPES[dtype].itemsize if dtype in DTYPES else WIDTHS[dtype]


def _require(holds: bool, file: epath.Path, what: str) -> None:
    if not holds:
        raise ValueError(f"{file}: {what}")
