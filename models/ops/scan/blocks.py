"""The linear recurrence h_t = A_t h_{t-1} + b_t with a matrix A_t of its own for every token.

`linear_scan` with blocks in the place of numbers: the same two forms, a loop over time and a
parallel prefix (of products of matrices), and both derivatives are again such recurrences:

    h'_t = A_t h'_{t-1} + (A'_t h_{t-1} + b'_t)
    λ_t = g_t + A_{t+1}ᵀ λ_{t+1},   ∂b_t = λ_t,   ∂A_t = λ_t h_{t-1}ᵀ,   ∂h_0 = A_1ᵀ λ_1
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence

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


def _either_form(reverse: bool, A: Array, b: Array, h0: Array) -> Array:
    table = {
        "sequential": functools.partial(_sequential, reverse),
        "associative": functools.partial(_associative, reverse),
    }
    return forms.run("block_scan", table, A, b, h0)


def _forward(reverse: bool, A: Array, b: Array, h0: Array):
    h = _scan(reverse, A, b, h0)
    return h, (A, h0, h)


def _backward(reverse: bool, kept: tuple[Array, Array, Array], g: Array):
    A, h0, h = kept
    back = jnp.swapaxes(A, -1, -2)
    after = jnp.roll(back, 1 if reverse else -1, axis=1)  # the last is multiplied by nothing
    adjoint = _scan(not reverse, after, g, jnp.zeros_like(h0))
    first = -1 if reverse else 0
    A_grad = adjoint[..., None] * _before(h, h0, reverse)[..., None, :]
    return A_grad, adjoint, _moved(back[:, first], adjoint[:, first])


def _tangent(reverse: bool, kept: tuple[Array, Array, Array], tangents: tuple) -> Array:
    (A, h0, h), (dA, db, dh0) = kept, tangents
    return _scan(reverse, A, _moved(dA, _before(h, h0, reverse)) + db, dh0)


_scan = with_backward(_either_form, _forward, _backward, _tangent)


def _before(h: Array, h0: Array, reverse: bool) -> Array:
    """h_{t-1} at every t."""
    h0 = h0[:, None]
    return jnp.concatenate([h[:, 1:], h0] if reverse else [h0, h[:, :-1]], axis=1)


def _sequential(reverse: bool, A: Array, b: Array, h0: Array) -> Array:
    """A loop that replaces the inputs by the states, as that of `linear_scan`."""
    length = b.shape[1]

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h, out = carry
        t = length - 1 - i if reverse else i
        h = _moved(lax.dynamic_index_in_dim(A, t, 1, keepdims=False), h)
        h = h + lax.dynamic_index_in_dim(out, t, 1, keepdims=False)
        return h, lax.dynamic_update_index_in_dim(out, h, t, 1)

    return lax.fori_loop(0, length, step, (h0, b))[1]


def _associative(reverse: bool, A: Array, b: Array, h0: Array) -> Array:
    first = -1 if reverse else 0
    b = b.at[:, first].add(_moved(A[:, first], h0))

    def then(one: tuple, two: tuple) -> tuple:
        (A_one, b_one), (A_two, b_two) = one, two
        return A_two @ A_one, _moved(A_two, b_one) + b_two

    return lax.associative_scan(then, (A, b), reverse=reverse, axis=1)[1]
