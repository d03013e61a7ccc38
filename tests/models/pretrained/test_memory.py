import pytest

from tests.models.pretrained.memory import measure

PROGRAMS = 90e6  # bytes of what is compiled and of threads, whatever the checkpoint


@pytest.mark.slow
def test_memory_holds_the_parameters_and_little_more():
    found = measure(6e8)
    assert found["peak"] < found["total"] + 1.2 * found["largest"] + PROGRAMS
