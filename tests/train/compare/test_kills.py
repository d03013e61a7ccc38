"""Comparisons in processes of their own; `kills.py` does more of it."""

import pytest

from tests.train.compare.kills import MODELS, killed, together

pytestmark = pytest.mark.slow


def test_a_comparison_killed_at_random_moments_finds_bitwise_the_same(tmp_path):
    found = killed(tmp_path, kills=4, seed=1)
    assert found["same_results"]


def test_two_processes_share_one_comparison_and_lose_nothing(tmp_path):
    found = together(tmp_path, 2)
    assert found["models"] == list(MODELS)
    assert (found["seeds"], found["starts_of_each_seed"]) == (2 * len(MODELS), [1])
    assert found["same_results"]
