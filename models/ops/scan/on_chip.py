"""A cell of one product as a walk: its step on blocks of rows and channels, forward and backward.

The cells that qualify mix neither rows nor channels but by v W, where v is a leaf of the state:
LSTM without projection, GRU with its reset gate behind the product, RNN, sLSTM by heads. What they
do to a block is read from their programs (`lanes.py`), and so is the pullback of a step, which JAX
makes. All else takes the loop of `hidden_matmul.py`, of which this is the same mathematics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from seqzoo.models.ops.layout.sequence_parallel import by_rows, rows_here
from seqzoo.models.ops.scan.lanes import NOWHERE, Blocks, Mixed, blocks, evaluate, filled
from seqzoo.models.ops.scan.walk import Arrays, Plan, Sizes, Step, Tiles, gpu_plan, tpu_plan, walk


class Cut(NamedTuple):
    """How an array [.., B, ..] lies in blocks: [.., n, H, B, E]."""

    shape: tuple[int, ...]  # [B, ...]
    heads: int
    unit: int
    heads_first: bool = False  # else heads are right before channels

    @property
    def count(self) -> int:
        return int(np.prod(self.shape[1:])) // (self.heads * self.unit)

    def apart(self, a: Array) -> Array:
        """The array in blocks; axes before the rows stay."""
        before = a.ndim - len(self.shape)
        lead, batch = a.shape[:before], a.shape[before]
        middle = (self.heads, self.count) if self.heads_first else (self.count, self.heads)
        a = a.reshape(*lead, batch, *middle, self.unit)
        if self.heads_first:
            a = jnp.swapaxes(a, -3, -2)
        return jnp.moveaxis(a, len(lead), -2)

    def together(self, a: Array) -> Array:
        """The array of such blocks."""
        lead = a.shape[:-4]
        a = jnp.moveaxis(a, -2, len(lead))
        if self.heads_first:
            a = jnp.swapaxes(a, -3, -2)
        return a.reshape(*a.shape[: len(lead) + 1], *self.shape[1:])

    def head(self, i: int) -> int:
        """Of the i-th block."""
        return i // self.count if self.heads_first else i % self.heads

    def place(self, i: int) -> int:
        """Of the i-th block among those of its head."""
        return i % self.count if self.heads_first else i // self.heads

    def values(self, each: Callable[[int, int], Any]) -> Blocks:
        """The array whose blocks are each(place, head)."""
        return blocks(self.shape, self.unit, 0, lambda i: each(self.place(i), self.head(i)))

    def of(self, value: Any) -> Blocks:
        """What a program has made as an array of this kind."""
        return filled(value, self.shape, self.unit, 0)


class Cell(NamedTuple):
    """A step's program and its pullback's, and how their arrays are cut."""

    forward: Any
    backward: Any
    state: list[Cut]
    inputs: list[Cut]
    products: Cut
    consts: list[Cut]
    exchanged: int  # leaf of the state that the matrix takes
    heads: int
    unit: int

    def sizes(self) -> Sizes:
        """On one device."""
        gates = self.products.count
        cuts = [*self.state, *self.state, *self.inputs, *self.inputs, *self.consts]
        held = sum(cut.count for cut in cuts) + 2 * gates
        return Sizes(rows_here(self.state[0].shape[0]), self.heads, self.unit, gates, held)


def cell_of(opened: Any, kernels: tuple, consts: list, h0: PyTree, x: PyTree) -> Cell | None:
    """None for a cell that does not qualify; x is of one step."""
    if len(kernels) != 1 or any(a.dtype != jnp.float32 for a in jax.tree.leaves((h0, kernels))):
        return None
    heads, unit = kernels[0].shape[-3:-1] if kernels[0].ndim == 3 else (1, kernels[0].shape[0])
    products = list(opened.shapes)
    state, inputs, constant = (
        [Cut(a.shape, heads, unit) for a in jax.tree.leaves(tree)] for tree in (h0, x, consts)
    )
    product = Cut(products[0].shape, heads, unit, heads_first=kernels[0].ndim == 3)
    like = jax.tree.map(_shape, (h0, x, products, consts))
    with jax.sharding.use_abstract_mesh(NOWHERE):
        forward = jax.make_jaxpr(_forward(opened))(*like)
        backward = jax.make_jaxpr(_backward(opened))(*like, like[0])
    arguments = [*state, *inputs, product, *constant]
    factor = Cut(forward.out_avals[-1].shape, heads, unit)
    try:
        taken = _checked(forward, arguments, [*state, factor])
        _checked(backward, [*arguments, *state], arguments)
    except Mixed:
        return None
    if len(taken) != 1 or taken[0] not in [(k, 0) for k in range(len(state))]:
        return None
    return Cell(forward, backward, state, inputs, product, constant, taken[0][0], heads, unit)


def _shape(a: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, a.dtype)


def _forward(opened: Any) -> Callable:
    def step(h: PyTree, x: PyTree, products: list, consts: list) -> tuple[PyTree, list]:
        return opened.step(h, x, products, *consts)

    return step


def _backward(opened: Any) -> Callable:
    """Cotangents of a step's h (but for the way through its product), x, product and consts."""

    def pulled(h: PyTree, x: PyTree, products: list, consts: list, new: PyTree) -> tuple:
        (_, factors), pull = jax.vjp(_forward(opened), h, x, products, consts)
        return pull((new, [jnp.zeros_like(v) for v in factors]))

    return pulled


class _Symbol(NamedTuple):
    """Stands for a block when a program is checked: what it is, apart from whose."""

    head: int
    what: Any


def _checked(program: Any, arguments: list[Cut], results: list[Cut]) -> list:
    """What the blocks of the last result are, after a look at all of them.

    Raises:
        Mixed: if the program mixes rows, channels or heads, or does not treat heads alike.
    """
    known: dict = {}

    def apply(primitive: Any, params: dict, *operands: Any) -> Any:
        heads = {x.head for x in operands if isinstance(x, _Symbol)}
        if len(heads) > 1:
            raise Mixed
        what = id(params), *(x.what if isinstance(x, _Symbol) else x.item() for x in operands)
        return _Symbol(heads.pop(), known.setdefault(what, len(known)))

    def symbols(i: int, cut: Cut) -> Blocks:
        return cut.values(lambda place, head: _Symbol(head, (i, place)))

    values = [symbols(i, cut) for i, cut in enumerate(arguments)]
    found = evaluate(program, arguments[0].unit, values, apply)
    whats: list = []
    for cut, value in zip(results, found, strict=True):
        parts = cut.of(value).parts.reshape(-1)
        whats = [None] * cut.count
        for i, part in enumerate(parts):
            symbol = isinstance(part, _Symbol)
            what, place = part.what if symbol else part.item(), cut.place(i)
            if symbol and part.head != cut.head(i):
                raise Mixed
            if cut.head(i) and what != whats[place]:
                raise Mixed
            whats[place] = what
    return whats


def _on_tiles(program: Any, cell: Cell, arguments: list[Cut], results: list[Cut]) -> Callable:
    """The program on tiles of one head."""

    def apply(primitive: Any, params: dict, *operands: Any) -> Any:
        shape = next(x.shape for x in operands if not isinstance(x, np.ndarray))
        operands = [_full(shape, x) if isinstance(x, np.ndarray) else x for x in operands]
        return primitive.bind(*operands, **params)

    def run(*tiles: list[Array]) -> Tiles:
        shape = tiles[0][0].shape
        values = [
            cut.values(lambda place, _, own=own: own[place])
            for cut, own in zip(arguments, tiles, strict=True)
        ]
        found = evaluate(program, cell.unit, values, apply)
        made = []
        for cut, value in zip(results, found, strict=False):
            parts = cut.of(value).parts.reshape(-1)
            own = [part for i, part in enumerate(parts) if cut.head(i) == 0]
            made.append([_full(shape, a) if isinstance(a, np.ndarray) else a for a in own])
        return made

    return run


def _full(shape: Sequence[int], number: np.ndarray) -> Array:
    return jnp.full(shape, number.item(), number.dtype)


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
        plan = cell and planned(cell.sizes())
        if plan is None:
            return plain(*args)
        state = jax.tree.structure(h0)

        def run(kernels: tuple, consts: list, h0: PyTree, x: PyTree, masks: Any) -> tuple:
            rows = jax.tree.leaves(h0), jax.tree.leaves(x), _numbers(masks)
            h = _walk_forward(cell, plan, reverse, kernels[0], consts, *rows)
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
        plan = cell and planned(cell.sizes())
        if plan is None:
            return plain(*args)
        state, inputs = jax.tree.structure(last), jax.tree.structure(x)

        def run(transposed: list, consts: list, last: PyTree, *rows: PyTree) -> tuple:
            before, x, (products,), g, masks = rows
            leaves = [jax.tree.leaves(a) for a in (last, before, x, g)]
            dh, d_products, d_consts, dx = _walk_backward(
                cell, plan, reverse, transposed[0], consts, *leaves, products, _numbers(masks)
            )
            return (state.unflatten(dh), d_consts), (inputs.unflatten(dx), [d_products])

        axes = [_axes(axis, a) for axis, a in zip((-1, 0, 0, *[1] * 5), args, strict=True)]
        out_axes = (axes[2], axes[1]), (axes[4], axes[5])
        return by_rows(run, tuple(axes), out_axes, *args)

    return {name: functools.partial(form, planned) for name, planned in PLANS.items()}


def _axes(axis: int, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda _: axis, tree)


def _numbers(masks: Any) -> list[Array | None]:
    """As [L, B, 1], which is what a kernel reads."""
    return [None if mask is None else mask.astype(jnp.int32)[..., None] for mask in masks]


def _walk_forward(
    cell: Cell, plan: Plan, reverse: bool, kernel, consts, h0, x, masks
) -> list[Array]:
    """Leaves of all states, [L, B, ...]."""
    matrix, taken = _gates(cell, kernel), cell.exchanged
    arguments = [*cell.state, *cell.inputs, cell.products, *cell.consts]
    program = _on_tiles(cell.forward, cell, arguments, cell.state)

    def run(h: Tiles, products: list[Array], x: Tiles, fixed: Tiles, valid: Any, starts: Any):
        seen, products = _where(_not(starts), [h, [products]], None)
        new = program(*seen, *x, *products, *fixed)
        h = _where(valid, new, h)
        return h, h

    arrays = Arrays(
        carry=_apart(cell.state, h0),
        first=jnp.einsum("HBI,HMIO->MHBO", cell.state[taken].apart(h0[taken])[0], matrix),
        matrix=matrix[:, None],
        inputs=_apart(cell.inputs, x),
        fixed=_apart(cell.consts, consts),
        masks=masks,
    )
    step = Step(run, _counts(cell.state, h0), taken)
    return _together(cell.state, walk(step, arrays, plan, reverse=reverse)[1])


def _walk_backward(
    cell: Cell, plan: Plan, reverse: bool, turned, consts, last, before, x, g, products, masks
) -> tuple[list[Array], Array, list[Array], list[Array]]:
    """Cotangents of the first state, the products, consts and x; `before` is 0 at starts.

    Those of products at starts are 0: there the factor is.
    """
    matrix, taken = _gates(cell, jnp.swapaxes(turned, -1, -2)).swapaxes(-1, -2), cell.exchanged
    arguments = [*cell.state, *cell.inputs, cell.products, *cell.consts]
    program = _on_tiles(cell.backward, cell, [*arguments, *cell.state], arguments)
    n, m = len(cell.state), len(cell.inputs)

    def run(carry: Tiles, products: list[Array], inputs: Tiles, fixed: Tiles, valid, starts):
        dh, sums = list(carry[:n]), carry[n:]
        dh[taken] = [dh[taken][0] + products[0]]
        dh = jax.tree.map(jnp.add, dh, inputs[n + m + 1 :])
        found = program(*inputs[: n + m + 1], *fixed, *_where(valid, dh, None))
        d_before, dx, d_product = found[:n], found[n : n + m], found[n + m]
        d_before, d_product = _where(_not(starts), [d_before, d_product], None)
        sums = jax.tree.map(jnp.add, sums, found[n + m + 1 :])
        return [*_where(valid, d_before, dh), *sums], [*dx, d_product]

    start = _apart(cell.state, last)
    nothing = [jnp.zeros_like(a) for a in consts]
    arrays = Arrays(
        carry=[*start, *_apart(cell.consts, nothing)],
        first=jnp.zeros_like(start[taken]),
        matrix=matrix[:, :, None],
        inputs=_apart(
            [*cell.state, *cell.inputs, cell.products, *cell.state], [*before, *x, products, *g]
        ),
        fixed=_apart(cell.consts, consts),
        masks=masks,
    )
    outputs = _counts([*cell.inputs, cell.products], [*x, products])
    ends, out = walk(Step(run, outputs, m), arrays, plan, reverse=not reverse)
    d_first = out[m][-1 if reverse else 0]
    ends[taken] = ends[taken] + jnp.einsum("MHBI,HMIO->HBO", d_first, matrix)[None]
    return (
        _together(cell.state, ends[:n]),
        cell.products.together(out[m]),
        _together(cell.consts, ends[n:]),
        _together(cell.inputs, out[:m]),
    )
