"""What the ops that run in chunks share: cutting rows, and decays that broadcast."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree, Shaped

from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.matrix.decayed_pairs import masks_of, prepared, whole_blocks


def to_chunks(x: Shaped[Array, "B L H D"], size: int) -> Shaped[Array, "N B H C D"]:
    """Chunks of `size` steps; the last is filled up.

    With zeros: no input and no decay. Integers are runs, the last of which goes on.
    """
    rest = -x.shape[1] % size
    mode = "edge" if jnp.issubdtype(x.dtype, jnp.integer) else "constant"
    x = jnp.pad(x, ((0, 0), (0, rest), (0, 0), (0, 0)), mode=mode)
    batch, length, heads, width = x.shape
    x = x.reshape(batch, length // size, size, heads, width)
    return x.transpose(1, 0, 3, 2, 4)


def to_rows(o: Shaped[Array, "N B H C D"], length: int) -> Shaped[Array, "B L H D"]:
    """The inverse of `to_chunks`."""
    count, batch, heads, size, width = o.shape
    return o.transpose(1, 0, 3, 2, 4).reshape(batch, count * size, heads, width)[:, :length]


def over_chunks(
    step: Callable[..., tuple[PyTree, PyTree]],
    s0: PyTree[Float[Array, "B H K V"]],
    rows: PyTree[Shaped[Array, "B L H D"]],
    log_decay: Float[Array, "#B L H #K"] | None,
    layout: Segments,
    most: int,
) -> tuple[PyTree[Float[Array, "B H K V"]], PyTree[Float[Array, "B L H V"]]]:
    """The last state and all outputs of step(state, rows, decays, masks) -> (state, outputs).

    Chunks have at most `most` steps, rounded up to what `decayed_pairs` takes. Gradients keep the
    rows and one state a chunk; the rest is computed again.
    """
    length = layout.position.shape[1]
    size = whole_blocks(min(most, length))
    chunks = jax.tree.map(lambda x: to_chunks(x, size), rows)
    g = None if log_decay is None else prepared(to_chunks(log_decay, size))
    runs = None
    if layout.masked:
        run = to_chunks(layout.run[..., None, None], size)
        last = run[..., -1:, :]
        runs = run, jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])  # s0 is of run 0

    def body(state: PyTree, chunk: tuple) -> tuple[PyTree, PyTree]:
        rows, g, runs = chunk
        return step(state, rows, g, None if runs is None else masks_of(*runs))

    # Inside a scan no barrier is needed to keep the recomputation.
    s_last, o = lax.scan(jax.checkpoint(body, prevent_cse=False), s0, (chunks, g, runs))
    return s_last, jax.tree.map(lambda x: to_rows(x, length), o)


def decays(
    log_decay: Float[Array, "..."], length: int, heads: int, dtype: DTypeLike
) -> Float[Array, "#B L H #K"]:
    """Log decays of full length; -inf becomes the smallest finite decay, for differences' sake."""
    g = jnp.asarray(log_decay, dtype)
    g = g.reshape((1,) * (4 - g.ndim) + g.shape)
    g = jnp.maximum(g, jnp.log(jnp.finfo(dtype).tiny))
    return jnp.broadcast_to(g, (g.shape[0], length, heads, g.shape[3]))


def check_decays(op: str, log_decay: Float[Array, "..."] | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError where log_decay does not broadcast to `shape`, that of q."""
    if log_decay is None:
        return
    own = jnp.shape(log_decay)
    full = (1,) * (4 - len(own)) + own
    if len(full) > 4 or any(n not in (1, m) for n, m in zip(full, shape, strict=True)):
        raise ValueError(f"{op}: log_decay must broadcast to q's shape {shape}; got {own}")
