"""The diagonal linear recurrence h_t = a_t h_{t-1} + b_t, in the forms of `first_order.py`."""

from __future__ import annotations

import functools
import operator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence, decayed
from seqzoo.models.ops.scan.first_order import Product, scan


@op(rows="b")
def linear_scan(
    a: Inexact[Array, "..."],
    b: Inexact[Array, "B L ..."],
    h0: Inexact[Array, "B ..."] | None = None,
    *,
    reverse: bool = False,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> Inexact[Array, "B L ..."]:
    """All states of h_t = a_t h_{t-1} + b_t along axis 1.

    Args:
        a: decays, real or complex, that broadcast to `b`; size 1 on the L axis (or fewer axes, such
            as [D]) means constant in time.
        b: inputs, real or complex.
        h0: state before the first step (behind the last if `reverse`), broadcast to `b` without
            axis 1; zero by default.
        reverse: run from the end of the rows; with segments, each is reversed inside itself.
        segment_ids: layout of the rows. Padding carries the state; a new segment forgets it.

    Returns:
        h like `b`, in the common dtype of the arguments but at least float32. h[:, -1] (h[:, 0] if
        `reverse`) is the final state.

    Raises:
        ValueError: if `a` does not broadcast to `b`, or `h0` to `b` without axis 1.
    """
    a, b, h0 = _prepared(reverse, a, b, h0, segment_ids)
    if not b.shape[1]:
        return b
    return _ROWS((reverse,), (a, b), h0, reverse=reverse)[0]


def undivided_scan(
    a: Inexact[Array, "..."], b: Inexact[Array, "B L ..."], h0: Inexact[Array, "B ..."] | None
) -> Inexact[Array, "B L ..."]:
    """`linear_scan` of what is no sequence of tokens, or one part of it: never cut."""
    return _scan(False, *_prepared(False, a, b, h0, None))


def _prepared(
    reverse: bool,
    a: Array,
    b: Array,
    h0: Array | None,
    segment_ids: Array | Segments | None,
) -> tuple[Array, Array, Array]:
    """The arguments in one dtype, `a` with b's axes, what segments do to them included."""
    _check(a, b, h0)
    dtype = jnp.result_type(a, b, jnp.float32, *([] if h0 is None else [h0]))
    a = jnp.asarray(a, dtype).reshape((1,) * (b.ndim - jnp.ndim(a)) + jnp.shape(a))
    b = b.astype(dtype)
    state_shape = b.shape[:1] + b.shape[2:]
    h0 = jnp.zeros(state_shape, dtype) if h0 is None else jnp.broadcast_to(h0, state_shape)
    layout = as_segments(segment_ids, b.shape[1])
    if layout.masked:
        a, b = _mask(a, b, layout, reverse)
    return a, b, h0.astype(dtype)


def _rows(shared: tuple[bool], inputs: tuple[Array, Array], h0: Array) -> tuple[Array, Array]:
    h = _scan(*shared, *inputs, h0)
    return h, h[:, 0 if shared[0] else -1]


def _summarize(
    shared: tuple[bool], inputs: tuple[Array, Array], nothing: Array
) -> tuple[Array, Array]:
    a, b = inputs
    whole = lax.integer_pow(a[:, 0], b.shape[1]) if a.shape[1] == 1 else jnp.prod(a, axis=1)
    whole = jnp.broadcast_to(whole, (len(nothing), *whole.shape[1:]))
    return whole, _rows(shared, inputs, nothing)[1]


_ROWS = Recurrence(_rows, _summarize, decayed)


def _check(a: Array, b: Array, h0: Array | None) -> None:
    if b.ndim < 2:
        raise ValueError(f"linear_scan: b must be [B, L, ...]; got the shape {b.shape}")
    _check_broadcast("a", jnp.shape(a), b.shape, "b's shape")
    if h0 is not None:
        _check_broadcast("h0", jnp.shape(h0), b.shape[:1] + b.shape[2:], "b's shape without L,")


def _check_broadcast(name: str, shape: tuple, target: tuple, what: str) -> None:
    aligned = target[len(target) - len(shape) :]
    if len(shape) > len(target) or any(
        s not in (1, t) for s, t in zip(shape, aligned, strict=True)
    ):
        raise ValueError(f"linear_scan: {name} must broadcast to {what} {target}; got {shape}")


def _mask(a: Array, b: Array, layout: Segments, reverse: bool) -> tuple[Array, Array]:
    """Padding: decay 1 and input 0. A new segment: decay 0."""
    starts = layout.flip().starts[:, ::-1] if reverse else layout.starts
    axes = (...,) + (None,) * (b.ndim - 2)
    valid, starts = layout.valid[axes], starts[axes]
    a = jnp.where(valid, jnp.where(starts, 0, a), 1)
    return a, jnp.where(valid, b, 0)


def _outer(adjoint: Array, before: Array, a: Array) -> Array:
    """The products, summed over the axes along which `a` was broadcast."""
    made = adjoint * before
    axes = tuple(i for i, (n, m) in enumerate(zip(made.shape, a.shape, strict=True)) if n != m)
    return made.sum(axes, keepdims=True) if axes else made


def _prefix(reverse: bool, a: Array, b: Array) -> Array:
    """A parallel prefix over pairs (a, b), complex numbers as pairs of real planes.

    The prefix of complex arrays compiles several times slower than that of planes.
    """
    a = jnp.broadcast_to(a, (a.shape[0], b.shape[1], *a.shape[2:]))
    _, h = lax.associative_scan(_compose, (_planes(a), _planes(b)), reverse=reverse, axis=1)
    return lax.complex(*h) if len(h) == 2 else h[0]


def _compose(earlier, later):
    """The map h -> a h + b of `earlier`, then that of `later`."""
    (a1, b1), (a2, b2) = earlier, later
    return _multiply(a2, a1), tuple(x + y for x, y in zip(_multiply(a2, b1), b2, strict=True))


def _planes(x: Array) -> tuple[Array, ...]:
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def _multiply(x: tuple[Array, ...], y: tuple[Array, ...]) -> tuple[Array, ...]:
    if len(x) == 1:
        return (x[0] * y[0],)
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


_scan = functools.partial(scan, Product("linear_scan", operator.mul, lambda a: a, _outer, _prefix))
