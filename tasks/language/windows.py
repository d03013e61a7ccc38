"""A long stream of tokens cut into windows to predict; `packing` is the other way to make rows.

- `windows`: the stream cut every `length` tokens. The last window is moved back to end where the
  stream ends, and what it repeats is not labelled.
- `lanes`: the same cut for states that are carried from window to window; the last one is padded.

In both each token but the stream's first is the target of exactly one position.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from seqzoo.tasks.task import IGNORED, Example


class Stream(NamedTuple):
    """The tokens of a split and where its documents begin and end."""

    tokens: np.ndarray  # [tokens], of any integer type
    starts: Int64[np.ndarray, "documents_and_end"]


def count_windows(stream: Stream, length: int) -> int:
    """Windows of `length` targets."""
    return -(-(len(stream.tokens) - 1) // length)


def window(stream: Stream, length: int, index: int, *, padded: bool) -> Example:
    """Window `index`; the last one is padded or else moved back."""
    tokens, begin = stream.tokens, index * length
    shift = 0 if padded else max(0, begin + length + 1 - len(tokens))
    part = tokens[begin - shift : begin - shift + length + 1].astype(np.int32)
    inputs, targets = np.zeros(length, np.int32), np.full(length, IGNORED, np.int32)
    inputs[: len(part) - 1] = part[:-1]
    targets[shift : len(part) - 1] = part[1 + shift :]
    return {"inputs": inputs, "targets": targets}
