"""Kernels of Pallas as forms of an op, beside its plain form, of JAX's own operations.

A kernel has no derivative of its own and no partition over devices; Pallas' `vmap` makes another
grid of it, which one whose programs wait for each other may not have; and to trace it takes longer
than all else. So it is behind a primitive whose form is found when a program is lowered for a
platform: only there a kernel is traced. Derivatives are those of the plain form (an op with a
kernel for its first reverse derivative has `with_backward` around it), and under `vmap` the plain
form is mapped, while a kernel runs for one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from seqzoo.models.ops.layout import backends

Form = Callable[..., Sequence[Array]]  # of arrays
Kernels = tuple[tuple[str, Form], ...]  # and the platforms of the table that have them
PLATFORMS = {"cuda": "gpu", "tpu": "tpu"}  # as JAX names them -> as the table does


def run(
    op: str, plain: Callable[..., PyTree], kernels: Mapping[str, Callable[..., PyTree]], *args: Any
) -> PyTree:
    """plain(*args), or what the table names for the platform lowered for, where kernels have it.

    Args:
        op: a row of the table of `backends.py`.
        plain: the form of all other names.
        kernels: name -> a function of the same arguments and results.
        args: trees of arrays.
    """
    names = {platform: backends.chosen(op, platform) for platform in backends.PLATFORMS}
    if not set(names.values()) & set(kernels):
        return plain(*args)
    leaves, tree = jax.tree.flatten(args)
    mesh = jax.sharding.get_abstract_mesh()
    program, like = jax.make_jaxpr(plain, return_shape=True)(*args)

    def of_leaves(kernel: Callable[..., PyTree], *leaves: Array) -> list[Array]:
        with jax.sharding.use_abstract_mesh(mesh):
            return jax.tree.leaves(kernel(*tree.unflatten(leaves)))

    forms = tuple(
        (platform, functools.partial(of_leaves, kernels[name]))
        for platform, name in names.items()
        if name in kernels
    )
    found = by_platform_p.bind(*leaves, jaxpr=program, kernels=forms)
    return jax.tree.unflatten(jax.tree.structure(like), found)


by_platform_p = Primitive("by_platform")
by_platform_p.multiple_results = True
by_platform_p.def_abstract_eval(lambda *_, jaxpr, **__: jaxpr.out_avals)


@by_platform_p.def_impl
def _(*args: Array, **params: Any) -> Sequence[Array]:
    return jax.jit(functools.partial(by_platform_p.bind, **params))(*args)


def _lower(platform: str, ctx: Any, *args: Any, jaxpr: ClosedJaxpr, kernels: Kernels) -> Any:
    form = dict(kernels).get(platform)
    # What is exported may have open sizes, and no later version need read Triton's programs.
    if form is None or ctx.module_context.lowering_parameters.for_export:
        form = jaxpr_as_fun(jaxpr)
    return mlir.lower_fun(form, multiple_results=True)(ctx, *args)


mlir.register_lowering(by_platform_p, functools.partial(_lower, "cpu"))
for _name, _platform in PLATFORMS.items():
    mlir.register_lowering(by_platform_p, functools.partial(_lower, _platform), platform=_name)


def _tangent(primals: Sequence, tangents: Sequence, *, jaxpr: ClosedJaxpr, **_: Any) -> tuple:
    return jax.jvp(jaxpr_as_fun(jaxpr), tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _batched(args: Sequence, dims: Sequence, *, jaxpr: ClosedJaxpr, kernels: Kernels) -> tuple:
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    moved = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True)]
    axes = [None if d is None else 0 for d in dims]

    def one_by_one(kernel: Form, *args: Array) -> list[Array]:
        mapped = [x for x, d in zip(args, axes, strict=True) if d == 0]

        def one(mapped: list[Array]) -> Sequence[Array]:
            own = iter(mapped)
            return kernel(*(x if d is None else next(own) for x, d in zip(args, axes, strict=True)))

        return lax.map(one, mapped)

    found = by_platform_p.bind(
        *moved,
        jaxpr=jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), in_axes=axes, axis_size=size))(*moved),
        kernels=tuple((name, functools.partial(one_by_one, f)) for name, f in kernels),
    )
    return found, [0] * len(found)


ad.primitive_jvps[by_platform_p] = _tangent
batching.primitive_batchers[by_platform_p] = _batched
