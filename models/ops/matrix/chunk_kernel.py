"""The walk over chunks as one kernel forward and one backward, by Pallas for TPUs (Mosaic).

The grid walks over the chunks of a head of a row, whose state stays in vector memory. A chunk's
step is the op's own, called with that head's matrices and the decays of `on_chip.py`; the backward
kernel walks in reverse from the states at borders and differentiates that step where it stands. So
what lies between the inputs and outputs of a chunk never leaves the chip.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, PyTree

from seqzoo.models.ops.layout import kernels as by_kernel
from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.layout.sequence_parallel import by_rows
from seqzoo.models.ops.layout.sharding import BATCH_AXES, axis_size
from seqzoo.models.ops.matrix import on_chip
from seqzoo.models.ops.matrix.decayed_pairs import Masks, masks_of, prepared

KERNELS = {"mosaic": False}  # name of a form -> whether Pallas interprets it
ROWS = 16  # steps of a tile in bfloat16
WIDTHS = range(64, 257, 64)  # of keys and values: half a vector at least, and room for the state

Step = Callable[..., tuple[PyTree, PyTree]]  # (state, rows, decays, masks) -> (state, outputs)


class Chunks(NamedTuple):
    """Rows in N chunks."""

    rows: PyTree[Float[Array, "N B G C D"]]
    g: Float[Array, "N #B H C #K"] | None  # log decays
    # Of positions, and of the state before.
    runs: tuple[Int[Array, "N B 1 C 1"], Int[Array, "N B 1 1 1"]] | None

    @property
    def masks(self) -> Masks | None:
        """Of each chunk."""
        return None if self.runs is None else masks_of(*self.runs)


def fits(s0: PyTree, chunks: Chunks) -> bool:
    """Whether a kernel has such sizes and numbers, and no mesh divides more than rows."""
    states, rows = jax.tree.leaves(s0), jax.tree.leaves(chunks.rows)
    size = rows[0].shape[3]
    widths = {x.shape[-1] for x in (*states, *rows)}
    axes = jax.sharding.get_abstract_mesh().axis_names
    return (
        size % ROWS == 0
        and size & (size - 1) == 0
        and widths <= {*WIDTHS}
        and all(s.dtype == jnp.float32 for s in states)
        and all(x.dtype in (jnp.float32, jnp.bfloat16) for x in rows)
        and all(axis_size(axis) == 1 for axis in axes if axis not in BATCH_AXES)
    )


def walk(step: Step, s0: PyTree, chunks: Chunks) -> tuple[PyTree, PyTree]:
    """The last state and the outputs of all chunks."""
    if chunks.g is not None:
        batch = jax.tree.leaves(s0)[0].shape[0]
        g = jnp.broadcast_to(chunks.g, (len(chunks.g), batch, *chunks.g.shape[2:]))
        chunks = chunks._replace(g=g)
    return _walk(step, s0, chunks)


def _forward(step: Step, s0: PyTree, chunks: Chunks) -> tuple[tuple, tuple]:
    s_last, o, borders = _run(_scan, _kernel, (0, 1), (0, 1, 1), step, s0, chunks)
    return (s_last, o), ((s0, chunks), borders)


def _backward(step: Step, kept: tuple, cotangents: tuple) -> tuple[PyTree, Chunks]:
    (_, chunks), borders = kept
    args = chunks, borders, *cotangents
    ds, (d_rows, dg) = _run(_scan_back, _kernel_back, (1, 1, 0, 1), (0, 1), step, *args)
    return ds, Chunks(d_rows, dg, None if chunks.runs is None else (None, None))


_walk = with_backward(lambda step, *args: _forward(step, *args)[0], _forward, _backward)


def _run(
    plain: Callable, kernel: Callable, rows: tuple[int, ...], out: tuple, step: Step, *args: PyTree
) -> tuple:
    """kernel(step, interpret, *args) where the table names it; rows lie on these axes."""

    def axes(places: tuple[int, ...], trees: tuple) -> tuple:
        found = zip(places, trees, strict=True)
        return tuple(jax.tree.map(lambda _, axis=axis: axis, tree) for axis, tree in found)

    def form(interpret: bool, *args: PyTree) -> tuple:
        run, like = functools.partial(kernel, step, interpret), jax.eval_shape(plain, *args)
        return by_rows(run, axes(rows, args), axes(out, like), *args)

    plain = functools.partial(plain, step)
    named = {name: functools.partial(form, interpret) for name, interpret in KERNELS.items()}
    return by_kernel.run("chunks", plain, named, *args)


def _scan(step: Step, s0: PyTree, chunks: Chunks) -> tuple[PyTree, PyTree, PyTree]:
    """The last state, outputs and the states before each chunk, without a kernel."""

    def body(s: PyTree, chunk: Chunks) -> tuple[PyTree, tuple]:
        after, o = step(s, chunk.rows, prepared(chunk.g), chunk.masks)
        return after, (o, s)

    s_last, (o, borders) = lax.scan(body, s0, chunks)
    return s_last, o, borders


def _scan_back(step: Step, chunks: Chunks, borders: PyTree, d_last: PyTree, do: PyTree) -> tuple:
    """Cotangents of the first state, and of rows and decays."""

    def body(ds: PyTree, here: tuple) -> tuple[PyTree, tuple]:
        chunk, s, do = here

        def own(s: PyTree, rows: PyTree, g: Array | None) -> tuple:
            return step(s, rows, prepared(g), chunk.masks)

        ds, *grads = jax.vjp(own, s, chunk.rows, chunk.g)[1]((ds, do))
        return ds, tuple(grads)

    return lax.scan(body, d_last, (chunks, borders, do), reverse=True)


def _kernel(step: Step, interpret: bool, s0: PyTree, chunks: Chunks) -> tuple:
    """What `_scan` gives."""

    def kernel(
        s0: PyTree, chunk: Chunks, s_last: PyTree, o: PyTree, borders: PyTree, state: PyTree
    ):
        _at_first(lambda: _write(state, _read(s0)))
        s = _read(state)
        _write(borders, s)
        s, own = _of_head(step, s, _read(chunk))
        _write((o, state, s_last), (own, s, s))

    outs = jax.eval_shape(functools.partial(_scan, step), s0, chunks)
    return _call(kernel, interpret, False, (s0, _laid_out(chunks)), outs, s0)


def _kernel_back(
    step: Step, interpret: bool, chunks: Chunks, borders: PyTree, d_last: PyTree, do: PyTree
) -> tuple:
    """What `_scan_back` gives."""

    def kernel(chunk: Chunks, borders, do, d_last, d_first, grads, state) -> None:
        _at_first(lambda: _write(state, _read(d_last)))
        here = _read(chunk)

        def own(s: PyTree, rows: PyTree, g: Array | None) -> tuple:
            return _of_head(step, s, Chunks(rows, g, here.runs))

        pull = jax.vjp(own, _read(borders), here.rows, here.g)[1]
        ds, *found = pull((_read(state), _read(do)))
        _write((grads, state, d_first), (tuple(found), ds, ds))

    heads = jax.tree.leaves(d_last)[0].shape[1]

    def of_heads(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*x.shape[:2], heads, *x.shape[3:]), x.dtype)

    laid = _laid_out(chunks)
    outs = d_last, jax.tree.map(of_heads, (laid.rows, laid.g))
    args = laid, borders, do, d_last
    d_first, (d_rows, dg) = _call(kernel, interpret, True, args, outs, d_last)
    if dg is not None and chunks.g.shape[-1] == 1:
        dg = jnp.swapaxes(dg, -1, -2)
    return d_first, (jax.tree.map(_of_groups, chunks.rows, d_rows), dg)


def _of_groups(x: Array, d: Array) -> Array:
    """The sum over the heads of each group."""
    own, heads = x.shape[2], d.shape[2]
    if own == heads:
        return d
    parts = d.reshape(*d.shape[:2], own, heads // own, *d.shape[3:])
    return parts.sum(3, dtype=jnp.float32).astype(x.dtype)


def _laid_out(chunks: Chunks) -> Chunks:
    """As a kernel reads them: what has one column lies in a row."""
    g, runs = chunks.g, chunks.runs
    if g is not None and g.shape[-1] == 1:
        g = jnp.swapaxes(g, -1, -2)
    if runs is not None:
        run, before = (jnp.swapaxes(x, -1, -2).astype(jnp.float32) for x in runs)
        runs = jnp.concatenate([run, jnp.broadcast_to(before, run.shape)], -2)
    return Chunks(chunks.rows, g, runs)


def _of_head(step: Step, s: PyTree, chunk: Chunks) -> tuple[PyTree, PyTree]:
    """The step on matrices of one head."""
    g = chunk.g
    if g is not None and len(g) == 1:
        g = on_chip.column(g)
    return step(s, chunk.rows, on_chip.Decay(g), _masks(chunk))


def _masks(chunk: Chunks) -> Masks | None:
    """From the runs [2, C] of positions and of the state before, a row each."""
    if chunk.runs is None:
        return None
    size, keys = chunk.runs.shape[1], jax.tree.leaves(chunk.rows)[0].shape[-1]
    own, before = chunk.runs[:1], on_chip.column(chunk.runs[1:])
    run = on_chip.column(own)
    here = lax.broadcasted_iota(jnp.int32, own.shape, 1) == size - 1
    last = jnp.sum(jnp.where(here, own, 0), -1, keepdims=True)
    wide, stays = (jnp.broadcast_to(x, (n, w)) for x, n, w in ((run, size, keys), (last, keys, 1)))
    return Masks(run == own, wide == before, wide == last, stays == before[:1])


def _at_first(do: Callable[[], None]) -> None:
    """In the first program of a head."""
    pl.when(pl.program_id(2) == 0)(do)


def _read(refs: PyTree) -> PyTree:
    return jax.tree.map(lambda ref: ref[...], refs)


def _write(refs: PyTree, values: PyTree) -> None:
    def put(ref: Any, value: Array) -> None:
        ref[...] = value.astype(ref.dtype)

    jax.tree.map(put, refs, values)


def _call(
    kernel: Callable, interpret: bool, reverse: bool, args: PyTree, outs: PyTree, states: PyTree
) -> PyTree:
    """Trees in and out of states [B, H, K, V] and of chunks; refs like `states` are kept."""
    from jax.experimental.pallas import tpu

    leaves, tree = jax.tree.flatten(args)
    out_leaves, out_tree = jax.tree.flatten(outs)
    kept_leaves, kept_tree = jax.tree.flatten(states)
    n, m = len(leaves), len(leaves) + len(out_leaves)
    batch, heads = kept_leaves[0].shape[:2]
    count = next(len(x) for x in leaves if x.ndim == 5)

    def spec(x: Array) -> pl.BlockSpec:
        shape, every = x.shape, heads // x.shape[-3]
        if x.ndim == 4:
            return pl.BlockSpec((None, None, *shape[2:]), lambda b, h, i: (b, h, 0, 0))

        def place(b: Array, h: Array, i: Array) -> tuple:
            return count - 1 - i if reverse else i, b, lax.div(h, every), 0, 0

        return pl.BlockSpec((None, None, None, *shape[3:]), place)

    def body(*refs: Any) -> None:
        found = tree.unflatten(refs[:n]), out_tree.unflatten(refs[n:m])
        kernel(*found[0], *found[1], kept_tree.unflatten(refs[m:]))

    call = pl.pallas_call(
        body,
        grid=(batch, heads, count),
        in_specs=[spec(x) for x in leaves],
        out_specs=[spec(x) for x in out_leaves],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out_leaves],
        scratch_shapes=[tpu.VMEM(x.shape[2:], jnp.float32) for x in kept_leaves],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name="chunks",
    )
    with _precision():
        return out_tree.unflatten(call(*leaves))


def _precision() -> contextlib.AbstractContextManager:
    """Mosaic has products of one pass and of full precision, and refuses what is between."""
    asked = jax.config.jax_default_matmul_precision
    if asked in (None, "default", "fastest", "bfloat16", "highest", "float32"):
        return contextlib.nullcontext()
    return jax.default_matmul_precision("highest")
