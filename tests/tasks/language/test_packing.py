"""Every token is the target of one position, whatever the rows."""

import itertools

import numpy as np
import pytest

from seqzoo.tasks.language.packing import best_fit, pack, packed_row
from seqzoo.tasks.language.windows import Stream, count_windows, window

LENGTHS = [5, 1, 13, 0, 2, 30, 3, 8, 8, 2]  # of documents
STARTS = np.cumsum([0, *LENGTHS])
STREAM = Stream(np.arange(100, 100 + STARTS[-1]), STARTS)  # a token tells its place
TOKENS = int(STARTS[-1])


def labels(rows):
    pairs = [zip(row["inputs"].tolist(), row["targets"].tolist(), strict=True) for row in rows]
    return [(x, y) for row in pairs for x, y in row if y != -100]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("length", [1, 7, 8, 70, 71])
def test_windows_predict_every_token_but_the_first_once(length, padded):
    count = count_windows(STREAM, length)
    rows = [window(STREAM, length, i, padded=padded) for i in range(count)]
    assert all(row["inputs"].shape == row["targets"].shape == (length,) for row in rows)
    assert labels(rows) == [(100 + i, 101 + i) for i in range(TOKENS - 1)]


def test_the_last_window_is_moved_back_or_padded():
    last = count_windows(STREAM, 8) - 1
    moved, padded = (window(STREAM, 8, last, padded=p) for p in (False, True))
    assert moved["inputs"].tolist() == list(range(100 + TOKENS - 9, 100 + TOKENS - 1))
    assert (TOKENS - 1) % 8 == 7
    assert (moved["targets"] == -100).sum() == (padded["targets"] == -100).sum() == 1
    assert padded["inputs"][0] == 100 + last * 8


@pytest.mark.parametrize("length", [4, 12, 64])
def test_packed_rows_predict_every_token_but_each_documents_first_once(length):
    packing = pack(STREAM, length)
    rows = [packed_row(STREAM, packing, length, i) for i in range(len(packing.rows) - 1)]
    inside = [i for a, b in itertools.pairwise(STARTS) for i in range(a, b - 1)]
    assert sorted(labels(rows)) == [(100 + i, 101 + i) for i in inside]
    for row in rows:
        ids, inputs = row["segment_ids"], row["inputs"]
        assert ids[0] == 1
        assert set(np.diff(ids[ids > 0])) <= {0, 1}
        assert (row["targets"][ids == 0] == -100).all()
        same = ids[1:] == ids[:-1]
        assert (np.diff(inputs)[same & (ids[1:] > 0)] == 1).all()  # a segment is a run of text
    longest = len(inside) / length
    assert len(rows) <= np.ceil(longest) + 1  # little is padding


def test_best_fit_fills_the_fullest_bin_that_has_room():
    assert best_fit([4, 7, 3, 6, 2], 10) == [[0, 3], [1, 2], [4]]
    assert best_fit([], 10) == []
    with pytest.raises(ValueError, match="an item of 11 does not fit into 10"):
        best_fit([11], 10)
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 101, 2000).tolist()
    bins = best_fit(sizes, 100)
    assert sorted(i for items in bins for i in items) == list(range(2000))
    assert max(sum(sizes[i] for i in items) for items in bins) <= 100
    assert len(bins) < 1.02 * sum(sizes) / 100
