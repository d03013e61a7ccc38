"""Functions as trees, so that what they capture is an argument of a compiled program.

A cell of a recurrence or a feature map is often a function made anew for each call, which holds
arrays. `opened` makes a tree of it: its code is compared, the arrays that it captured are leaves,
and functions that it captured are opened too. `jax.jit` then compiles it once, and reads the arrays
as they are at each call, where it would keep those of the first one for ever.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

OPEN = (functools.partial, types.FunctionType, types.MethodType)
# What is compared as it is: values, and functions that hold nothing or are closed by JAX already.
PLAIN = (bool, int, float, complex, str, bytes, type, np.dtype, np.generic, enum.Enum)
PLAIN += (types.ModuleType, types.BuiltinFunctionType, np.ufunc, jnp.ufunc)
PLAIN += (type(jax.jit(abs)), jax.custom_jvp, jax.custom_vjp)


class Unknown(Exception):
    """A function captured an object that may hold arrays."""


def is_array(x: Any) -> bool:
    """Whether it is data for a program."""
    return isinstance(x, (jax.Array, np.ndarray))


def is_open(x: Any) -> bool:
    """Whether `opened` makes a tree of it."""
    return isinstance(x, OPEN) and not isinstance(x, jax.tree_util.Partial)


def opened(f: Callable, inside: tuple[Callable, ...] = ()) -> Callable:
    """The same function as a tree; its leaves are arrays and values to be compared.

    Arrays of NumPy that it captured are such values; those that a `functools.partial` holds are
    not.

    Raises:
        Unknown: it captured, or is a method of, an object of which nothing is known.
    """
    if any(f is g for g in inside):  # it captured itself
        raise Unknown
    known = functools.partial(_known, inside=(*inside, f))
    if isinstance(f, functools.partial):
        return jax.tree_util.Partial(_called, *known((f.func, f.args, f.keywords), constant=()))
    if isinstance(f, types.MethodType):
        return jax.tree_util.Partial(_called, *known((f.__func__, (f.__self__,), {}), constant=()))
    read = {name for code in _codes(f.__code__) for name in code.co_names}
    reads = {n: f.__globals__[n] for n in sorted(read) if is_array(f.__globals__.get(n))}
    cells = tuple(map(_content, f.__closure__ or ()))
    parts = known((cells, f.__defaults__, f.__kwdefaults__, reads))
    return _Function(_Code(f.__code__, f.__globals__), parts)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that was given no value
        return types.CellType


def _known(
    tree: PyTree, *, inside: tuple[Callable, ...], constant: type | tuple = np.ndarray
) -> PyTree:
    def leaf(x: Any) -> Any:
        if isinstance(x, constant):
            return _Constant(x)
        if is_open(x):
            return opened(x, inside)
        if is_array(x) or isinstance(x, PLAIN) or _frozen(x):
            return x
        raise Unknown

    return jax.tree.map(leaf, tree, is_leaf=is_open)


def _frozen(x: Any) -> bool:
    return dataclasses.is_dataclass(x) and type(x).__dataclass_params__.frozen


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """That of a function and of those defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _called(f: Callable, args: tuple, keywords: dict, *more: Any, **others: Any) -> Any:
    return f(*args, *more, **keywords, **others)


class _Code:
    """What is compared of a function."""

    def __init__(self, code: types.CodeType, scope: dict[str, Any]):
        self.code, self.scope = code, scope

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Code) and self.code == other.code and self.scope is other.scope

    def __hash__(self) -> int:
        return hash(self.code)


class _Constant:
    """An array that is compared by value."""

    def __init__(self, array: np.ndarray):
        self.array = array.copy()
        self.key = array.shape, array.dtype, array.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@jax.tree_util.register_pytree_node_class
class _Function:
    """A function of a code, and what it captured: cells, defaults, arrays among its globals."""

    def __init__(self, code: _Code, parts: tuple):
        self.code, self.parts = code, parts

    def tree_flatten(self) -> tuple[tuple, _Code]:
        return self.parts, self.code

    @classmethod
    def tree_unflatten(cls, code: _Code, parts: tuple) -> _Function:
        return cls(code, tuple(parts))

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        parts = jax.tree.map(lambda x: x.array if isinstance(x, _Constant) else x, self.parts)
        cells, defaults, keyword_defaults, reads = parts
        scope = {**self.code.scope, **reads} if reads else self.code.scope
        closure = (types.CellType(*(() if c is types.CellType else (c,))) for c in cells)
        f = types.FunctionType(self.code.code, scope, None, defaults, tuple(closure))
        f.__kwdefaults__ = keyword_defaults
        return f(*args, **keywords)
