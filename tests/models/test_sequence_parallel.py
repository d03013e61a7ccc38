"""Mixers know nothing of meshes, and yet a sequence divided over devices changes no result."""

import pytest

from tests.models.parallel import MESHES, Case
from tests.models.tiny import TINY

RATIO = 2e-5  # relative rms; sums in another order


def check(name, axes, **options):
    differences = Case(name, **options).differences(axes)
    assert max(differences) <= RATIO, differences


@pytest.mark.parametrize("name", ["attention", "gated_deltanet", "mamba", "s4d"])
def test_four_parts_are_one_row(name):
    check(name, {"data": 2, "seq": 4})


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_any_number_of_parts_is_one_row(name):
    case = Case(name)
    for axes in MESHES.values():
        differences = case.differences(axes)
        assert max(differences) <= RATIO, (axes, differences)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attention", "gla", "min_gru", "s5", "lstm", "linear_attention"])
def test_both_ways(name):
    check(name, {"data": 2, "seq": 4}, causal=False)
