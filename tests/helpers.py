"""Shared by the tests: scale-free comparison and float64 mode."""

import jax

from tests.laws.compare import assert_close, relative_error, rms

__all__ = [
    "assert_close",
    "assert_trees_close",
    "relative_error",
    "rms",
    "value_and_pullback",
    "x64",
]


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
