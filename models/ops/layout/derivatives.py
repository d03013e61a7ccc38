"""Functions with a backward pass of their own that can be differentiated in every other way too.

`jax.custom_vjp` has no forward mode, hence no Hessian-vector product by forward over reverse. Here
a function's tangent is one primitive, `linear_map`, whose value is the derivative in forward mode
and whose transpose is the backward pass. Both are ordinary code, of which JAX takes further
derivatives. (`jax.custom_derivatives.linear_call` is such a primitive too, but it has no `vmap` and
no derivative by what it keeps.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive, unmapped_aval
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

Leaves = Sequence[Array]
Map = Callable[[Leaves, Leaves], Leaves]  # of what is kept, and linear in the second


def with_backward(
    function: Callable[..., PyTree],
    forward: Callable[..., tuple[PyTree, PyTree]],
    backward: Callable[..., tuple],
    tangent: Callable[..., PyTree] | None = None,
) -> Callable[..., PyTree]:
    """`function(static, *args)` whose reverse mode is `forward` and `backward`.

    Args:
        function: of a hashable argument, which has no derivative, and of trees of arrays.
        forward: (static, *args) -> the value, and what to keep for the others.
        backward: (static, kept, cotangent) -> cotangents of all of args, None for zero.
        tangent: (static, kept, tangents) -> the tangent of the value. By default JAX takes it of
            `function`; what is kept must then be (args, ...).
    """
    if tangent is None:

        def tangent(static: Hashable, kept: PyTree, tangents: tuple) -> PyTree:
            return jax.jvp(functools.partial(function, static), kept[0], tangents)[1]

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def run(static: Hashable, *args: PyTree) -> PyTree:
        return function(static, *args)

    @functools.partial(run.defjvp, symbolic_zeros=True)
    def _(static: Hashable, args: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
        value, kept = forward(static, *args)
        values, value_tree = jax.tree.flatten(value)
        kept, kept_tree = jax.tree.flatten(kept)
        tangents, tree = jax.tree.flatten(tangents)
        moving = [not isinstance(t, SymbolicZero) for t in tangents]
        zeros = [functools.partial(_zeros, t.shape, t.dtype) for t in tangents]

        def push(kept: Leaves, moved: Leaves) -> Leaves:
            moved = iter(moved)
            tangents = [next(moved) if m else zero() for m, zero in zip(moving, zeros, strict=True)]
            kept, tangents = kept_tree.unflatten(kept), tree.unflatten(tangents)
            return jax.tree.leaves(tangent(static, kept, tangents))

        def pull(kept: Leaves, cotangents: Leaves) -> Leaves:
            cotangent = value_tree.unflatten(cotangents)
            found = []
            for part, d in zip(
                tree.children(), backward(static, kept_tree.unflatten(kept), cotangent), strict=True
            ):
                found += [None] * part.num_leaves if d is None else part.flatten_up_to(d)
            each = zip(moving, found, zeros, strict=True)
            return [zero() if d is None else d for m, d, zero in each if m]

        moved = [t for m, t in zip(moving, tangents, strict=True) if m]
        return value, value_tree.unflatten(_linear_map(push, pull, kept, moved, values))

    return run


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.zeros(shape, dtype) if dtype == jax.dtypes.float0 else jnp.zeros(shape, dtype)


linear_map_p = Primitive("linear_map")
linear_map_p.multiple_results = True


def _linear_map(push: Map, pull: Map, kept: Leaves, x: Leaves, like: Leaves) -> Leaves:
    """push(kept, x), linear in x and with results `like` those, of which pull is the transpose."""
    avals = tuple(jax.typeof(y).to_tangent_aval() for y in like)
    return linear_map_p.bind(*kept, *x, push=push, pull=pull, count=len(kept), avals=avals)


def _evaluated(*args: Array, push: Map, count: int, **_: Any) -> Leaves:
    return push(list(args[:count]), list(args[count:]))


linear_map_p.def_impl(_evaluated)
linear_map_p.def_abstract_eval(lambda *_, avals, **__: avals)
mlir.register_lowering(linear_map_p, mlir.lower_fun(_evaluated, multiple_results=True))


def _tangent(primals: Leaves, tangents: Sequence, *, push: Map, count: int, **params: Any):
    params = {"push": push, "count": count, **params}
    kept, x = primals[:count], primals[count:]
    y = linear_map_p.bind(*primals, **params)
    terms = []
    if not all(isinstance(t, ad.Zero) for t in tangents[count:]):
        moved = map(ad.instantiate_zeros, tangents[count:])
        terms.append(linear_map_p.bind(*kept, *moved, **params))
    moving = [i for i in range(count) if not isinstance(tangents[i], ad.Zero)]
    if moving:

        def by_kept(*moved: Array) -> Leaves:
            full = list(kept)
            for i, value in zip(moving, moved, strict=True):
                full[i] = value
            return push(full, x)

        moved = [kept[i] for i in moving], [tangents[i] for i in moving]
        terms.append(jax.jvp(by_kept, *moved)[1])
    return y, [sum(ts[1:], start=ts[0]) for ts in zip(*terms, strict=True)]


def _transposed(cotangents: Sequence, *args: Any, push: Map, pull: Map, count: int, avals: tuple):
    kept, x = args[:count], args[count:]
    cotangents = map(ad.instantiate_zeros, cotangents)
    found = linear_map_p.bind(
        *kept,
        *cotangents,
        push=pull,
        pull=push,
        count=count,
        avals=tuple(v.aval if ad.is_undefined_primal(v) else jax.typeof(v) for v in x),
    )
    asked = [d if ad.is_undefined_primal(v) else None for d, v in zip(found, x, strict=True)]
    return [None] * count + asked


def _batched(args: Leaves, dims: Sequence, *, push: Map, pull: Map, count: int, avals: tuple):
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    moved = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True)]
    for i in range(count, len(args)):
        if dims[i] is None:
            moved[i] = jnp.broadcast_to(moved[i], (size, *moved[i].shape))
    axes = [None if d is None else 0 for d in dims[:count]]
    y = linear_map_p.bind(
        *moved,
        push=jax.vmap(push, in_axes=(axes, 0), axis_size=size),
        pull=jax.vmap(pull, in_axes=(axes, 0), axis_size=size),
        count=count,
        avals=tuple(unmapped_aval(size, 0, aval) for aval in avals),
    )
    return y, [0] * len(y)


ad.primitive_jvps[linear_map_p] = _tangent
ad.primitive_transposes[linear_map_p] = _transposed
batching.primitive_batchers[linear_map_p] = _batched
