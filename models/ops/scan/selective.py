"""The selective scan of Mamba (Gu and Dao 2023, arXiv:2312.00752, algorithm 2), "S6".

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,   y_t = C_t . h_t + D u_t        per channel, h in R^N

(A discretised by zero-order hold, B by Euler's rule, as in the published code.) The rows are worked
off in chunks and only the states at chunk borders are kept, [L / T, B, N, D] for chunks of T. The
backward pass goes through the chunks in reverse, computes the states of one again and then runs

    l_t = dy_t C_t + a_{t+1} l_{t+1},       a_t = exp(dt_t A),  w_t = a_t h_{t-1}
    dC_t = sum_d h_t dy_t,  dB_t = sum_d l_t dt_t u_t,  d(dt_t u_t) = sum_n l_t B_t,
    d(dt_t A) = l_t w_t

so that no array of B L D N elements exists. Forms, chosen by `layout/backends.py`: a loop over the
steps of a chunk, a parallel prefix inside wider chunks (both in `selective_chunks.py`), and kernels
for GPUs (`selective_kernel.py`) and TPUs (`selective_tpu.py`). Channels are kept on the last axis,
where vector units and reductions over N want them.

Without A the decay is a_t = 1 - dt_t B_t², an online learner's (Longhorn, arXiv:2407.14207).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout import kernels as by_kernel
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence, by_rows, decayed, parts
from seqzoo.models.ops.layout.sharding import SEQUENCE_AXIS, axis_size
from seqzoo.models.ops.scan import selective_chunks as chunks
from seqzoo.models.ops.scan import selective_kernel, selective_tpu
from seqzoo.models.ops.scan.selective_chunks import Inputs

# CPU, one core, float32, B=4, L=2048, D=256, N=16, forward and backward: chunks of 8, 16 and 32
# take 162, 167 and 203 ms; beyond, a chunk's states leave the cache.
CHUNK = 16
WIDE = 8  # chunks that the parallel prefix takes at once: few, long launches


@op(rows="u")
def selective_scan(
    u: Float[Array, "B L D"],
    dt: Float[Array, "B L D"],
    A: Inexact[Array, "D N"] | None,
    B: Inexact[Array, "B L N"],
    C: Inexact[Array, "B L N"],
    D: Float[Array, "D"] | None = None,
    h0: Inexact[Array, "B D N"] | None = None,
    *,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
    chunk_size: int | None = None,
) -> tuple[Float[Array, "B L D"], Inexact[Array, "B D N"]]:
    """Outputs and the state after the last real token; see the module docstring.

    With a complex A each state stands for itself and its conjugate: y_t = 2 Re(C_t . h_t) + D u_t.

    Args:
        u: inputs.
        dt: step sizes, positive already (after softplus).
        A: continuous-time decays, their real parts negative. None: decays are 1 - dt B², dt and B
            real, dt |B|² at most 1.
        B: input weights, shared by the channels.
        C: output weights, shared by the channels.
        D: direct weights from u to y; None for none.
        h0: state before the first token; None for zeros.
        segment_ids: layout of the rows. Padding carries the state; a new segment forgets it.
        chunk_size: steps between the states that the backward pass starts from.

    Returns:
        y of u's dtype, and the state, of at least float32, complex where A is.

    Raises:
        ValueError: for shapes that do not fit and a chunk size below 1.
    """
    _check(u, dt, A, B, C, D, h0, chunk_size)
    batch, length, width = u.shape
    some = (u, dt, B, C) if A is None else (u, dt, A, B, C)
    wide = jnp.promote_types(jnp.result_type(*some), jnp.float32)
    layout = as_segments(segment_ids, length)
    forget = None
    if layout.masked:
        valid = layout.valid[..., None]
        u, dt = jnp.where(valid, u, 0), jnp.where(valid, dt, 0)  # decay 1, input 0
        forget = layout.starts[..., None].astype(wide)
    state = jnp.zeros((batch, B.shape[2], width), wide)
    if h0 is not None:
        state = jnp.swapaxes(h0, 1, 2).astype(wide)
    if not length:
        return u, jnp.swapaxes(state, 1, 2)
    chunk = min(CHUNK if chunk_size is None else chunk_size, length // parts(length))
    x = Inputs(u, dt, B, C, forget)
    of_pairs = A is not None and jnp.iscomplexobj(A)
    if of_pairs:
        x = jax.tree.map(lambda a: a.astype(wide), x)
    y, h = _ROWS((chunk, None if A is None else A.T.astype(wide)), x, state)
    if of_pairs:
        y = (2 * y.real).astype(u.dtype)
    if D is not None:
        y = y + (D * u).astype(y.dtype)
    return y, jnp.swapaxes(h, 1, 2)


def _check(u, dt, A, B, C, D, h0, chunk_size: int | None) -> None:
    if u.ndim != 3 or B.ndim != 3 or (A is not None and A.ndim != 2):
        raise ValueError(
            "selective_scan: u must be [B, L, D], B [B, L, N] and A [D, N]; got "
            f"{u.shape}, {B.shape}, {None if A is None else A.shape}"
        )
    batch, length, width = u.shape
    states = B.shape[2] if A is None else A.shape[1]
    expected = {
        "dt": (dt, (batch, length, width)),
        "A": (A, (width, states)),
        "B": (B, (batch, length, states)),
        "C": (C, (batch, length, states)),
        "D": (D, (width,)),
        "h0": (h0, (batch, width, states)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and value.shape != shape:
            raise ValueError(f"selective_scan: {name} must have shape {shape}; got {value.shape}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"selective_scan: chunk_size must be at least 1; got {chunk_size}")


def _rows(shared: tuple[int, Array | None], x: Inputs, h: Array) -> tuple[Array, Array]:
    chunk, A = shared
    return _scan(chunk, x, A, h)


def _summarize(shared: tuple[int, Array | None], x: Inputs, nothing: Array) -> tuple[Array, Array]:
    A = shared[1]
    if A is None:
        kept = jnp.prod(chunks.decays(x, A), axis=1)
    else:
        kept = jnp.exp(x.dt.astype(A.dtype).sum(1)[:, None] * A)
        if x.forget is not None:
            kept = kept * (1 - x.forget.max(1)[:, None])
    return kept, _rows(shared, x, nothing)[1]


_ROWS = Recurrence(_rows, _summarize, decayed)


def _either_form(chunk: int, x: Inputs, A: Array | None, h0: Array) -> tuple[Array, Array]:
    """y and the last state; A is [N, D], states are [B, N, D]."""
    return _scan_forward(chunk, x, A, h0)[0]


def _scan_forward(chunk: int, x: Inputs, A: Array | None, h0: Array):
    prefix = functools.partial(chunks.forward, chunks.prefix_states, chunk, WIDE)
    loop = functools.partial(chunks.forward, chunks.loop_states, chunk, 1)
    y, h, borders = _run(loop, prefix, functools.partial(_forward_kernel, chunk), x, A, h0)
    return (y, h), ((x, A, h0), borders)


def _scan_backward(chunk: int, kept, cotangents):
    prefix = functools.partial(chunks.backward, chunks.prefix_adjoint, chunk, WIDE)
    loop = functools.partial(chunks.backward, chunks.loop_adjoint, chunk, 1)
    kernel = functools.partial(_backward_kernel, chunk)
    (x, A, _), borders = kept
    (du, ddt, dB, dC), dA, dh = _run(loop, prefix, kernel, x, A, borders, *cotangents)
    return Inputs(du, ddt, dB, dC, None), dA, dh


class Kernel(NamedTuple):
    """A module with the kernels of both passes, and whether Pallas interprets them."""

    of: Any
    interpret: bool = False


KERNELS = {"triton": Kernel(selective_kernel), "mosaic": Kernel(selective_tpu)}


def _run(loop: Callable, prefix: Callable, kernel: Callable, *args):
    """The form that the table names; the prefix where there is no kernel."""
    table = {"sequential": loop, "associative": prefix, **dict.fromkeys(KERNELS, prefix)}
    plain = functools.partial(forms.run, "selective_scan", table)
    kernels = {name: functools.partial(kernel, plain, how) for name, how in KERNELS.items()}
    return by_kernel.run("selective_scan", plain, kernels, *args)


def _tile(kernel: Kernel, chunk: int, x: Inputs, A: Array | None, h: Array) -> int | None:
    """Channels of a program of the kernel; None where there is none."""
    if A is None or h.dtype != jnp.float32 or axis_size(SEQUENCE_AXIS) > 1:
        return None
    return kernel.of.channels(x.u.shape[2], A.shape[0], chunk)


def _whole(multiple: int, x: Inputs, *more: Array) -> tuple:
    """What a kernel reads, in whole blocks: inputs, what is kept of a state at a step, others."""
    x, *more = chunks.padded((x, *more), multiple)
    return (*x[:4], *(() if x.forget is None else (1 - x.forget[..., 0],))), *more


def _forward_kernel(chunk: int, plain: Callable, kernel: Kernel, x: Inputs, A, h0: Array):
    size = _tile(kernel, chunk, x, A, h0)
    if size is None:
        return plain(x, A, h0)

    def run(x: Inputs, A: Array, h0: Array):
        (inputs,) = _whole(kernel.of.multiple(chunk), x)
        y, h, borders = kernel.of.forward(chunk, size, kernel.interpret, inputs, A, h0)
        return y[:, : x.u.shape[1]], h, borders[: -(-x.u.shape[1] // chunk)]

    axes = jax.tree.map(lambda _: 0, x), -1, 0
    return by_rows(run, axes, (0, 0, 1), x, A, h0)


def _backward_kernel(chunk: int, plain: Callable, kernel: Kernel, x: Inputs, A, borders, dy, dh):
    size = _tile(kernel, chunk, x, A, dh)
    if size is None:
        return plain(x, A, borders, dy, dh)

    def run(x: Inputs, A: Array, borders: Array, dy: Array, dh: Array):
        inputs, dy = _whole(kernel.of.multiple(chunk), x, dy)
        missing = inputs[0].shape[1] // chunk - len(borders)
        borders = jnp.pad(borders, ((0, missing), *[(0, 0)] * 3))  # of steps that change nothing
        grads, dA, dh = kernel.of.backward(
            chunk, size, kernel.interpret, inputs, A, borders, dy, dh
        )
        return tuple(d[:, : x.u.shape[1]] for d in grads), dA, dh

    axes = jax.tree.map(lambda _: 0, x), -1, 1, 0, 0
    grads, dA, dh = by_rows(run, axes, ((0, 0, 0, 0), 0, 0), x, A, borders, dy, dh)
    return grads, dA.sum(0), dh


_scan = with_backward(_either_form, _scan_forward, _scan_backward)
