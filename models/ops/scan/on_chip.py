"""The loop of a cell as a walk in one kernel, forward and backward, where there is one.

Cells that do not qualify (`cells.py`) and sizes without a plan take the loop of `hidden_matmul.py`,
of which this is the same mathematics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from seqzoo.models.ops.layout.sequence_parallel import by_rows, rows_here
from seqzoo.models.ops.scan.cells import Cell, Cut, cell_of, on_tiles
from seqzoo.models.ops.scan.walk import Arrays, Plan, Sizes, Step, Tiles, gpu_plan, tpu_plan, walk


def _where(mask: Array | None, one: Any, other: Any) -> Any:
    """Blocks of `one` at rows of the mask, elsewhere of the other or 0."""
    if mask is None:
        return one
    if other is None:
        other = jax.tree.map(jnp.zeros_like, one)
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), one, other)


def _not(mask: Array | None) -> Array | None:
    return None if mask is None else ~mask


def _apart(cuts: list[Cut], arrays: list[Array]) -> list[Array]:
    return [cut.apart(a) for cut, a in zip(cuts, arrays, strict=True)]


def _together(cuts: list[Cut], arrays: list[Array]) -> list[Array]:
    return [cut.together(a) for cut, a in zip(cuts, arrays, strict=True)]


def _counts(cuts: list[Cut], like: list[Array]) -> tuple[tuple[int, Any], ...]:
    return tuple((cut.count, a.dtype) for cut, a in zip(cuts, like, strict=True))


def _gates(cell: Cell, kernel: Array) -> Array:
    """The matrix [H, M, E, E] of every block of the product."""
    kernel = kernel.reshape(cell.heads, cell.unit, -1, cell.unit)
    return jnp.swapaxes(kernel, 1, 2)


PLANS: dict[str, Callable[[Sizes], Plan | None]] = {"triton": gpu_plan, "mosaic": tpu_plan}


def forward(opened: Any, reverse: bool, plain: Callable) -> dict[str, Callable]:
    """Name of a form -> the loop forward as one kernel; `plain` where cell or sizes have none."""

    def form(planned: Callable, *args: Any) -> PyTree:
        kernels, consts, h0, x, _ = args
        cell = cell_of(opened, kernels, consts, h0, jax.tree.map(lambda a: a[0], x))
        plan = cell and planned(_sizes(cell))
        if plan is None:
            return plain(*args)
        state = jax.tree.structure(h0)

        def run(kernels: tuple, consts: list, h0: PyTree, x: PyTree, masks: Any) -> tuple:
            rows = jax.tree.leaves(h0), jax.tree.leaves(x), _numbers(masks)
            h = _walk_forward(cell, plan, reverse, kernels, consts, *rows)
            last = [a[0 if reverse else -1] for a in h]
            return state.unflatten(last), state.unflatten(h)

        axes = [_axes(axis, a) for axis, a in zip((-1, 0, 0, 1, 1), args, strict=True)]
        return by_rows(run, tuple(axes), (_axes(0, h0), _axes(1, h0)), *args)

    return {name: functools.partial(form, planned) for name, planned in PLANS.items()}


def backward(opened: Any, reverse: bool, plain: Callable) -> dict[str, Callable]:
    """The same for the loop of the backward pass."""

    def form(planned: Callable, *args: Any) -> PyTree:
        transposed, consts, last, _, x, *_ = args
        kernels = [jnp.swapaxes(a, -1, -2) for a in transposed]
        cell = cell_of(opened, kernels, consts, last, jax.tree.map(lambda a: a[0], x))
        plan = cell and planned(_sizes(cell))
        if plan is None:
            return plain(*args)
        state, inputs = jax.tree.structure(last), jax.tree.structure(x)

        def run(transposed: list, consts: list, last: PyTree, *rows: PyTree) -> tuple:
            before, x, products, g, masks = rows
            leaves = [jax.tree.leaves(a) for a in (last, before, x, g)]
            dh, d_products, d_consts, dx = _walk_backward(
                cell, plan, reverse, transposed, consts, *leaves, products, _numbers(masks)
            )
            return (state.unflatten(dh), d_consts), (inputs.unflatten(dx), d_products)

        axes = [_axes(axis, a) for axis, a in zip((-1, 0, 0, *[1] * 5), args, strict=True)]
        out_axes = (axes[2], axes[1]), (axes[4], axes[5])
        return by_rows(run, tuple(axes), out_axes, *args)

    return {name: functools.partial(form, planned) for name, planned in PLANS.items()}


def _sizes(cell: Cell) -> Sizes:
    """On one device."""
    gates = sum(cut.count for cut in cell.products)
    cuts = [*cell.state, *cell.state, *cell.inputs, *cell.inputs, *cell.consts]
    held = sum(cut.count for cut in cuts) + 2 * gates
    return Sizes(rows_here(cell.state[0].shape[0]), cell.heads, cell.unit, gates, held)


def _axes(axis: int, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda _: axis, tree)


def _numbers(masks: Any) -> list[Array | None]:
    """As [L, B, 1], which is what a kernel reads."""
    return [None if mask is None else mask.astype(jnp.int32)[..., None] for mask in masks]


def _walk_forward(
    cell: Cell, plan: Plan, reverse: bool, kernels, consts, h0, x, masks
) -> list[Array]:
    """Leaves of all states, [L, B, ...]."""
    matrix, first, taken = None, None, cell.exchanged
    if kernels:
        matrix = _gates(cell, kernels[0])[:, None]
        first = jnp.einsum("HBI,HMIO->MHBO", cell.state[taken].apart(h0[taken])[0], matrix[:, 0])
    arguments = [*cell.state, *cell.inputs, *cell.products, *cell.consts]
    program = on_tiles(cell.forward, cell, arguments, cell.state)

    def run(h: Tiles, products: list[Array], x: Tiles, fixed: Tiles, valid: Any, starts: Any):
        seen, products = _where(_not(starts), [h, [products]], None)
        new = program(*seen, *x, *products[: len(cell.products)], *fixed)
        h = _where(valid, new, h)
        return h, h

    arrays = Arrays(
        carry=_apart(cell.state, h0),
        first=first,
        matrix=matrix,
        inputs=_apart(cell.inputs, x),
        fixed=_apart(cell.consts, consts),
        masks=masks,
    )
    step = Step(run, _counts(cell.state, h0), taken)
    return _together(cell.state, walk(step, arrays, plan, reverse=reverse)[1])


def _walk_backward(
    cell: Cell, plan: Plan, reverse: bool, turned, consts, last, before, x, g, products, masks
) -> tuple[list[Array], list[Array], list[Array], list[Array]]:
    """Cotangents of the first state, the products, consts and x; `before` is 0 at starts.

    Those of products at starts are 0: there the factor is.
    """
    matrix, taken = None, cell.exchanged
    if turned:
        matrix = _gates(cell, jnp.swapaxes(turned[0], -1, -2)).swapaxes(-1, -2)
    arguments = [*cell.state, *cell.inputs, *cell.products, *cell.consts]
    program = on_tiles(cell.backward, cell, [*arguments, *cell.state], arguments)
    n, m, k = len(cell.state), len(cell.inputs), len(cell.products)

    def run(carry: Tiles, products: list[Array], inputs: Tiles, fixed: Tiles, valid, starts):
        dh, sums = list(carry[:n]), carry[n:]
        if matrix is not None:
            dh[taken] = [dh[taken][0] + products[0]]
        dh = jax.tree.map(jnp.add, dh, inputs[n + m + k :])
        found = program(*inputs[: n + m + k], *fixed, *_where(valid, dh, None))
        d_before, dx, d_product = found[:n], found[n : n + m], found[n + m : n + m + k]
        d_before, d_product = _where(_not(starts), [d_before, d_product], None)
        sums = jax.tree.map(jnp.add, sums, found[n + m + k :])
        return [*_where(valid, d_before, dh), *sums], [*dx, *d_product]

    start = _apart(cell.state, last)
    nothing = [jnp.zeros_like(a) for a in consts]
    arrays = Arrays(
        carry=[*start, *_apart(cell.consts, nothing)],
        first=None if matrix is None else jnp.zeros_like(start[taken]),
        matrix=None if matrix is None else matrix[:, :, None],
        inputs=_apart(
            [*cell.state, *cell.inputs, *cell.products, *cell.state], [*before, *x, *products, *g]
        ),
        fixed=_apart(cell.consts, consts),
        masks=masks,
    )
    outputs = _counts([*cell.inputs, *cell.products], [*x, *products])
    step = Step(run, outputs, None if matrix is None else m)
    ends, out = walk(step, arrays, plan, reverse=not reverse)
    if matrix is not None:
        d_first = out[m][-1 if reverse else 0]
        ends[taken] = ends[taken] + jnp.einsum("MHBI,HMIO->HBO", d_first, matrix)[None]
    return (
        _together(cell.state, ends[:n]),
        _together(cell.products, out[m:]),
        _together(cell.consts, ends[n:]),
        _together(cell.inputs, out[:m]),
    )
