"""Eight virtual CPU devices, exact matrix products and a cache of their own for every test."""

import os
import tempfile

# Tests compile much and run little: LLVM's expensive passes would cost more than they save.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["SEQZOO_CACHE"] = tempfile.mkdtemp(prefix="seqzoo-tests-")

import jax

jax.config.update("jax_default_matmul_precision", "highest")
