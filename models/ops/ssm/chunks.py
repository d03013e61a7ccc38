"""Linear time-invariant systems, one a channel, in chunks of matrix products.

    h_t = A h_{t-1} + b u_t,   y_t = c . h_t        h in R^N, one system for each of H channels

A chunk of T tokens is three products with tables of the system's powers: a causal Toeplitz matrix
inside the chunk, the chunk's inputs to the state behind it, the state before the chunk to its
outputs. What A is (diagonal and complex, dense, ...) only the tables know. Nothing of the size
B L H N is ever stored.

With segments, rows are first compacted. Then at most one segment crosses any border, so the
Toeplitz product splits in halves whose cross term is an unmasked product of masked rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.ops.layout.segments import Segments, as_segments, compact
from seqzoo.models.ops.layout.sequence_parallel import Recurrence, parts


class Dot(NamedTuple):
    """einsum at one precision."""

    precision: jax.lax.Precision | None

    def __call__(self, spec: str, *operands: Array) -> Array:
        """`jnp.einsum` in this precision."""
        return jnp.einsum(spec, *operands, precision=self.precision)


def dot_for(u: Array) -> Dot:
    """Chips that round float32 factors may do so only for inputs of low precision."""
    wide = jnp.promote_types(u.dtype, jnp.float32)
    return Dot(jax.lax.Precision.HIGHEST if u.dtype == wide else None)


class Tables(NamedTuple):
    """Powers of the system over one chunk of T tokens; T is a power of two.

    Attributes:
        kernel: c A^t b, the first T taps of the impulse response.
        gather: A^(T-1-t) b, an input's part of the state behind the chunk.
        emit: c A^(t+1), the part of y_t that the state before the chunk gives.
        borders: (added [B, G, H, N], keep [B, G] or None, h0) -> the states before each chunk and
            behind the last, [B, G+1, H, N]; a chunk that does not `keep` forgets the state before.
        advance: most -> (h [B, H, N], count [B]) -> A^count h, for 0 <= count <= most, T at least.
    """

    kernel: Float[Array, "T H"]
    gather: Float[Array, "T H N"]
    emit: Float[Array, "T H N"]
    borders: Callable[[Array, Array | None, Array], Array]
    advance: Callable[[int], Callable[[Array, Array], Array]]


class _Chunks(NamedTuple):
    """Compact rows in G chunks of T; masks are None where every token is real and of one run."""

    u: Float[Array, "B G T H"]
    count: Int[Array, "B"]  # real tokens
    run: Int[Array, "B G T"] | None
    last_run: Int[Array, "B"] | None

    @property
    def run_in(self) -> Int[Array, "B G"]:
        """The run to which the state before each chunk belongs; h0 belongs to run 0."""
        return jnp.pad(self.run[:, :-1, -1], ((0, 0), (1, 0)))


def chunked(
    op: str,
    u: Float[Array, "B L H"],
    make: Callable[[int, jnp.dtype], Tables],
    h0: Float[Array, "B H N"] | None,
    *,
    sizes: tuple[int, int],
    chunk_size: int,
    segment_ids: Int[Array, "B L"] | Segments | None,
) -> tuple[Float[Array, "B L H"], Float[Array, "B H N"]]:
    """Outputs and the state after the last real token: padding carries it, a segment forgets it.

    `make(T, dtype)` gives the tables of chunks of T, no longer than rows need; `sizes` are H and N.
    """
    check(op, u, h0, *sizes, chunk_size)
    length, dtype = u.shape[1], jnp.promote_types(u.dtype, jnp.float32)
    h0 = jnp.zeros((u.shape[0], *sizes), dtype) if h0 is None else h0.astype(dtype)
    tables = make(min(chunk_size, 1 << max(length // parts(length) - 1, 0).bit_length()), dtype)
    most = max(length // parts(length), len(tables.kernel))
    advance = tables.advance(most) if parts(length) > 1 else None
    return _ROWS((tables, advance), (u, as_segments(segment_ids, length)), h0)


def _rows(shared: tuple, inputs: tuple[Array, Segments], h0: Array) -> tuple[Array, Array]:
    (tables, _), (u, layout) = shared, inputs
    batch, length, width = u.shape
    size, dtype, dot = len(tables.kernel), h0.dtype, dot_for(u)
    moved = compact(layout) if layout.masked else None
    x = u.astype(dtype)
    if moved is not None:
        x = jnp.where(moved.segments.valid[..., None], moved.pack(x), 0)
    chunks = _chunks(x, moved, size)
    states = _border_states(chunks, tables, h0, dot)
    y = _inside(chunks.u, tables.kernel, chunks.run, dot) + _carried(chunks, tables, states, dot)
    y = y.reshape(batch, -1, width)[:, :length]
    if moved is not None:
        y = moved.unpack(y)
    return y.astype(u.dtype), _last_state(chunks, tables, states, dot)


def _summarize(
    shared: tuple, inputs: tuple[Array, Segments], nothing: Array
) -> tuple[tuple[Array, Array], Array]:
    """How many tokens there are and whether they are of one segment; the state they leave."""
    (u, layout), rows = inputs, len(nothing)
    passed = jnp.full(rows, u.shape[1]), jnp.ones(rows, bool)
    if layout.masked:
        passed = layout.valid.sum(1), layout.run[:, -1] == 0
    return passed, _rows(shared, inputs, nothing)[1]


def _advanced(shared: tuple, passed: tuple[Array, Array], own: Array, before: Array) -> Array:
    (_, advance), (tokens, stays) = shared, passed
    return keep(advance(before, tokens), stays) + own


_ROWS = Recurrence(_rows, _summarize, _advanced)


def check(op: str, u: Array, h0: Array | None, width: int, states: int, chunk_size: int) -> None:
    """Raises ValueError for a chunk size that is no power of two and shapes that do not fit."""
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"{op}: chunk_size must be a power of two; got {chunk_size}")
    if u.ndim != 3 or u.shape[2] != width:
        raise ValueError(f"{op}: u must be [B, L, H] with H = {width}; got the shape {u.shape}")
    expected = (u.shape[0], width, states)
    if h0 is not None and h0.shape != expected:
        raise ValueError(
            f"{op}: h0 must be [B, H, N] = {expected}, of complex states real parts then imaginary "
            f"parts; got {h0.shape}"
        )


def keep(x: Array, mask: Bool[Array, "..."]) -> Array:
    """Zero where the mask, which has x's leading axes, is False."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)


def _chunks(x: Array, moved, size: int) -> _Chunks:
    batch, length, width = x.shape
    count = max(1, -(-length // size))
    pad = (0, count * size - length)
    u = jnp.pad(x, ((0, 0), pad, (0, 0))).reshape(batch, count, size, width)
    if moved is None:
        return _Chunks(u, jnp.full(batch, length), None, None)
    layout = moved.segments
    run = jnp.pad(layout.run, ((0, 0), pad), mode="edge" if length else "constant")
    return _Chunks(u, layout.valid.sum(1), run.reshape(batch, count, size), run[:, -1])


def _border_states(chunks: _Chunks, tables: Tables, h0: Array, dot: Dot) -> Array:
    u, stays = chunks.u, None
    if chunks.run is not None:
        run_out = chunks.run[:, :, -1]
        u = keep(u, chunks.run == run_out[..., None])
        stays = run_out == chunks.run_in
    return tables.borders(dot("BGTH,THN->BGHN", u, tables.gather), stays, h0)


def _carried(chunks: _Chunks, tables: Tables, states: Array, dot: Dot) -> Array:
    """What the state before each chunk adds to its outputs."""
    y = dot("BGHN,THN->BGTH", states[:, :-1], tables.emit)
    return y if chunks.run is None else keep(y, chunks.run == chunks.run_in[..., None])


def _inside(u: Array, kernel: Array, run: Array | None, dot: Dot) -> Array:
    """The causal convolution inside each chunk, [B, G, T, H]; run borders cut it."""
    batch, count, size, width = u.shape
    t = jnp.arange(size)
    lag = t[:, None] - t
    if run is None:
        toeplitz = jnp.where((lag >= 0)[..., None], kernel[jnp.maximum(lag, 0)], 0)
        return dot("TSH,BGSH->BGTH", toeplitz, u)
    if size == 1:
        return kernel[0] * u
    half = size // 2
    crossing = run[:, :, half - 1 : half]  # the only run that can have tokens in both halves
    early = keep(u[:, :, :half], run[:, :, :half] == crossing)
    across = dot("TSH,BGSH->BGTH", kernel[lag[half:, :half]], early)
    across = keep(across, run[:, :, half:] == crossing)
    halves = u.reshape(batch, 2 * count, half, width)
    y = _inside(halves, kernel[:half], run.reshape(batch, 2 * count, half), dot)
    y = y.reshape(batch, count, 2, half, width)
    return jnp.concatenate([y[:, :, 0], y[:, :, 1] + across], axis=2)


def _last_state(chunks: _Chunks, tables: Tables, states: Array, dot: Dot) -> Array:
    """The state after `count` tokens of each row, whose last chunk may be partly filled."""
    size = chunks.u.shape[2]
    chunk = jnp.maximum(chunks.count - 1, 0) // size
    filled = chunks.count - chunk * size
    u = _row(chunks.u, chunk)
    kept = tables.advance(size)(_row(states, chunk), filled)
    source = jnp.arange(size) - (size - filled)[:, None]  # moves the filled part to the chunk's end
    real = source >= 0
    if chunks.run is not None:
        last = chunks.last_run[:, None]
        same = jnp.take_along_axis(_row(chunks.run, chunk), jnp.maximum(source, 0), 1) == last
        real = real & same
        kept = keep(kept, _row(chunks.run_in, chunk) == chunks.last_run)
    u = jnp.take_along_axis(u, jnp.maximum(source, 0)[..., None], axis=1)
    return kept + dot("BTH,THN->BHN", keep(u, real), tables.gather)


def _row(x: Array, index: Int[Array, "B"]) -> Array:
    """x[i, index[i]] for every row i."""
    return jax.vmap(lambda row, i: jax.lax.dynamic_index_in_dim(row, i, keepdims=False))(x, index)
