"""Shared by the tests: scale-free comparison and float64 mode."""

import jax
import numpy as np


def rms(x) -> float:
    x = np.asarray(x)
    return float(
        np.sqrt(np.mean(np.abs(x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)) ** 2))
    )


def relative_error(actual, desired) -> float:
    """Root mean square of the error over that of the signal."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.shape == desired.shape, f"shape {actual.shape}, expected {desired.shape}"
    if desired.size == 0:
        return 0.0
    return rms(actual - desired) / max(rms(desired), np.finfo(np.float32).tiny)


def assert_close(actual, desired, *, ratio=1e-5, what="value"):
    """Fails if rms(actual - desired) > ratio * rms(desired): scale-free, unlike atol; NaN fails."""
    error = relative_error(actual, desired)
    assert error <= ratio, f"{what}: relative rms error {error:.3g}, allowed {ratio:.3g}"


def assert_trees_close(actual, desired, *, ratio=1e-5):
    """`assert_close` leaf by leaf; structures must agree."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    desired_leaves = jax.tree.leaves(desired)
    for (path, a), d in zip(
        jax.tree_util.tree_leaves_with_path(actual), desired_leaves, strict=True
    ):
        assert_close(a, d, ratio=ratio, what=jax.tree_util.keystr(path))


def x64():
    """Double precision inside a `with` block."""
    return jax.enable_x64(True)


def value_and_pullback(f, cotangent, *args):
    """f(*args) and its vector-Jacobian product, in one compiled program."""

    def both(cotangent, *args):
        y, pull = jax.vjp(f, *args)
        return y, pull(cotangent)

    return jax.jit(both)(cotangent, *args)
