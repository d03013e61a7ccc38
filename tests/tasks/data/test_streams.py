import numpy as np
import pytest

from seqzoo.tasks.data.streams import Draws


@pytest.mark.parametrize(("high", "count"), [(5, 5), (6, 3), (1000, 40), (1, 1), (7, 0)])
def test_some_are_distinct_and_any(high, count):
    draws = [Draws("some", i).some(high, count) for i in range(300)]
    assert all(len(set(drawn.tolist())) == count for drawn in draws)
    found = np.array(draws, np.int64)
    assert ((found >= 0) & (found < high)).all()
    if count:
        assert abs(found[:, 0].mean() - (high - 1) / 2) <= 0.06 * (high - 1), "order is random too"


def test_more_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="no 6 distinct integers below 5"):
        Draws("some").some(5, 6)
