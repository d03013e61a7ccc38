"""One of several processes is killed: the others say so and stop, and a restart loses nothing."""

import pytest

from seqzoo.train.devices.processes import LOST
from tests.train.kills import LIMIT, is_clear, study


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_random_kills_change_nothing(program, tmp_path, processes):
    found = study(tmp_path, 3, processes, processes, program)
    assert found["clear"] == found["kills"] == 3
    assert set(found["codes"]) <= {LOST}
    assert found["longest_seconds"] < LIMIT
    assert found["difference"] == 0


def test_a_stack_trace_alone_is_no_clear_message():
    assert is_clear("seqzoo: process 0: process 1 is gone or does not answer; here: Gloo failed")
    assert is_clear("F1121 client.h:80] the JAX distributed service detected fatal errors")
    assert not is_clear("Traceback (most recent call last):\n  ...\nKeyError: 3")
