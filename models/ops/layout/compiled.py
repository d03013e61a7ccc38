"""The door of every public op: compiled once for arguments of a kind, on any mesh.

Bodies of loops and branches are new functions at each call, and JAX would compile them again each
time an op is called outside of `jax.jit`. Behind `op` a call is one cached program. Its key is
what arguments are: shapes and dtypes of arrays, values of everything else; and, as for any
`jax.jit`, the ambient mesh, the forced forms and JAX's own settings. Under an outer `jax.jit` the
program becomes part of the outer one, as if there were no door.

What is no array must be hashable and is compared by value. Of a `functools.partial` the function
is compared and the arrays among its arguments may change; any other function is compared by
identity, so one that is made anew for each call compiles anew.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

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
            leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_partial)
            if any(map(_is_partial, leaves)):
                opened = [_opened(x) if _is_partial(x) else x for x in leaves]
                leaves, tree = jax.tree.flatten(jax.tree.unflatten(tree, opened))
            arrays = [x if _is_array(x) else None for x in leaves]
            static = tuple(None if _is_array(x) else x for x in leaves)
            run = _INLINE if tracing(arrays) else _APART
            return run(f, rows if position >= len(args) else position, tree, static, arrays)

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
    return automatic(call, like[0], arrays) if like else call(arrays)


# Under an outer `jax.jit` the op is part of its program, without a border that partial evaluation
# could not pass. What differentiates outside of one knows a program again only if it is apart.
_INLINE, _APART = (jax.jit(_run, static_argnums=(0, 1, 2, 3), inline=i) for i in (True, False))


def tracing(arrays: list) -> bool:
    """Whether what is computed from them becomes part of a program."""
    traced = any(isinstance(x, jax.core.Tracer) for x in arrays)
    return traced and isinstance(jax.lax.full((), 0.0), jax.core.Tracer)


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray))


def _is_partial(x: Any) -> bool:
    return isinstance(x, functools.partial) and not isinstance(x, jax.tree_util.Partial)


def _opened(x: functools.partial) -> jax.tree_util.Partial:
    """A tree, of which the arrays are leaves."""
    return jax.tree_util.Partial(x.func, *x.args, **x.keywords)
