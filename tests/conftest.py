"""Eight virtual CPU devices, exact matrix products and caches of their own for every test."""

import collections
import gc
import math
import os
import pathlib
import tempfile

import jax
import pytest

from tests.flags import SHARE, of_today, set_day, set_flags, share_compiled, turn_of

gc.disable()  # until all tests are found
set_flags()
set_day()
share_compiled()
os.environ["SEQZOO_CACHE"] = tempfile.mkdtemp(prefix="seqzoo-tests-")
jax.config.update("jax_default_matmul_precision", "highest")


ROOM = 3 * 2**29  # bytes by which a worker grows before it forgets
MANY = 3  # cases of one test
MODULES = ("attention", "linear_attention", "recurrent", "ssm", "pretrained")
OF_ONE = 3  # days in which each test of one of these has its turn


def pytest_collection_finish():
    """What is there now stays: nobody need look again whether it is garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def held():
    """Bytes that this process held when it last forgot: what is freed is not given back."""
    return [memory()]


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_functions(held):
    """Kept for ever, compiled functions would fill the memory; most files share small ones."""
    yield
    if not memory() < held[0] + ROOM:
        jax.clear_caches()
        gc.collect()
        held[0] = memory()


def memory() -> float:
    """Bytes that this process holds; unbounded where no file says it."""
    held = pathlib.Path("/proc/self/statm")
    if not held.exists():
        return math.inf
    return int(held.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    """What is not of the day is slow; tests of one group run one after another."""
    for item in _not_of_the_day(items):
        item.add_marker(pytest.mark.slow)
    order = {}
    for item in items:
        group = item.get_closest_marker("xdist_group")
        key = (item.path, group.args[0] if group else None)
        order.setdefault(key, len(order))
        item.user_properties.append(("order", order[key]))
    items.sort(key=lambda item: dict(item.user_properties)["order"])


def _not_of_the_day(items):
    """By the name or number that the mark gives; without one, a function's cases in their turn.

    Cases of models are compiled programs, so theirs take turns unmarked where there are many. What
    a file says of one module, beside the laws, each of its functions says every few days.
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
        days = mark.kwargs.get("days", 1) if mark else OF_ONE if _of_one(function) else 1
        if not of_today(function, days):
            yield from found
        elif (mark and not mark.kwargs) or many:
            turns = min(len(found), SHARE // days)
            yield from (case for i, case in enumerate(found) if not turn_of(i, turns, days))


def _of_one(function):
    """Whether it is a test of one module."""
    return function.startswith(tuple(f"tests/models/{folder}/" for folder in MODULES))
