"""Eight virtual CPU devices, exact matrix products and caches of their own for every test."""

import gc
import math
import os
import pathlib
import tempfile

import jax
import pytest

from tests import turns
from tests.flags import set_day, set_flags, share_compiled

gc.disable()  # until all tests are found
set_flags()
set_day()
share_compiled()
os.environ["SEQZOO_CACHE"] = tempfile.mkdtemp(prefix="seqzoo-tests-")
jax.config.update("jax_default_matmul_precision", "highest")


ROOM = 2**30  # bytes by which a worker grows before it forgets


def pytest_collection_finish():
    """What is there now stays: nobody need look again whether it is garbage.

    Most of what tracing makes stays too. To look through it again and again, as at Python's own
    thresholds, takes a twelfth of the time; at the end of a file all is looked through at need.
    """
    gc.freeze()
    gc.set_threshold(20_000, 1000, 1000)
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
def pytest_collection_modifyitems(config, items):
    """What is another day's is slow; tests of one group run one after another."""
    whole = turns.named(config.args, config.invocation_params.dir)
    for item in turns.others([item for item in items if item.path not in whole]):
        item.add_marker(pytest.mark.slow)
    order = {}
    for item in items:
        group = item.get_closest_marker("xdist_group")
        key = (item.path, group.args[0] if group else None)
        order.setdefault(key, len(order))
        item.user_properties.append(("order", order[key]))
    items.sort(key=lambda item: dict(item.user_properties)["order"])
