"""The linear recurrence h_t = A_t h_{t-1} + b_t with a matrix A_t of its own for every token.

`linear_scan` with blocks in the place of numbers: the same forms (`first_order.py`), of which the
parallel prefix is of products of matrices.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence
from seqzoo.models.ops.scan.first_order import Product, scan

Blocks = Float[Array, "B L H N N"]


@op(rows="b")
def block_scan(
    A: Blocks,
    b: Float[Array, "B L H N"],
    h0: Float[Array, "B H N"] | None = None,
    *,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> Float[Array, "B L H N"]:
    """All states of h_t = A_t h_{t-1} + b_t along axis 1, for each of H blocks.

    Args:
        A: transitions; nothing keeps their product small.
        b: inputs.
        h0: state before the first step, zero by default.
        segment_ids: layout of the rows. Padding carries the state; a new segment forgets it.

    Returns:
        h like `b`, in the common dtype of the arguments but at least float32. h[:, -1] is the final
        state.

    Raises:
        ValueError: for shapes that do not fit.
    """
    if b.ndim != 4 or A.shape != (*b.shape, b.shape[-1]):
        raise ValueError(
            f"block_scan: b must be [B, L, H, N] and A [B, L, H, N, N]; got {b.shape}, {A.shape}"
        )
    state = (b.shape[0], *b.shape[2:])
    if h0 is not None and h0.shape != state:
        raise ValueError(f"block_scan: h0 must be [B, H, N] = {state}; got {h0.shape}")
    dtype = jnp.result_type(A, b, jnp.float32, *([] if h0 is None else [h0]))
    h0 = jnp.zeros(state, dtype) if h0 is None else h0.astype(dtype)
    A, b = A.astype(dtype), b.astype(dtype)
    layout = as_segments(segment_ids, b.shape[1])
    if layout.masked:
        valid, starts = (x[..., None, None] for x in (layout.valid, layout.starts))
        one = jnp.eye(b.shape[-1], dtype=dtype)
        A = jnp.where(valid[..., None], jnp.where(starts[..., None], 0, A), one)
        b = jnp.where(valid, b, 0)
    if not b.shape[1]:
        return b
    return _ROWS((), (A, b), h0)[0]


def _rows(_: tuple, inputs: tuple[Array, Array], h0: Array) -> tuple[Array, Array]:
    h = _scan(False, *inputs, h0)
    return h, h[:, -1]


def _summarize(_: tuple, inputs: tuple[Array, Array], nothing: Array) -> tuple[Array, Array]:
    whole = lax.associative_scan(lambda one, two: two @ one, inputs[0], axis=1)[:, -1]
    return whole, _rows((), inputs, nothing)[1]


def _compose(_: tuple, whole: Array, own: Array, before: Array) -> Array:
    return _moved(whole, before) + own


_ROWS = Recurrence(_rows, _summarize, _compose)


def _moved(A: Float[Array, "... N N"], h: Float[Array, "... N"]) -> Array:
    return jnp.sum(A * h[..., None, :], -1)


def _outer(adjoint: Array, before: Array, _: Array) -> Array:
    return adjoint[..., None] * before[..., None, :]


def _prefix(reverse: bool, A: Array, b: Array) -> Array:
    def then(one: tuple, two: tuple) -> tuple:
        (A_one, b_one), (A_two, b_two) = one, two
        return A_two @ A_one, _moved(A_two, b_one) + b_two

    return lax.associative_scan(then, (A, b), reverse=reverse, axis=1)[1]


_scan = functools.partial(
    scan, Product("block_scan", _moved, jnp.matrix_transpose, _outer, _prefix)
)
