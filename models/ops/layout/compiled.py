"""The door of every public op: compiled once for arguments of a kind, on any mesh.

Bodies of loops and branches are new functions at each call, and JAX would compile them again each
time an op is called outside of `jax.jit`. Behind `op` a call is one cached program. Its key is
what arguments are: shapes and dtypes of arrays, values of everything else; and, as for any
`jax.jit`, the ambient mesh, the forced forms and JAX's own settings. Under an outer `jax.jit` the
program becomes part of the outer one, as if there were no door.

What is no array must be hashable and is compared by value. Of a function its code is compared, and
the arrays that it holds may change (`functions.py`), so that one may be made anew for each call. If
it holds an object of which nothing is known, there is no door: the op compiles anew.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from seqzoo.models.ops.layout.functions import Unknown, is_array, is_open, opened
from seqzoo.models.ops.layout.sharding import automatic

F = TypeVar("F", bound=Callable[..., Any])


def op(rows: str) -> Callable[[F], F]:
    """A decorator for ops: `rows` names the argument that is [B, L, ...] (or a tree of such).

    On a mesh with Explicit axes the op runs as on one with Auto axes; what it returns is divided
    like `rows` along B and L (see `automatic`).
    """

    def decorate(f: F) -> F:
        position = list(inspect.signature(f).parameters).index(rows)

        @functools.wraps(f)
        def call(*args: Any, **kwargs: Any) -> Any:
            where = rows if position >= len(args) else position
            leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=is_open)
            if any(map(is_open, leaves)):
                try:
                    known = [opened(x) if is_open(x) else x for x in leaves]
                except Unknown:
                    return _run(f, where, tree, tuple(leaves), [None] * len(leaves))
                leaves, tree = jax.tree.flatten(jax.tree.unflatten(tree, known))
            arrays = [x if is_array(x) else None for x in leaves]
            static = tuple(None if is_array(x) else x for x in leaves)
            run = _INLINE if tracing(arrays) else _APART
            return run(f, where, tree, static, arrays)

        return call

    return decorate


def _run(f: Callable, rows: int | str, tree: Any, static: tuple, arrays: list) -> Any:
    def call(arrays: list) -> Any:
        args, kwargs = whole(arrays)
        return f(*args, **kwargs)

    def whole(arrays: list) -> tuple[tuple, dict]:
        leaves = [s if a is None else a for s, a in zip(static, arrays, strict=True)]
        return jax.tree.unflatten(tree, leaves)

    args, kwargs = whole(arrays)
    like = jax.tree.leaves(kwargs.get(rows) if isinstance(rows, str) else args[rows])
    if not like:
        return call(arrays)
    if like[0].shape[0] == 0:
        return _of_no_rows(call, arrays)
    return automatic(call, like[0], arrays)


def _of_no_rows(call: Callable, arrays: list) -> Any:
    """What a batch of 0 rows gives: nothing of what one row would."""

    def one_row(x: Any) -> Any:
        return jnp.zeros((1, *x.shape[1:]), x.dtype) if x is not None and x.shape[:1] == (0,) else x

    shapes = jax.eval_shape(call, [one_row(x) for x in arrays])
    return jax.tree.map(lambda y: jnp.zeros((0, *y.shape[1:]), y.dtype), shapes)


# Under an outer `jax.jit` the op is part of its program, without a border that partial evaluation
# could not pass. What differentiates outside of one knows a program again only if it is apart.
_INLINE, _APART = (jax.jit(_run, static_argnums=(0, 1, 2, 3), inline=i) for i in (True, False))


def tracing(arrays: list) -> bool:
    """Whether what is computed from them becomes part of a program."""
    traced = any(isinstance(x, jax.core.Tracer) for x in arrays)
    return traced and isinstance(jax.lax.full((), 0.0), jax.core.Tracer)
