"""Chunks of matrix products for states that change by an outer product of what they hold.

    S_t = D_t S_{t-1} + b_t w_t^T + k_t v_t^T,   w_t = u_t + R^T a_t,   o_t = S_t^T q_t

where D_t = diag(exp(log_decay_t)) and R is D_t S_{t-1}, or S_{t-1} with `before`. Inside a chunk
the w solve a triangular system, W = (I - A)^-1 (U + ...), the WY representation of a product of
Householder-like matrices (Bischof & Van Loan 1987; Yang et al. 2024, arXiv:2406.06484); between
chunks a state is handed on. The delta rules of this folder are choices of a, b, u.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence
from seqzoo.models.ops.matrix.chunks import Affine, ChunkMap, check_decays, decays, over_chunks
from seqzoo.models.ops.matrix.decayed_pairs import (
    Decays,
    Masks,
    Pairs,
    Reader,
    at_borders,
    decayed_pairs,
)
from seqzoo.models.ops.matrix.on_chip import Decay
from seqzoo.models.ops.matrix.triangular import inverse_on_chip, unit_inverse

# Steps per chunk, about the key width. B=4, H=4, K=V=32, L=2048 on one CPU core, forward and
# backward, against chunks of 32: chunks of 16 take 1.1 (no decay), 1.2 (one a head) and 0.9 (per
# channel) of the time, chunks of 64 1.05, 1.4 and 1.6; a scan over single steps 3.2, 4.9 and 1.6.
SMALLEST, LARGEST = 16, 64


class Inputs(NamedTuple):
    """The terms of the recurrence; None: left out."""

    q: Float[Array, "B L H K"]
    a: Float[Array, "B L H K"]
    b: Float[Array, "B L H K"]
    u: Float[Array, "B L H V"] | None
    k: Float[Array, "B L H K"] | None
    v: Float[Array, "B L H V"] | None
    log_decay: Float[Array, "..."] | None  # broadcasts to that of q


def chunked_delta(
    inputs: Inputs,
    s0: Float[Array, "B H K V"] | None,
    layout: Segments,
    *,
    chunk_size: int | None,
    before: bool,
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"]]:
    """Outputs and last state, computed in at least float32.

    Chunks are of `chunk_size` steps rounded up to a power of two. Gradients keep the inputs and one
    state per chunk; the rest is computed again.
    """
    batch, length, heads, keys = inputs.q.shape
    values = inputs.u if inputs.v is None else inputs.v
    dtype = jnp.result_type(*jax.tree.leaves(inputs[:-1]), jnp.float32)
    if inputs.log_decay is not None:
        inputs = inputs._replace(log_decay=decays(inputs.log_decay, length, heads, dtype))
    if layout.masked:
        valid = layout.valid[..., None, None]
        inputs = jax.tree.map(lambda x: jnp.where(valid, x, 0), inputs)
    if s0 is None:
        s0 = jnp.zeros((batch, heads, keys, values.shape[-1]), dtype)
    size = chunk_size or default_chunk(keys)
    s0 = s0.astype(jnp.promote_types(s0.dtype, dtype))
    if not length:
        return values.astype(dtype), s0
    return _ROWS((size, before, dtype), (inputs, layout), s0)


def _rows(
    shared: tuple[int, bool, DTypeLike], inputs: tuple[Inputs, Segments], s0: Array
) -> tuple[Array, Array]:
    """All chunks of rows."""
    (most, before, dtype), (terms, layout) = shared, inputs
    most = power_of_two(min(most, terms.q.shape[1]))
    step, chunk = (functools.partial(f, before, dtype) for f in (_step, _chunk))
    rows = terms._replace(log_decay=None)
    s, o = over_chunks(chunk, s0, rows, terms.log_decay, layout, most, step=step, kernel=True)
    return o, s


def _summarize(
    shared: tuple[int, bool, DTypeLike], inputs: tuple[Inputs, Segments], nothing: Array
) -> tuple[Array, Array]:
    """The map from a first to a last state, a matrix [K, K] for each head.

    It is what becomes of the identity where nothing is written, kept beside the state as K more
    columns of values.
    """
    terms, layout = inputs
    keys = nothing.shape[2]
    u, v = (None if x is None else _wider(x, keys) for x in (terms.u, terms.v))
    one = jnp.broadcast_to(jnp.eye(keys, dtype=nothing.dtype), (*nothing.shape[:2], keys, keys))
    first = jnp.concatenate([one, nothing], axis=-1)
    last = _rows(shared, (terms._replace(u=u, v=v), layout), first)[1]
    return last[..., :keys], last[..., keys:]


def _compose(_: tuple, transition: Array, own: Array, before: Array) -> Array:
    return transition @ before + own


_ROWS = Recurrence(_rows, _summarize, _compose)


def _wider(values: Array, more: int) -> Array:
    return jnp.pad(values, ((0, 0),) * 3 + ((more, 0),))


def default_chunk(keys: int) -> int:
    """Steps per chunk for heads of K keys."""
    return min(max(power_of_two(keys), SMALLEST), LARGEST)


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def _pairs(before: bool, terms: Inputs, decay: Decays, masks: Masks | None) -> Pairs:
    """What a and q read, and b and k write."""
    writers = [terms.b] if terms.k is None else [terms.b, terms.k]
    readers = [Reader(terms.a, own=False, before=before), Reader(terms.q, own=True)]
    return at_borders(decayed_pairs(readers, writers, decay), masks)


def _step(
    before: bool,
    dtype: DTypeLike,
    s: Array,
    terms: Inputs,
    decay: Decays,
    masks: Masks | None,
) -> tuple[Array, Array]:
    """One chunk: the state after it and its outputs [B, H, C, V], both in `dtype`."""
    terms = jax.tree.map(lambda x: x.astype(dtype), terms)
    u, v = terms.u, terms.v
    pairs = _pairs(before, terms, decay, masks)
    (a_b, *a_k), from_q = pairs.products
    a, q = pairs.reads
    right = a @ s
    if u is not None:
        right = right + u
    if v is not None:
        right = right + a_k[0] @ v
    inverse = inverse_on_chip if isinstance(decay, Decay) else unit_inverse
    w = inverse(a_b) @ right
    written = [w] if v is None else [w, v]
    o = q @ s + sum(p @ x for p, x in zip(from_q, written, strict=True))
    s = s if pairs.whole is None else s * pairs.whole
    for y, x in zip(pairs.writes, written, strict=True):
        s = s + jnp.swapaxes(y, -1, -2) @ x
    return s, o


def _chunk(
    before: bool, dtype: DTypeLike, terms: Inputs, decay: Decays, masks: Masks | None
) -> Affine:
    """The same as a matrix for the state: `_step` with w = (inverse a) s + inverse right."""
    terms = jax.tree.map(lambda x: x.astype(dtype), terms)
    u, v = terms.u, terms.v
    pairs = _pairs(before, terms, decay, masks)
    (a_b, *a_k), from_q = pairs.products
    a, q = pairs.reads
    right = [x for x in (u, None if v is None else a_k[0] @ v) if x is not None]
    w = unit_inverse(a_b) @ jnp.concatenate([a, sum(right)], -1)
    o, s = from_q[0] @ w, jnp.swapaxes(pairs.writes[0], -1, -2) @ w
    keys = a.shape[-1]
    (read, own), (keep, add) = (jnp.split(x, [keys], axis=-1) for x in (o, s))
    if v is not None:
        own = own + from_q[1] @ v
        add = add + jnp.swapaxes(pairs.writes[1], -1, -2) @ v
    kept = jnp.eye(keys, dtype=keep.dtype)
    keep = keep + (kept if pairs.whole is None else kept * pairs.whole)
    return Affine(keep, add, q + read, own)


def chunk_map(
    q: Float[Array, "B H C K"],
    a: Float[Array, "B H C K"],
    b: Float[Array, "B H C K"],
    decay: Decays,
    masks: Masks | None,
) -> ChunkMap:
    """The same for values u, with nothing written besides."""
    readers = [Reader(a, own=False), Reader(q, own=True)]
    pairs = at_borders(decayed_pairs(readers, [b], decay), masks)
    (a_b,), (q_b,) = pairs.products
    (a, q), write = pairs.reads, jnp.swapaxes(pairs.writes[0], -1, -2)
    inverse = unit_inverse(a_b)
    within, write = q_b @ inverse, write @ inverse
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    keep = (one if pairs.whole is None else one * pairs.whole) + write @ a
    return ChunkMap(keep, q + within @ a, within, write)


def check(op: str, q, like_q: dict[str, Array], v, log_decay, s0, chunk_size) -> None:
    """Raises ValueError where the shapes of an op's arguments do not fit."""
    if q.ndim != 4:
        raise ValueError(f"{op}: q must be [B, L, H, K]; got {q.shape}")
    for name, x in like_q.items():
        if x.shape != q.shape:
            raise ValueError(f"{op}: {name} must have the shape of q, {q.shape}; got {x.shape}")
    if v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(f"{op}: v must be [B, L, H, V] with q's {q.shape[:3]}; got {v.shape}")
    check_decays(op, log_decay, q.shape)
    state = (q.shape[0], *q.shape[2:], v.shape[3])
    if s0 is not None and s0.shape != state:
        raise ValueError(f"{op}: s0 must be [B, H, K, V] = {state}; got {s0.shape}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{op}: chunk_size must be at least 1; got {chunk_size}")
