"""What the ops that run in chunks share: cutting rows, walking over chunks, decays that broadcast.

What a chunk does to a state is affine, so the chunks of a row need not wait for each other: a
platform that starts many small kernels dearly computes them at once, with a prefix over what they
do to the state; a CPU walks from chunk to chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree, Shaped

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.matrix import chunk_kernel
from seqzoo.models.ops.matrix.chunk_kernel import Chunks
from seqzoo.models.ops.matrix.decayed_pairs import Decays, prepared, whole_blocks


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


# Chunks that are computed at once, the next as many after them: what lies between their products
# and their outputs is kept no longer.
AT_ONCE = 64


class Affine(NamedTuple):
    """A chunk as a function of the state s before it: after it keep s + add, outputs read s + own.

    The leaves of `add` and `own` are parts of the state's and the outputs' columns.
    """

    # A matrix, or factors [B, H, #K, 1] of the rows of s, or None where all is kept.
    keep: Float[Array, "B H #K #K"] | None
    add: PyTree[Float[Array, "B H K V"]]
    read: Float[Array, "B H C K"]
    own: PyTree[Float[Array, "B H C V"]]

    def of(self, s: PyTree) -> tuple[PyTree, PyTree]:
        """The state after the chunk, and its outputs."""
        o = jax.tree.map(lambda s, own: self.read @ s + own, s, self.own)
        return jax.tree.map(lambda s, add: kept(self.keep, s) + add, s, self.add), o


class ChunkMap(NamedTuple):
    """A chunk as a function of the state s before it and of its values v.

    After it the state is keep s + write v, outputs are read s + within v.
    """

    keep: Float[Array, "B H #K #K"] | None  # as in `Affine`
    read: Float[Array, "B H C K"]
    within: Float[Array, "B H C C"]
    write: Float[Array, "B H K C"]


def over_chunks(
    chunk: Callable[..., Affine] | None,
    s0: PyTree[Float[Array, "B H K V"]],
    rows: PyTree[Shaped[Array, "B L H D"]],
    log_decay: Float[Array, "#B L H #K"] | None,
    layout: Segments,
    most: int,
    *,
    step: Callable[..., tuple[PyTree, PyTree]] | None = None,
    kernel: bool = False,
) -> tuple[PyTree[Float[Array, "B H K V"]], PyTree[Float[Array, "B L H V"]]]:
    """The last state and all outputs of what `chunk` makes of (rows, decays, masks).

    Chunks have at most `most` steps, rounded up to what `decayed_pairs` takes. Gradients keep the
    rows and one state a chunk, or `AT_ONCE` chunks; the rest is computed again. `step` is
    (state, rows, decays, masks) -> (state, outputs) where that is cheaper than by the matrix;
    without `chunk` chunks follow each other on every platform.
    """
    length = layout.position.shape[1]
    size = whole_blocks(min(most, length))
    chunks = jax.tree.map(lambda x: to_chunks(x, size), rows)
    g = None if log_decay is None else to_chunks(log_decay, size)
    runs = None
    if layout.masked:
        run = to_chunks(layout.run[..., None, None], size)
        last = run[..., -1:, :]
        runs = run, jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])  # s0 is of run 0
    step = step or (lambda s, *terms: chunk(*terms).of(s))
    chunks = Chunks(chunks, g, runs)
    walk = functools.partial(_walk, step)
    alone = chunk is None or len(jax.tree.leaves(chunks)[0]) == 1
    on_chip = kernel and chunk_kernel.fits(s0, chunks)
    table = {"walk": walk, "together": walk if alone else functools.partial(_together, chunk)}
    in_kernel = functools.partial(_in_kernel, step) if on_chip else walk
    table |= dict.fromkeys(chunk_kernel.KERNELS, in_kernel)
    g = None if g is None else prepared(g)
    s_last, o = forms.run("chunks", table, s0, chunks, g)
    return s_last, jax.tree.map(lambda x: to_rows(x, length), o)


def _in_kernel(step: Callable, s0: PyTree, chunks: Chunks, _: Decays) -> tuple[PyTree, PyTree]:
    return chunk_kernel.walk(step, s0, chunks)


def _walk(step: Callable, s0: PyTree, chunks: Chunks, g: Decays) -> tuple[PyTree, PyTree]:
    chunks = chunks._replace(g=g)

    def body(state: PyTree, chunk: Chunks) -> tuple[PyTree, PyTree]:
        return step(state, chunk.rows, chunk.g, chunk.masks)

    # Inside a scan no barrier is needed to keep the recomputation.
    return lax.scan(jax.checkpoint(body, prevent_cse=False), s0, chunks)


def _together(
    chunk: Callable[..., Affine], s: PyTree, chunks: Chunks, g: Decays
) -> tuple[PyTree, PyTree]:
    """Many chunks at once, in groups of `AT_ONCE` and one of what is left."""
    chunks = chunks._replace(g=g)

    def group(s: PyTree, chunks: Chunks) -> tuple[PyTree, PyTree]:
        affine = jax.vmap(lambda c: chunk(c.rows, c.g, c.masks))(chunks)
        before, last = _states(affine, s)
        o = jax.tree.map(lambda s, own: affine.read @ s + own, before, affine.own)
        return last, o

    groups, rest = divmod(len(jax.tree.leaves(chunks)[0]), AT_ONCE)
    outs = []
    if groups:
        full = jax.tree.map(
            lambda x: x[: groups * AT_ONCE].reshape(groups, AT_ONCE, *x.shape[1:]), chunks
        )
        s, o = lax.scan(jax.checkpoint(group, prevent_cse=False), s, full)
        outs.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), o))
    if rest:
        s, o = jax.checkpoint(group)(s, jax.tree.map(lambda x: x[-rest:], chunks))
        outs.append(o)
    return s, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs)


def _states(chunks: Affine, s: PyTree) -> tuple[PyTree, PyTree]:
    """The states before each chunk, and behind the last, by a parallel prefix over their maps."""
    keep, add = chunks.keep, chunks.add
    keep_first = None if keep is None else keep[0]
    add = jax.tree.map(lambda s, x: x.at[0].add(kept(keep_first, s)), s, add)

    def then(one: tuple, two: tuple) -> tuple:
        (keep_one, add_one), (keep_two, add_two) = one, two
        add = jax.tree.map(lambda x, y: kept(keep_two, x) + y, add_one, add_two)
        return None if keep_one is None else kept(keep_two, keep_one), add

    _, after = lax.associative_scan(then, (keep, add))
    before = jax.tree.map(lambda s, x: jnp.concatenate([s[None], x[:-1]]), s, after)
    return before, jax.tree.map(lambda x: x[-1], after)


def kept(keep: Array | None, s: Array) -> Array:
    """keep s, where keep is a matrix, factors of the rows of s, or None for all of it."""
    if keep is None:
        return s
    return keep * s if keep.shape[-1] == 1 else keep @ s


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
