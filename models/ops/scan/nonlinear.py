"""The general recurrence h_t = cell(h_{t-1}, x_t), step by step.

Matrices in the cell belong into `kernels`: `hidden_matmul.py` then takes their gradients outside of
the loop. Its backward pass starts every step from the states, which are the result anyway, and so
keeps nothing else. A state that holds other than floating numbers runs in chunks, whose steps are
computed again in the backward pass, so that training keeps one state per chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import by_parts, by_whole_rows
from seqzoo.models.ops.scan.hidden_matmul import Kernel, Masks, as_before, kernel_scan, product

# LSTM, B=4, L=2048, D=128 on CPU, forward and backward: chunks of 16 to 64 take the time of the
# plain scan (0.98 to 1.02) and a third of its memory; unrolling by 2, 4 or 8 gains nothing.
CHUNK = 32


@op(rows="x")
def nonlinear_scan(
    cell: Callable[..., PyTree],
    x: PyTree,
    h0: PyTree,
    *,
    kernels: Sequence[Kernel] = (),
    reverse: bool = False,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[PyTree, PyTree]:
    """All states of h_t = cell(h_{t-1}, x_t) along axis 1, and the last.

    Args:
        cell: pure function of a state (leaves [B, ...], as h0) and one step's inputs (leaves
            [B, ...]) to the next state, rows independent of each other. Weights it closes over
            are differentiated.
            With `kernels` it is cell(h, x, *dots) and must call each `dots[i](v)`, which is
            v @ kernels[i], once and in order; leaves of h and x are then floating. Other weights
            are best broadcast to [B, ...], or their gradients are summed over rows at every step.
        x: inputs, leaves [B, L, ...]; whatever does not depend on h is best computed before.
        h0: state before the first step (behind the last if `reverse`), leaves [B, ...]; floating
            leaves are carried in at least float32.
        kernels: matrices [I, O], or [H, I, O] for factors [B, H, I].
        reverse: run from the end of the rows; with segments, each is reversed inside itself.
        segment_ids: layout of the rows. Padding carries the state; a new segment begins with zeros.

    Returns:
        h, leaves [B, L, ...], and h_last, leaves [B, ...], the state after the last real token.

    Raises:
        ValueError: if the leaves of x disagree in B and L, the cell changes a state's structure
            or shape, or it does not use the kernels as it must.
    """
    batch, length = _batch_and_length(x)
    h0 = jax.tree.map(_at_least_float32, h0)
    layout = as_segments(segment_ids, length)
    masks = Masks(None, None)
    if layout.masked:
        starts = layout.flip().starts[:, ::-1] if reverse else layout.starts
        shape = (batch, length)
        masks = Masks(jnp.broadcast_to(layout.valid, shape), jnp.broadcast_to(starts, shape))
    # Steps that follow each other cannot be shared out; rows can.
    rows = jax.tree.map(by_whole_rows, (x, masks))
    inputs, masks = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), rows)
    floating = all(jnp.issubdtype(a.dtype, jnp.inexact) for a in jax.tree.leaves((h0, inputs)))
    if length > 1 and (kernels or floating):
        h_last, h = kernel_scan(cell, kernels, h0, inputs, masks, reverse=reverse)
    else:
        dots = tuple(functools.partial(_dot, kernel) for kernel in kernels)
        step = functools.partial(_step, cell, dots)
        h_last, h = _in_chunks(step, h0, (inputs, masks), reverse)
    return jax.tree.map(lambda a: by_parts(jnp.moveaxis(a, 0, 1)), h), h_last


def _dot(kernel: Kernel, v: Array) -> Array:
    return product(v, kernel)


def _batch_and_length(x: PyTree) -> tuple[int, int]:
    shapes = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(x)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"nonlinear_scan: the leaves of x must share their first two axes [B, L]; got {shapes}"
        )
    return shapes.pop()


def _at_least_float32(state: Array) -> Array:
    state = jnp.asarray(state)
    if not jnp.issubdtype(state.dtype, jnp.inexact):
        return state
    return state.astype(jnp.promote_types(state.dtype, jnp.float32))


def _step(
    cell: Callable, dots: tuple, h: PyTree, inputs: tuple[PyTree, Masks]
) -> tuple[PyTree, PyTree]:
    x, masks = inputs
    after = masks.choose(as_before(cell(masks.begin(h), x, *dots), h), h)
    return after, after


def _in_chunks(step: Callable, h: PyTree, x: PyTree, reverse: bool) -> tuple[PyTree, PyTree]:
    """`lax.scan` over time-major x; gradients compute all but the odd first steps again."""
    length = jax.tree.leaves(x)[0].shape[0]
    count, odd = divmod(length, CHUNK)

    def scan(h: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        return lax.scan(step, h, x, reverse=reverse)

    def scan_chunks(h: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        x = jax.tree.map(lambda a: a.reshape(count, CHUNK, *a.shape[1:]), x)
        # Inside a scan no barrier is needed to keep the recomputation.
        chunk = jax.checkpoint(scan, prevent_cse=False)
        h, out = lax.scan(chunk, h, x, reverse=reverse)
        return h, jax.tree.map(lambda a: a.reshape(count * CHUNK, *a.shape[2:]), out)

    if length == 1:
        h, _ = step(h, jax.tree.map(lambda a: a[0], x))
        return h, jax.tree.map(lambda a: a[None], h)
    if count <= 1:
        return scan(h, x)
    if odd == 0:
        return scan_chunks(h, x)
    parts = [
        (scan, jax.tree.map(lambda a: a[:odd], x)),
        (scan_chunks, jax.tree.map(lambda a: a[odd:], x)),
    ]
    outs = [None, None]
    for i in (1, 0) if reverse else (0, 1):
        h, outs[i] = parts[i][0](h, parts[i][1])
    return h, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *outs)
