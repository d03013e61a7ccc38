"""What has its days has them all in a week, and who names a file gets all of it."""

import types
from pathlib import Path

import pytest

from tests.flags import DAY, SHARE
from tests.turns import DAYS, named, others


def case_of(name, *, of_the_day=None, case=None):
    """A test as pytest has it."""
    marks = {"of_the_day": of_the_day} if of_the_day else {}
    nodeid = name if case is None else f"{name}[{case}]"
    return types.SimpleNamespace(nodeid=nodeid, get_closest_marker=marks.get)


FEW, MANY = 2, 9
MARKS = None, pytest.mark.of_the_day.mark, pytest.mark.of_the_day(days=3).mark


def _tests():
    for folder in (*DAYS, "tests/models/", "tests/train/"):
        for i, mark in enumerate(MARKS):
            yield case_of(f"{folder}test_a.py::test_{i}", of_the_day=mark)
            for count in (FEW, MANY):
                name = f"{folder}test_a.py::test_{i}_of_{count}"
                yield from (case_of(name, of_the_day=mark, case=case) for case in range(count))
    for mark in (pytest.mark.of_the_day("a name"), pytest.mark.of_the_day(5, 3)):
        yield case_of("tests/test_a.py::test_b", of_the_day=mark.mark)


@pytest.mark.parametrize("first", [0, 738_123])
def test_everything_has_its_turn_in_a_share_of_days(monkeypatch, first):
    items, seen = list(_tests()), set()
    for day in range(first, first + SHARE):
        monkeypatch.setenv(DAY, str(day))
        rest = {id(item) for item in others(items)}
        today = {item.nodeid for item in items if id(item) not in rest}
        assert today
        seen |= today
    assert seen == {item.nodeid for item in items}


@pytest.mark.parametrize(("day", "count"), [("all", 0), ("none", None)])
def test_a_word_in_place_of_a_day_is_all_or_none(monkeypatch, day, count):
    monkeypatch.setenv(DAY, day)
    items = [case_of("tests/models/test_a.py::test_b", case=i) for i in range(MANY)]
    assert len(list(others(items))) == (len(items) if count is None else count)


def test_files_are_named_and_folders_are_not():
    args = ["tests/a/test_b.py::test_c[1]", "./tests/../tests/test_d.py", "tests"]
    files = named(args, "/zoo")
    assert {Path("/zoo/tests/a/test_b.py"), Path("/zoo/tests/test_d.py")} <= files
    assert Path("/zoo/tests/a/test_e.py") not in files
