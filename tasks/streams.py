"""Random words for procedurally generated examples: a pure function of a name.

NumPy's generators take longer to set up than a small example takes to make, and their methods may
change between releases. SHAKE-128 of the name is fast, and the same on every machine for ever.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import UInt32


def words(count: int, *name: str | int) -> UInt32[np.ndarray, "count"]:
    """`count` independent uniform 32-bit words that belong to `name` (strings and integers)."""
    digest = hashlib.shake_128(repr(name).encode()).digest(4 * count)
    return np.frombuffer(digest, "<u4")
