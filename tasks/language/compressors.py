"""What general compressors reach on a text, in bits per byte: the yardstick beside a model's.

The compressors start with nothing, a model has seen the train split; `xz after train` therefore
counts what the split adds to the train split before it.
"""

from __future__ import annotations

import bz2
import functools
import hashlib
import json
import lzma
import zlib

import numpy as np
from jaxtyping import UInt8

from seqzoo.tasks.data.cache_folder import text_entry

MOST = 10_000_000  # bytes that are compressed; of longer texts the first ones
PRIMED = 32_000_000  # bytes of a train split up to which xz reads it first

COMPRESSORS = {
    "zlib -9": functools.partial(zlib.compress, level=9),
    "bzip2 -9": functools.partial(bz2.compress, compresslevel=9),
    "xz -9": functools.partial(lzma.compress, preset=9),
}


def entropy(data: UInt8[np.ndarray, "bytes"]) -> float:
    """The entropy of the bytes' own frequencies, in bits per byte."""
    counts = np.bincount(data, minlength=256)
    p = counts[counts > 0] / len(data)
    return float(-(p * np.log2(p)).sum())


def bits_per_byte(
    data: UInt8[np.ndarray, "bytes"], train: UInt8[np.ndarray, "train"] | None = None
) -> dict[str, float]:
    """Bits per byte by entropy and by each compressor; with a short `train` also after reading it.

    Of more than `MOST` bytes the first count, and the names say so. Kept in the cache.
    """
    short = data[:MOST]
    train = None if train is None or len(train) > PRIMED else train
    digest = hashlib.blake2b(short.tobytes(), digest_size=10)
    digest.update(b"" if train is None else train.tobytes())
    found = text_entry(
        f"compressed-{digest.hexdigest()}.json",
        lambda: json.dumps(_measured(short, train)),
        lambda text: {name: float(bits) for name, bits in json.loads(text).items()},
    )
    note = f" (first {MOST // 10**6} MB)" if len(data) > MOST else ""
    return {name + note: value for name, value in found.items()}


def _measured(
    short: UInt8[np.ndarray, "bytes"], train: UInt8[np.ndarray, "train"] | None
) -> dict[str, float]:
    text = short.tobytes()
    found = {"byte frequencies": entropy(short)}
    for name, compress in COMPRESSORS.items():
        found[name] = 8 * len(compress(text)) / len(text)
    if train is not None:
        # The dictionary of the preset is larger than PRIMED, so all of the train split is in reach.
        before = train.tobytes()
        sizes = [len(lzma.compress(part, preset=9)) for part in (before, before + text)]
        found["xz -9 after train"] = 8 * (sizes[1] - sizes[0]) / len(text)
    return found
