"""The share of time spent waiting for data."""

import json

import pytest

from seqzoo.train.folder.run_folder import RESULT
from seqzoo.train.loop.waiting import Waiting


def test_the_share_is_of_the_time_after_the_first_batch():
    now = [0.0]

    def batches():
        for wait in (100.0, 1.0, 2.0):
            now[0] += wait
            yield {}

    waiting = Waiting(batches(), lambda: now[0])
    assert waiting.share is None
    next(waiting)
    now[0] += 50.0  # the first step compiles
    assert waiting.share is None
    for step in (7.0, 10.0):
        next(waiting)
        now[0] += step
    assert waiting.share == pytest.approx((1 + 2) / (1 + 7 + 2 + 10))
    with pytest.raises(StopIteration):
        next(waiting)


def test_a_run_reports_its_share(finished):
    share = json.loads((finished / RESULT).read_text())["data_wait"]
    assert 0 <= share < 1
