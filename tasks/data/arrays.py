"""Arrays in files of their own: `.npy`, and pickles that hold nothing but arrays and plain values.

A pickle is a program. This one runs none: it knows the few names by which NumPy and JAX rebuild an
array, and refuses a file that names anything else before that is looked up or called.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.tasks.data.damage import DamagedError, reading

SUFFIXES = (".npy", ".pkl")


def read_array(path: Path) -> np.ndarray:
    """The array of a file. Raises ValueError for one that holds something else."""
    if path.suffix == ".npy":
        with reading(path, "a NumPy array", path):
            found = np.load(path, allow_pickle=False)
    else:
        found = read_pickle(path)
    kind = type(found).__name__
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iufb":
        kind = f"{found.dtype} values" if isinstance(found, np.ndarray) else kind
        raise DamagedError(f"{path} holds {kind}, not an array of numbers")
    return found


def reals(path: Path, values: np.ndarray, *, missing: bool = False) -> np.ndarray:
    """The values of a file as float32, NaN only where `missing` ones may be.

    Raises ValueError for what float32 does not hold.
    """
    there = values[~np.isnan(values)] if missing else values
    if not (np.abs(there) <= np.finfo(np.float32).max).all():
        raise DamagedError(f"{path} has values that are not finite in float32: fetch it again")
    return values.astype(np.float32, copy=False)


def read_pickle(path: Path) -> Any:
    """Arrays, numbers, texts and containers of them. Raises ValueError for any other object."""
    kind = "a pickle of arrays"
    with reading(path, kind, path), path.open("rb") as file:
        return _Arrays(path, file, encoding="latin1").load()  # as Python 2 wrote texts and bytes


class _Arrays(pickle.Unpickler):
    def __init__(self, path: Path, file: Any, encoding: str):
        super().__init__(file, encoding=encoding)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Raises ValueError for a name that makes no array."""
        known = KNOWN.get((module.replace("numpy._core", "numpy.core"), name))
        if known is None:
            raise DamagedError(
                f"{self._path} is a pickle that names {module}.{name}, which could be any program; "
                "only arrays and plain values are read: save them with numpy.save as .npy"
            )
        return known


def _of_jax(make: Callable, args: tuple, state: tuple, _: object) -> np.ndarray:
    """What `jax._src.array._reconstruct_array` makes, left on the host."""
    array = make(*args)
    array.__setstate__(state)
    return array


def _bytes(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, for bytes that older protocols wrote as text."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise ValueError(f"bytes are encoded as {encoding}")
    return text.encode("latin1")


_reconstruct = np.zeros(0).__reduce__()[0]
_frombuffer = np.zeros(1).__reduce_ex__(5)[0]
KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("jax._src.array", "_reconstruct_array"): _of_jax,
    ("_codecs", "encode"): _bytes,
}
