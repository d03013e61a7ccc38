"""Eight virtual CPU devices, exact matrix products and caches of their own for every test."""

import gc
import os
import tempfile

import jax
import pytest

from tests.flags import set_flags, share_compiled

set_flags()
share_compiled()
os.environ["SEQZOO_CACHE"] = tempfile.mkdtemp(prefix="seqzoo-tests-")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_functions():
    """What one file has compiled serves no other; kept, it would fill the memory."""
    yield
    jax.clear_caches()
    gc.collect()


def pytest_collection_modifyitems(items):
    """The tests of one group, which share compiled functions, run one after another."""
    order = {}
    for item in items:
        group = item.get_closest_marker("xdist_group")
        key = (item.path, group.args[0] if group else None)
        order.setdefault(key, len(order))
        item.user_properties.append(("order", order[key]))
    items.sort(key=lambda item: dict(item.user_properties)["order"])
