"""Digests of files by size and content: of samples, which is cheap, or of the whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 1 << 20  # bytes read at a time
SAMPLES = 16  # blocks of a large file that are read, the first and the last among them


def content_digest(path: Path, *, samples: int = SAMPLES, whole: bool = False) -> str:
    """32 hexadecimal digits over the size of a file and its content, or samples of that."""
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"{path} is not there, or no file")
    size = path.stat().st_size
    total = hashlib.blake2b(str(size).encode(), digest_size=16)
    blocks = -(-size // BLOCK)
    few = range(blocks) if whole or blocks <= samples else range(samples)
    with path.open("rb") as file:
        for i in few:
            file.seek(i * BLOCK if len(few) == blocks else (size - BLOCK) * i // (samples - 1))
            total.update(file.read(BLOCK))
    return total.hexdigest()
