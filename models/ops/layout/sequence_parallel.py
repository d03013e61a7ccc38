"""Sequences that are divided over devices: the mesh's axis `seq` along L.

A row [B, L, ...] of n parts becomes n times B rows of L / n tokens, part by part, and that axis is
what the devices divide: from there on an op runs as it does for any batch. What a recurrence loses
at the borders comes back in three steps: every part runs from an empty state; all devices gather
the parts' last states and the maps from a first to a last state, both without an axis L, and walk
over the n of them; every part runs again from the state before it. Hence what is sent does not
grow with L, and only differences in the order of sums remain.

Nothing here depends on how many devices there really are: the mesh is the ambient one, and an op
without a mesh, or whose L the axis does not divide, runs as if this file did not exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from seqzoo.models.ops.layout.sharding import BATCH_AXES, SEQUENCE_AXIS, axis_size, undivided

State = TypeVar("State")
FREE = PartitionSpec.UNCONSTRAINED


def parts(length: int) -> int:
    """Into how many parts rows of `length` are cut; 1 without a mesh that asks for more."""
    count = axis_size(SEQUENCE_AXIS)
    return count if length % count == 0 else 1


class Recurrence(NamedTuple):
    """What an op does with rows of tokens, declared once and called on one device or on many.

    Each function takes first what is the same for all rows: options, tables, parameters, as one
    tuple. None of them needs to know of devices.

    Attributes:
        run: (shared, inputs, state) -> (outputs [B, L, ...], state after them), any number of rows.
        summarize: (shared, inputs, nothing) -> (what becomes of the state before the inputs, the
            state that they make of none), with rows first and no axis L in every leaf; `nothing`
            is a state of zeros for as many rows.
        compose: (shared, those two, state before) -> state after, for one part.
    """

    run: Callable[[tuple, PyTree, State], tuple[PyTree, State]]
    summarize: Callable[[tuple, PyTree, State], tuple[PyTree, State]]
    compose: Callable[[tuple, PyTree, State, State], State]

    def __call__(
        self, shared: tuple, inputs: PyTree, state: State, *, reverse: bool = False
    ) -> tuple[PyTree, State]:
        """`run`, in parts where the mesh divides L, each from the state that the one before leaves.

        Args:
            shared: what all rows have in common.
            inputs: leaves [B, L, ...], and `Segments`. A size of 1 in place of L is an input that
                is constant in time, one of B an input that rows share.
            state: before the first part, leaves [B, ...].
            reverse: `run` goes from the end of the rows, so the last part comes first.

        Returns:
            Outputs [B, L, ...] and the state behind the last part.
        """
        batch, leaves = jax.tree.leaves(state)[0].shape[0], jax.tree.leaves(inputs)
        length = max(x.shape[1] for x in leaves)
        count = parts(length)
        if count == 1:
            return self.run(shared, inputs, state)

        def apart(x: Array) -> Array:
            if x.shape[:2] == (1, 1):
                return x
            x = jnp.broadcast_to(x, (batch, *x.shape[1:]))
            return cut(x, count) if x.shape[1] == length else repeat(x, count)

        divided = jax.tree.map(
            lambda x: x.in_parts(batch, count) if hasattr(x, "in_parts") else apart(x),
            inputs,
            is_leaf=lambda x: hasattr(x, "in_parts"),
        )
        nothing = jax.tree.map(lambda s: jnp.zeros((count * batch, *s.shape[1:]), s.dtype), state)
        return carried_over(
            lambda inputs, state: self.run(shared, inputs, state),
            lambda inputs: self.summarize(shared, inputs, nothing),
            lambda passed, own, before: self.compose(shared, passed, own, before),
            divided,
            state,
            count,
            reverse=reverse,
        )


def decayed(_: tuple, kept: Array, own: Array, before: Array) -> Array:
    """The `compose` of a linear recurrence whose state is multiplied by `kept`."""
    return kept * before + own


def carried_over(
    run: Callable[[PyTree, State], tuple[PyTree, State]],
    summarize: Callable[[PyTree], tuple[PyTree, State]],
    compose: Callable[[PyTree, State, State], State],
    inputs: PyTree,
    state: State,
    count: int,
    *,
    reverse: bool = False,
) -> tuple[PyTree, State]:
    """`run` over rows in `count` parts, each from the state that the one before it leaves.

    Args:
        run: (inputs, state) -> (outputs [B, L, ...], state after them), any number of rows.
        summarize: inputs -> (what the state before them turns into, the state from nothing), whose
            leaves have rows first and no axis L.
        compose: (those two, state before) -> state after, for one part.
        inputs: rows already cut, [count * B, L / count, ...], by `cut` and its like.
        state: before the first part, leaves [B, ...].
        count: from `parts`.
        reverse: the last part comes first.

    Returns:
        Outputs [B, L, ...] and the state behind the last part.
    """
    summaries = jax.tree.map(lambda x: _together(x, count), summarize(inputs))

    def step(state: State, summary: tuple[PyTree, State]) -> tuple[State, State]:
        after = compose(*summary, state)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), after, state), state

    last, before = jax.lax.scan(step, state, summaries, reverse=reverse)
    outputs, _ = run(inputs, jax.tree.map(_apart, before))
    return jax.tree.map(lambda y: join(y, count), outputs), last


def cut(x: Shaped[Array, "B L ..."], count: int) -> Shaped[Array, "nB L/n ..."]:
    """The parts of all rows, part 0 of every row first."""
    batch, length, *rest = x.shape
    x = x.reshape(batch, count, length // count, *rest)
    return _apart(jnp.moveaxis(x, 1, 0))


def join(y: Shaped[Array, "nB L/n ..."], count: int) -> Shaped[Array, "B L ..."]:
    """The inverse of `cut`."""
    rows, length, *rest = y.shape
    y = _divided(y.reshape(count, rows // count, length, *rest))
    y = jnp.moveaxis(y, 0, 1).reshape(rows // count, count * length, *rest)
    axes = _row_axes(y.shape[0])
    return _constrain(y, axes, SEQUENCE_AXIS)


def delayed(x: Shaped[Array, "B L ..."], first: Shaped[Array, "B ..."]) -> Array:
    """x_{t-1} at every t, and `first` at the start."""
    if parts(x.shape[1]) == 1:
        return jnp.concatenate([first[:, None], x[:, :-1]], axis=1)
    # Of a concatenation the compiler makes whole rows; of this a message between neighbours.
    one_on = [(0, 0, 0), (1, -1, 0), *[(0, 0, 0)] * (x.ndim - 2)]
    moved = jax.lax.pad(x, jnp.zeros((), x.dtype), one_on)
    start = jnp.arange(x.shape[1]).reshape(-1, *(1,) * (x.ndim - 2)) == 0
    return jnp.where(start, first[:, None], moved)


def running(
    scan: Callable[..., Array],
    combine: Callable[[Array, Array], Array],
    x: Shaped[Array, "B L"],
    first: int,
) -> Shaped[Array, "B L"]:
    """`scan(x, axis=1)`, a cumulative `combine` of which `first` is the neutral element."""
    count = parts(x.shape[1])
    if count == 1:
        return scan(x, axis=1)

    def run(x: Array, before: Array) -> tuple[Array, Array]:
        y = combine(scan(x, axis=1), before[:, None])
        return y, y[:, -1]

    def summarize(x: Array) -> tuple[tuple, Array]:
        return (), scan(x, axis=1)[:, -1]

    def compose(_: tuple, own: Array, before: Array) -> Array:
        return combine(own, before)

    start = jnp.full(x.shape[0], first, jax.eval_shape(scan, x).dtype)
    return carried_over(run, summarize, compose, cut(x, count), start, count)[0]


def repeat(x: Shaped[Array, "B ..."], count: int) -> Shaped[Array, "nB ..."]:
    """The same rows for every part: what is gathered by all devices of the axis."""
    x = _constrain(x, _row_axes(x.shape[0]), None)
    return _apart(jnp.broadcast_to(x[None], (count, *x.shape)))


def neighbours(
    x: Shaped[Array, "nB L/n ..."], count: int, before: int, behind: int
) -> Shaped[Array, "nB before+L/n+behind ..."]:
    """Every part with the tokens next to it, zeros beyond the ends of a row; at most a part's."""
    rows = x.shape[0] // count

    def moved(halo: Array, by: int) -> Array:
        halo = _divided(halo.reshape(count, rows, *halo.shape[1:]))
        shift = [(by, -by, 0), *[(0, 0, 0)] * (halo.ndim - 1)]
        return _apart(jax.lax.pad(halo, jnp.zeros((), halo.dtype), shift))

    length = x.shape[1]
    left = [moved(x[:, length - before :], 1)] if before else []
    right = [moved(x[:, :behind], -1)] if behind else []
    return jnp.concatenate([*left, x, *right], axis=1)


def by_whole_rows(x: Shaped[Array, "B L ..."]) -> Shaped[Array, "B L ..."]:
    """Rows that are not cut, for loops that cannot be: divided as rows instead where B allows.

    Where it does not, every device of the axis has them and does the same work.
    """
    if parts(x.shape[1]) == 1:
        return x
    axes = tuple(axis for axis in (*BATCH_AXES, SEQUENCE_AXIS) if axis_size(axis) > 1)
    fits = x.shape[0] % math.prod(map(axis_size, axes)) == 0
    return _constrain(x, axes if fits else _row_axes(x.shape[0]), None)


def by_parts(x: Shaped[Array, "B L ..."]) -> Shaped[Array, "B L ..."]:
    """Rows divided along L, the inverse of `by_whole_rows`: gradients come as whole rows.

    Else the loop backwards would take them from divided rows, and gather those at every step.
    """
    return along(by_whole_rows(x))


def along(x: Shaped[Array, "B L ..."]) -> Shaped[Array, "B L ..."]:
    """Rows divided along L where the axis fits."""
    if parts(x.shape[1]) == 1:
        return x
    return _constrain(x, _row_axes(x.shape[0]), SEQUENCE_AXIS)


def gathered(x: Shaped[Array, "B N ..."]) -> Shaped[Array, "B N ..."]:
    """Rows whole on every device of the axis: gathered once, before a loop that reads anywhere."""
    return x if axis_size(SEQUENCE_AXIS) == 1 else _constrain(x, _row_axes(x.shape[0]), None)


def by_blocks(x: Shaped[Array, "B N ..."], count: int) -> Shaped[Array, "nB N/n ..."]:
    """`cut` of rows of any number of blocks: zeros fill the last part."""
    return cut(jnp.pad(x, ((0, 0), (0, -x.shape[1] % count), *((0, 0),) * (x.ndim - 2))), count)


def by_channels(
    f: Callable[[Array, PyTree, PyTree], Array],
    x: Shaped[Array, "B L D ..."],
    tables: PyTree[Shaped[Array, "_ D"]],
    masks: PyTree[Shaped[Array, "B L"]],
) -> Shaped[Array, "B L D ..."]:
    """f(x, tables, masks) for an f that works on rows and channels apart but needs all of L.

    Rows of L / n tokens and all channels become rows of L tokens and D / n channels, and back: two
    exchanges among all devices of the axis, each of a device's own share of x. By hand, since the
    compiler would gather what an FFT works on, also where rows alone are divided. Where n does not
    divide D, all channels are everywhere.
    """
    rows = _row_axes(x.shape[0])
    channels: tuple[str, ...] = ()
    for axis in (SEQUENCE_AXIS, "tensor"):
        if axis_size(axis) > 1 and x.shape[2] % math.prod(map(axis_size, (*channels, axis))) == 0:
            channels += (axis,)
    if rows is None and not channels and parts(x.shape[1]) == 1:
        return f(x, tables, masks)
    here = PartitionSpec(rows, None, channels or None)
    table, mask = PartitionSpec(None, channels or None), PartitionSpec(rows)
    specs = (
        here,
        jax.tree.map(lambda _: table, tables),
        jax.tree.map(lambda _: mask, masks),
    )
    run = jax.shard_map(
        f, in_specs=specs, out_specs=here, axis_names=_automatic_axes(), check_vma=False
    )
    return along(run(x, tables, masks))


def by_positions(
    f: Callable[[Array], Array], x: Shaped[Array, "B L D"]
) -> Shaped[Array, "B L ..."]:
    """f(x) for an f that works on each position apart but needs all channels; nothing is sent.

    By hand for the same reason as `by_channels`.
    """
    rows = _row_axes(x.shape[0])
    length = SEQUENCE_AXIS if parts(x.shape[1]) > 1 else None
    if rows is None and length is None:
        return f(x)
    here = PartitionSpec(rows, length)
    run = jax.shard_map(
        f, in_specs=here, out_specs=here, axis_names=_automatic_axes(), check_vma=False
    )
    return run(x)


def rows_here(batch: int) -> int:
    """How many of the rows a device has in `by_rows`."""
    return batch // math.prod(map(axis_size, _row_axes(batch) or ()))


def by_rows(
    f: Callable[..., PyTree], row_axes: tuple[PyTree, ...], out_axes: PyTree, *args: PyTree
) -> PyTree:
    """f(*args) for an f that works on rows apart and that the compiler cannot divide, as kernels.

    Args:
        f: a function of arrays with any number of rows.
        row_axes: for every leaf of args the axis of its rows, -1 for none: it is whole everywhere.
        out_axes: the same of what f returns.
        args: trees of arrays.
    """
    if undivided():
        return f(*args)
    rows = _row_axes(next(_sizes(args, row_axes)))

    def spec(axis: int) -> PartitionSpec:
        return PartitionSpec() if axis < 0 else PartitionSpec(*(None,) * axis, rows)

    run = jax.shard_map(
        f,
        in_specs=jax.tree.map(spec, row_axes),
        out_specs=jax.tree.map(spec, out_axes),
        axis_names=_automatic_axes(),
        check_vma=False,
    )
    return run(*args)


def _sizes(args: tuple, axes: tuple):
    leaves = zip(jax.tree.leaves(args), jax.tree.leaves(axes), strict=True)
    return (x.shape[axis] for x, axis in leaves if axis >= 0)


def _automatic_axes() -> set[str]:
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {axis for axis, kind in kinds if kind == AxisType.Auto}


def _together(x: Shaped[Array, "nB ..."], count: int) -> Shaped[Array, "n B ..."]:
    """Summaries of all parts, on every device of the axis."""
    x = x.reshape(count, -1, *x.shape[1:])
    return _constrain(_divided(x), None, _row_axes(x.shape[1]))


def _apart(x: Shaped[Array, "n B ..."]) -> Shaped[Array, "nB ..."]:
    """Parts to rows: with the parts first, no row leaves its device."""
    count, batch, *rest = x.shape
    x = _divided(x).reshape(count * batch, *rest)
    return _constrain(x, (SEQUENCE_AXIS, *(_row_axes(batch) or ())))


def _divided(x: Shaped[Array, "n B ..."]) -> Shaped[Array, "n B ..."]:
    return _constrain(x, SEQUENCE_AXIS, _row_axes(x.shape[1]))


def _row_axes(batch: int) -> tuple[str, ...] | None:
    """The axes that divide rows; None where they do not fit."""
    axes = tuple(axis for axis in BATCH_AXES if axis_size(axis) > 1)
    return axes if axes and batch % math.prod(map(axis_size, axes)) == 0 else None


def _constrain(x: Array, *axes: str | tuple[str, ...] | None) -> Array:
    free = (FREE,) * (x.ndim - len(axes))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes, *free))
