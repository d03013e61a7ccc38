"""The rows and splits that the laws are tried on hold what they are meant to."""

import numpy as np
import pytest

from tests.laws import PACKED, L, runs
from tests.laws.cases import B, C, N, chunked, joined, ragged


@pytest.mark.every_case
@pytest.mark.parametrize("seed", range(4))
def test_a_split_takes_every_real_token_once_and_in_order(seed):
    places = ragged(PACKED, seed)
    assert places.shape == (N, B, C)
    for b in range(B):
        taken = places[:, b].ravel()
        np.testing.assert_array_equal(taken[taken >= 0], np.flatnonzero(PACKED[b]))
    rows = np.arange(1, B * L + 1).reshape(B, L)
    back = joined(chunked(rows, places, -7), places, L)
    np.testing.assert_array_equal(back, np.where(PACKED > 0, rows, 0))


def test_splits_fall_between_segments_and_inside_them():
    """Both in one of the splits of a law at least, and a chunk without a token."""
    between = inside = idle = 0
    for places in (ragged(PACKED, seed) for seed in (1, 2, 3)):
        for b, row in enumerate(PACKED):
            starts = {int(run[0]) for run in runs(row)[1:]}
            chunks = [chunk[chunk >= 0] for chunk in places[:, b]]
            firsts = [int(chunk[0]) for chunk in chunks if len(chunk)][1:]
            between += len(starts & set(firsts))
            inside += len(set(firsts) - starts)
            idle += sum(not len(chunk) for chunk in chunks)
    assert min(between, inside, idle) > 0
