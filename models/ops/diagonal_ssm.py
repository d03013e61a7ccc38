"""Diagonal linear state-space systems with real input and output, in chunks of matrix products.

    h_t = a h_{t-1} + b u_t,   y_t = 2 Re(sum_m c_m h_t,m)        a, b, c complex, M pairs a channel

Each complex number stands for itself and its conjugate: a real system of size N = 2 M (Gu et al.
2022, arXiv:2206.11893). A chunk of T tokens is three products with tables of powers of `a`: a
causal Toeplitz matrix inside the chunk, the chunk's inputs to the state behind it, the state before
the chunk to its outputs; the states at chunk borders are a `linear_scan`. Nothing of the size
B L H N is ever stored. Cost of L tokens: O(L (T + N)) per channel; memory O(L (1 + N / T)).

With segments, rows are first compacted. Then at most one segment crosses any border, so the
Toeplitz product splits in halves whose cross term is an unmasked product of masked rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from seqzoo.models.ops.linear_scan import linear_scan
from seqzoo.models.ops.segments import Segments, as_segments, compact

# CPU, float32, B=4, H=128, N=64, L=2048, forward and backward, processor time: chunks of 16, 32 and
# 64 take 164, 104 and 98 ms; packed rows 270, 245 and 238 ms; convolution by FFT, the kernel
# included, 275 ms; a loop over single tokens 351 ms. Longer chunks lose where N is small.
CHUNK = 32


def diagonal_ssm(
    u: Float[Array, "B L H"],
    a: Complex[Array, "H M"],
    b: Complex[Array, "H M"],
    c: Complex[Array, "H M"],
    h0: Float[Array, "B H N"] | None = None,
    *,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
    chunk_size: int = CHUNK,
) -> tuple[Float[Array, "B L H"], Float[Array, "B H N"]]:
    """Outputs and the state after the last real token.

    Args:
        u: inputs, one system per channel.
        a: decays of one step, |a| <= 1.
        b: input weights; b and c broadcast to a.
        c: output weights; the conjugate half doubles the real part.
        h0: state before the first token, real parts then imaginary parts (N = 2 M); default zero.
        segment_ids: layout of the rows. Padding carries the state; a new segment forgets it.
        chunk_size: T, a power of two.

    Returns:
        y like u, and the state, at least float32.

    Raises:
        ValueError: for a chunk size that is no power of two and shapes that do not fit.
    """
    _check(u, a, h0, chunk_size)
    batch, length, _ = u.shape
    dtype = jnp.promote_types(u.dtype, jnp.float32)
    size = min(chunk_size, 1 << max(length - 1, 0).bit_length())
    # On chips that round float32 factors, only low-precision inputs may be multiplied fast.
    dot = _Dot(jax.lax.Precision.HIGHEST if u.dtype == dtype else None)
    tables = _tables(a, jnp.broadcast_to(b, a.shape), jnp.broadcast_to(c, a.shape), size, dtype)
    if h0 is None:
        h0 = jnp.zeros((batch, a.shape[0], 2 * a.shape[1]), dtype)
    layout = as_segments(segment_ids, length)
    moved = compact(layout) if layout.masked else None
    x = u.astype(dtype)
    if moved is not None:
        x = jnp.where(moved.segments.valid[..., None], moved.pack(x), 0)
    chunks = _chunks(x, moved, size)
    states = _border_states(chunks, tables, h0.astype(dtype), dot)
    y = _inside(chunks.u, tables.kernel, chunks.run, dot) + _carried(chunks, tables, states, dot)
    y = y.reshape(batch, -1, y.shape[-1])[:, :length]
    if moved is not None:
        y = moved.unpack(y)
    return y.astype(u.dtype), _last_state(chunks, tables, states, dot)


def powers(a: Complex[Array, "..."], count: int) -> Complex[Array, "K ..."]:
    """a^0 .. a^(count-1) by multiplication: no phase is lost in a large argument of cos and sin."""
    one = jnp.ones((1, *a.shape), a.dtype)
    if count == 1:
        return one
    more = linear_scan(a, jnp.zeros((1, count - 1, *a.shape), a.dtype), one)
    return jnp.concatenate([one, more[0]])


class _Dot(NamedTuple):
    """einsum at one precision."""

    precision: jax.lax.Precision | None

    def __call__(self, spec: str, *operands: Array) -> Array:
        return jnp.einsum(spec, *operands, precision=self.precision)


class _Tables(NamedTuple):
    """Powers of the system over one chunk."""

    kernel: Float[Array, "T H"]  # 2 Re(c a^t b)
    gather: Float[Array, "T H N"]  # a^(T-1-t) b: an input's part of the state behind the chunk
    emit: Float[
        Array, "T H N"
    ]  # 2 c a^(t+1), as a real form: the state before the chunk's part of y_t
    decay: Complex[Array, "K H M"]  # a^0 .. a^T


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


def _tables(a: Array, b: Array, c: Array, size: int, dtype: jnp.dtype) -> _Tables:
    a, b, c = (jax.lax.complex(z.real.astype(dtype), z.imag.astype(dtype)) for z in (a, b, c))
    decay = powers(a, size + 1)
    gather, emit = decay[:-1] * b, 2 * decay[1:] * c
    return _Tables(
        kernel=2 * (gather * c).real.sum(-1),
        gather=_planes(gather)[::-1],
        emit=_planes(emit.conj()),
        decay=decay,
    )


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


def _border_states(chunks: _Chunks, tables: _Tables, h0: Array, dot: _Dot) -> Array:
    """The state before each chunk and behind the last one, complex [B, G + 1, H, M]."""
    u, decay = chunks.u, tables.decay[-1]
    if chunks.run is not None:
        run_out = chunks.run[:, :, -1]
        u = _keep(u, chunks.run == run_out[..., None])
        decay = _keep(decay[None, None], run_out == chunks.run_in)
    added = _pairs(dot("BGTH,THN->BGHN", u, tables.gather))
    h0 = _pairs(h0)
    return jnp.concatenate([h0[:, None], linear_scan(decay, added, h0)], axis=1)


def _carried(chunks: _Chunks, tables: _Tables, states: Array, dot: _Dot) -> Array:
    """What the state before each chunk adds to its outputs."""
    y = dot("BGHN,THN->BGTH", _planes(states[:, :-1]), tables.emit)
    return y if chunks.run is None else _keep(y, chunks.run == chunks.run_in[..., None])


def _inside(u: Array, kernel: Array, run: Array | None, dot: _Dot) -> Array:
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
    early = _keep(u[:, :, :half], run[:, :, :half] == crossing)
    across = dot("TSH,BGSH->BGTH", kernel[lag[half:, :half]], early)
    across = _keep(across, run[:, :, half:] == crossing)
    halves = u.reshape(batch, 2 * count, half, width)
    y = _inside(halves, kernel[:half], run.reshape(batch, 2 * count, half), dot)
    y = y.reshape(batch, count, 2, half, width)
    return jnp.concatenate([y[:, :, 0], y[:, :, 1] + across], axis=2)


def _last_state(chunks: _Chunks, tables: _Tables, states: Array, dot: _Dot) -> Array:
    """The state after `count` tokens of each row, whose last chunk may be partly filled."""
    size = chunks.u.shape[2]
    chunk = jnp.maximum(chunks.count - 1, 0) // size
    filled = chunks.count - chunk * size
    before = _row(states, chunk)
    u = _row(chunks.u, chunk)
    kept = tables.decay[filled]
    source = jnp.arange(size) - (size - filled)[:, None]  # moves the filled part to the chunk's end
    real = source >= 0
    if chunks.run is not None:
        last = chunks.last_run[:, None]
        same = jnp.take_along_axis(_row(chunks.run, chunk), jnp.maximum(source, 0), 1) == last
        real = real & same
        kept = _keep(kept, _row(chunks.run_in, chunk) == chunks.last_run)
    u = jnp.take_along_axis(u, jnp.maximum(source, 0)[..., None], axis=1)
    added = dot("BTH,THN->BHN", _keep(u, real), tables.gather)
    return _planes(kept * before) + added


def _keep(x: Array, mask: Array) -> Array:
    """Zero where the mask, which has x's leading axes, is False."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)


def _row(x: Array, index: Int[Array, "B"]) -> Array:
    """x[i, index[i]] for every row i."""
    return jax.vmap(lambda row, i: jax.lax.dynamic_index_in_dim(row, i, keepdims=False))(x, index)


def _pairs(h: Float[Array, "... N"]) -> Complex[Array, "... M"]:
    return jax.lax.complex(*jnp.split(h, 2, axis=-1))


def _planes(h: Complex[Array, "... M"]) -> Float[Array, "... N"]:
    return jnp.concatenate([h.real, h.imag], axis=-1)


def _check(u: Array, a: Array, h0: Array | None, chunk_size: int) -> None:
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"diagonal_ssm: chunk_size must be a power of two; got {chunk_size}")
    if u.ndim != 3 or a.ndim != 2 or u.shape[2] != a.shape[0]:
        raise ValueError(
            f"diagonal_ssm: u must be [B, L, H] and a [H, M]; got the shapes {u.shape}, {a.shape}"
        )
    expected = (u.shape[0], a.shape[0], 2 * a.shape[1])
    if h0 is not None and h0.shape != expected:
        raise ValueError(
            f"diagonal_ssm: h0 must be [B, H, 2 M] = {expected}, real parts then imaginary parts; "
            f"got {h0.shape}"
        )
