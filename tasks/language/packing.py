"""Documents packed into rows, so that nothing passes between them.

Every document goes by itself, in pieces of at most `length` tokens; short pieces share a row under
segment ids of their own (best fit, longest first). Each token but a document's first is the target
of exactly one position.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from seqzoo.tasks.data.shared_rows import best_fit
from seqzoo.tasks.language.windows import Stream
from seqzoo.tasks.task import IGNORED, Example


class Packing(NamedTuple):
    """Pieces of documents in rows: row r holds pieces `rows[r] : rows[r + 1]`."""

    begins: Int64[np.ndarray, "pieces"]  # first token of a piece in the stream
    lengths: Int64[np.ndarray, "pieces"]
    rows: Int64[np.ndarray, "rows_and_end"]


def pack(stream: Stream, length: int) -> Packing:
    """Rows of `length` that hold every document's inputs, its last token being a target only."""
    begins, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start, end in zip(stream.starts[:-1].tolist(), stream.starts[1:].tolist(), strict=True):
        cuts = np.arange(start, end - 1, length)
        begins.append(cuts)
        lengths.append(np.minimum(cuts + length, end - 1) - cuts)
    begin, size = np.concatenate(begins), np.concatenate(lengths)
    rows = best_fit(size.tolist(), length)
    order = np.array([piece for row in rows for piece in row], np.int64)
    return Packing(begin[order], size[order], np.cumsum([0, *map(len, rows)], dtype=np.int64))


def packed_row(stream: Stream, packing: Packing, length: int, index: int) -> Example:
    """Row `index` of a packing; `segment_ids` count its pieces from 1, 0 is padding."""
    inputs, ids = np.zeros(length, np.int32), np.zeros(length, np.int32)
    targets, at = np.full(length, IGNORED, np.int32), 0
    first, last = packing.rows[index : index + 2].tolist()
    for i, piece in enumerate(range(first, last), start=1):
        begin, size = int(packing.begins[piece]), int(packing.lengths[piece])
        part = stream.tokens[begin : begin + size + 1]
        inputs[at : at + size], targets[at : at + size] = part[:-1], part[1:]
        ids[at : at + size] = i
        at += size
    return {"inputs": inputs, "targets": targets, "segment_ids": ids}
