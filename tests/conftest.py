"""Eight virtual CPU devices, exact matrix products and a cache of their own for every test."""

import importlib.metadata
import os
import tempfile

# Tests compile much and run little: LLVM's expensive passes would cost more than they save, and
# so do the emitters by MLIR, which take half of a small program's time. jaxlib 0.11 and later
# have no others; XLA_FLAGS=--xla_force_host_platform_device_count=8 tests what users have.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["SEQZOO_CACHE"] = tempfile.mkdtemp(prefix="seqzoo-tests-")

import gc

import jax
import pytest

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
