"""Whose turn it is: what is many times alike, or dear and rarely broken, has its days."""

from __future__ import annotations

import collections
import os
from pathlib import Path

from tests.flags import SHARE, of_today, turn_of

MANY = 3  # cases of one test
# Days in which each test of these files has its turn. Laws are beside what is of one module.
DAYS = {
    "tests/models/attention/": SHARE,
    "tests/models/linear_attention/": SHARE,
    "tests/models/recurrent/": SHARE,
    "tests/models/ssm/": SHARE,
    "tests/models/pretrained/": SHARE,
    "tests/models/ops/": 3,
}


def named(args, start) -> set[Path]:
    """The files among pytest's arguments: who names one gets all of it."""
    return {Path(os.path.abspath(Path(start) / arg.partition("::")[0])) for arg in args}


def others(items):
    """Of pytest's tests those that are another day's.

    By the name or number that the mark gives; without one, a function's cases in their turn. Cases
    of models are compiled programs, so theirs take turns unmarked where there are many. One of them
    at least is every day's, or of every day that is their function's.
    """
    cases = collections.defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("of_the_day")
        if not (mark and mark.args):
            cases[item.nodeid.partition("[")[0]].append(item)
        elif not of_today(*mark.args):
            yield item
    for function, found in cases.items():
        mark = found[0].get_closest_marker("of_the_day")
        kept = found[0].get_closest_marker("every_case")
        many = len(found) >= MANY and function.startswith("tests/models/") and not kept
        days = mark.kwargs.get("days", 1) if mark else _days_of(function)
        if not of_today(function, days):
            yield from found
        elif (mark and not mark.kwargs) or many:
            turns = min(len(found), SHARE // days)
            yield from (case for i, case in enumerate(found) if not turn_of(i, turns, days))


def _days_of(function: str) -> int:
    return next((days for folder, days in DAYS.items() if function.startswith(folder)), 1)
