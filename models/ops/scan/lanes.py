"""Functions of rows and channels, evaluated on one block of both: what a kernel does in a step.

A cell that mixes neither rows nor channels (gates beside each other on the last axis, or on one of
their own, are not mixed) does the same to every block of them. It is traced once as it stands, on
whole arrays. Here its program is read again: of each array [.., B, .., n E] only n blocks
exist, of any rows and channels, in an array of objects; operations by element are done on blocks,
and those that move axes move objects. So kernels need not cut and join what they hold, which Triton
cannot do, and a cell is written once for all.
"""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

# By element, all operands of one shape.
ELEMENTWISE = """
    abs add add_any and ceil clamp convert_element_type cos div eq erf exp exp2 expm1 floor ge gt
    integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow rsqrt select_n sign
    sin sqrt square sub tan tanh xor
"""
ELEMENTWISE = frozenset(ELEMENTWISE.split())


NOWHERE = jax.sharding.AbstractMesh((), ())


class Mixed(Exception):
    """A function mixes rows or channels, or does what is not known here."""


class Blocks(NamedTuple):
    """An array by its blocks, n of which stand in place of n E channels and 1 in place of rows."""

    parts: np.ndarray
    rows: int  # their axis


Value = Blocks | np.ndarray  # of the latter every number is known when the function is traced
Apply = Callable[..., Any]  # (primitive, parameters, *operands): an operation on blocks


def blocks(shape: Sequence[int], unit: int, rows: int, each: Callable[[int], Any]) -> Blocks:
    """An array of `shape` whose i-th block is each(i).

    Raises:
        Mixed: if its last axis is not made of channels by `unit`, or is the rows.
    """
    if rows >= len(shape) - 1 or not shape[-1] or shape[-1] % unit:
        raise Mixed
    parts = np.empty((*shape[:rows], 1, *shape[rows + 1 : -1], shape[-1] // unit), object)
    for i in range(parts.size):
        parts.flat[i] = each(i)
    return Blocks(parts, rows)


def evaluate(program: ClosedJaxpr, unit: int, args: Sequence[Value], apply: Apply) -> list[Value]:
    """What `program` makes of blocks of `unit` channels.

    Raises:
        Mixed: if it mixes rows or channels.
    """
    jaxpr, known = program.jaxpr, {}

    def read(x: Any) -> Value:
        return np.asarray(x.val) if isinstance(x, Literal) else known[x]

    known.update(zip(jaxpr.constvars, map(_number, program.consts), strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        found = _evaluate(eqn, unit, [read(x) for x in eqn.invars], apply)
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(x) for x in jaxpr.outvars]


def filled(value: Value, shape: Sequence[int], unit: int, rows: int) -> Blocks:
    """`value` as blocks, of known numbers too.

    Raises:
        Mixed: if the numbers of a block differ, or its rows are elsewhere.
    """
    if not isinstance(value, Blocks):
        return _uniform(value, shape, unit, rows)
    if value.rows != rows:
        raise Mixed
    return value


def _number(x: Any) -> np.ndarray:
    if isinstance(x, jax.core.Tracer):
        raise Mixed
    return np.asarray(x)


def _of_numbers(primitive: Any, params: dict, *numbers: np.ndarray) -> Any:
    """In a thread of its own, where no mesh is set, whose devices need not exist."""
    wide = jax.config.jax_enable_x64

    def evaluated() -> Any:
        with jax.enable_x64(wide):
            return jax.tree.map(np.asarray, primitive.bind(*map(jnp.asarray, numbers), **params))

    with concurrent.futures.ThreadPoolExecutor(1) as alone:
        return alone.submit(evaluated).result()


def _evaluate(eqn: Any, unit: int, values: list[Value], apply: Apply) -> Sequence[Value]:
    name, params = eqn.primitive.name, eqn.params
    inner = params.get("call_jaxpr", params.get("jaxpr"))
    if inner is not None and name not in ("while", "scan", "cond"):
        closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
        return evaluate(closed, unit, values, apply)
    if not any(isinstance(v, Blocks) for v in values):
        found = _of_numbers(eqn.primitive, params, *values)
        return found if eqn.primitive.multiple_results else [found]
    if name in ELEMENTWISE:
        return [_by_element(eqn, unit, values, apply)]
    if name not in _MOVES:
        raise Mixed
    found = _MOVES[name](eqn, unit, values)
    return found if isinstance(found, list) else [found]


def _by_element(eqn: Any, unit: int, values: list[Value], apply: Apply) -> Blocks:
    whole = next(v for v in values if isinstance(v, Blocks))
    shape = eqn.outvars[0].aval.shape
    filled_in = [filled(v, shape, unit, whole.rows) for v in values]
    if any(v.parts.shape != whole.parts.shape for v in filled_in):
        raise Mixed
    out, done = np.empty(whole.parts.shape, object), {}
    # Heads may share a block: what is done to it is done once.
    for i in range(out.size):
        operands = [v.parts.flat[i] for v in filled_in]
        key = tuple(x.item() if isinstance(x, np.ndarray) else id(x) for x in operands)
        if key not in done:
            numbers = all(isinstance(x, np.ndarray) for x in operands)
            act = _of_numbers if numbers else apply
            done[key] = act(eqn.primitive, eqn.params, *operands)
        out.flat[i] = done[key]
    return Blocks(out, whole.rows)


def _uniform(x: np.ndarray, shape: Sequence[int], unit: int, rows: int) -> Blocks:
    """Known numbers, of which a block has one."""
    if x.ndim == 0:
        return blocks(shape, unit, rows, lambda _: x)
    if x.ndim != len(shape) or shape[-1] % unit:
        raise Mixed
    x = np.broadcast_to(x, shape)
    apart = np.moveaxis(x.reshape(*shape[:-1], -1, unit), rows, -1)
    apart = apart.reshape(*apart.shape[:-2], -1)
    if not (apart == apart[..., :1]).all():
        raise Mixed
    return blocks(shape, unit, rows, lambda i: apart[..., 0].reshape(-1)[i : i + 1].reshape(()))


# Axes are moved as they are in the array, but for its rows, which stay whole, and its last one.


def _reshape(eqn: Any, unit: int, values: list[Value]) -> Blocks:
    (value,), old, new = values, eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    before = math.prod(old[: value.rows])
    for rows in range(len(new) - 1):
        if math.prod(new[:rows]) == before and new[rows] == old[value.rows]:
            return blocks(new, unit, rows, lambda i: value.parts.flat[i])
    raise Mixed


def _broadcast(eqn: Any, unit: int, values: list[Value]) -> Blocks:
    value, shape, where = values[0], eqn.params["shape"], eqn.params["broadcast_dimensions"]
    last = len(shape) - 1
    old = eqn.invars[0].aval.shape
    if not where or where[-1] != last or old[-1] != shape[-1]:
        raise Mixed
    rows = where[value.rows]
    if old[value.rows] != shape[rows]:
        raise Mixed
    between = [1] * len(shape)
    for axis, size in zip(where, value.parts.shape, strict=True):
        between[axis] = size
    new = (*shape[:rows], 1, *shape[rows + 1 : -1], shape[-1] // unit)
    return Blocks(np.broadcast_to(value.parts.reshape(between), new), rows)


def _squeeze(eqn: Any, unit: int, values: list[Value]) -> Blocks:
    (value,), gone = values, eqn.params["dimensions"]
    if value.rows in gone or value.parts.ndim - 1 in gone:
        raise Mixed
    rows = value.rows - sum(axis < value.rows for axis in gone)
    return Blocks(np.squeeze(value.parts, tuple(gone)), rows)


def _transpose(eqn: Any, unit: int, values: list[Value]) -> Blocks:
    (value,), order = values, eqn.params["permutation"]
    if order[-1] != len(order) - 1:
        raise Mixed
    return Blocks(value.parts.transpose(order), order.index(value.rows))


def _ranges(value: Blocks, unit: int, shape: Sequence[int], starts, stops) -> tuple[slice, ...]:
    """Slices of the blocks for those of the array."""
    found = []
    for axis, (start, stop, size) in enumerate(zip(starts, stops, shape, strict=True)):
        if axis == value.rows:
            if (start, stop) != (0, size):
                raise Mixed
            start, stop = 0, 1
        elif axis == len(shape) - 1:
            if start % unit or stop % unit:
                raise Mixed
            start, stop = start // unit, stop // unit
        found.append(slice(start, stop))
    return tuple(found)


def _slice(eqn: Any, unit: int, values: list[Value]) -> Blocks:
    (value,), params = values, eqn.params
    if params["strides"] is not None and set(params["strides"]) != {1}:
        raise Mixed
    limits = params["start_indices"], params["limit_indices"]
    return Blocks(value.parts[_ranges(value, unit, eqn.invars[0].aval.shape, *limits)], value.rows)


def _split(eqn: Any, unit: int, values: list[Value]) -> list[Blocks]:
    (value,), shape, axis = values, eqn.invars[0].aval.shape, eqn.params["axis"]
    found, start = [], 0
    for size in eqn.params["sizes"]:
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = start, start + size
        start += size
        found.append(Blocks(value.parts[_ranges(value, unit, shape, starts, stops)], value.rows))
    return found


def _unstack(eqn: Any, unit: int, values: list[Value]) -> list[Blocks]:
    (value,), axis = values, eqn.params["axis"]
    if axis == value.rows or axis == value.parts.ndim - 1:
        raise Mixed
    rows = value.rows - (axis < value.rows)
    return [Blocks(part, rows) for part in np.moveaxis(value.parts, axis, 0)]


def _all_blocks(eqn: Any, unit: int, values: list[Value]) -> list[Blocks]:
    rows = next(v.rows for v in values if isinstance(v, Blocks))
    found = [filled(v, x.aval.shape, unit, rows) for v, x in zip(values, eqn.invars, strict=True)]
    return found


def _concatenate(eqn: Any, unit: int, values: list[Value]) -> Blocks:
    found, axis = _all_blocks(eqn, unit, values), eqn.params["dimension"]
    if axis == found[0].rows:
        raise Mixed
    return Blocks(np.concatenate([v.parts for v in found], axis), found[0].rows)


def _stack(eqn: Any, unit: int, values: list[Value]) -> Blocks:
    found, axis = _all_blocks(eqn, unit, values), eqn.params["axis"]
    if axis == found[0].parts.ndim:
        raise Mixed
    rows = found[0].rows + (axis <= found[0].rows)
    return Blocks(np.stack([v.parts for v in found], axis), rows)


def _pad(eqn: Any, unit: int, values: list[Value]) -> Blocks:
    value, filling = values
    widths, shape = eqn.params["padding_config"], eqn.outvars[0].aval.shape
    if not isinstance(value, Blocks) or isinstance(filling, Blocks):
        raise Mixed
    if any(inside or low < 0 or high < 0 for low, high, inside in widths):
        raise Mixed
    out = blocks(shape, unit, value.rows, lambda _: filling)
    stops = [size - high for size, (_, high, _) in zip(shape, widths, strict=True)]
    out.parts[_ranges(value, unit, shape, [low for low, _, _ in widths], stops)] = value.parts
    return out


def _as_it_is(eqn: Any, unit: int, values: list[Value]) -> list[Value]:
    return values


_MOVES = {
    "copy": _as_it_is,
    "reshard": _as_it_is,
    "sharding_constraint": _as_it_is,
    "stop_gradient": _as_it_is,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "concatenate": _concatenate,
    "stack": _stack,
    "pad": _pad,
}
