"""Rows that the laws are tried on: sizes, layouts of segments, and splits into chunks."""

from __future__ import annotations

import numpy as np

# Sizes are shared by all laws, so that a mixer costs a handful of compilations: rows of L tokens
# for the parallel form, N chunks of C with padding for streaming.
B, L, C, N, D = 4, 13, 5, 5, 8

ONES = np.ones((B, L), np.int32)
# Padding on the left, in between and on the right; repeated ids; single tokens; one full row.
PACKED = np.array(
    [
        [0, 0, 1, 1, 0, 1, 2, 2, 2, 0, 1, 1, 0],
        [3, 3, 3, 3, 3, 0, 0, 4, 5, 5, 5, 5, 5],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 2, 0, 0, 3, 3, 3, 3, 3, 3, 3, 2, 0],
    ],
    np.int32,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers of a `shape` in float32, drawn from `seed`."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def runs(ids: np.ndarray) -> list[np.ndarray]:
    """The positions of each segment of a row of `ids` [L]: runs of one, padding left out."""
    found: list[list[int]] = []
    last = 0
    for t, i in enumerate(ids):
        if i == 0:
            continue
        if i != last:
            found.append([])
        found[-1].append(t)
        last = i
    return [np.array(run) for run in found]


def ragged(ids: np.ndarray, seed: int) -> np.ndarray:
    """A split of the real tokens into chunks: [N, B, C] places in the rows, -1 for padding.

    Every row goes at its own pace, and padding stands anywhere in a chunk.
    """
    rng = np.random.default_rng(seed)
    places = np.full((N, len(ids), C), -1)
    for b, row in enumerate(ids):
        left = np.flatnonzero(row)
        for n in range(N):
            least = max(0, len(left) - C * (N - 1 - n))  # what later chunks have no room for
            count = rng.integers(least, min(C, len(left)) + 1)
            places[n, b, np.sort(rng.choice(C, count, replace=False))] = left[:count]
            left = left[count:]
    return places


def chunked(rows: np.ndarray, places: np.ndarray, padding: float) -> np.ndarray:
    """The tokens of rows [B, L, ...] at `places`, `padding` where there is none."""
    taken = rows[np.arange(len(rows))[None, :, None], places]
    real = (places >= 0).reshape(places.shape + (1,) * (rows.ndim - 2))
    return np.where(real, taken, padding).astype(rows.dtype)


def joined(chunks: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    """Rows [B, L, ...] from their chunks, 0 where no token came from."""
    rows = np.zeros((chunks.shape[1], length, *chunks.shape[3:]), chunks.dtype)
    n, b, c = np.nonzero(places >= 0)
    rows[b, places[n, b, c]] = chunks[n, b, c]
    return rows
