"""What mixers share whose state is a model that is trained as the row is read.

Tokens are taken in chunks, counted from the start of the segment. All gradients of a chunk are made
at once, at the weights W' of its start, and the weights of a layer x -> Wᵀ x at its token t,

    W_t = a_t W' + c_t S' - Σ_{s≤t} w_ts z_s δ_sᵀ

with z_s the layer's input, δ_s the gradient at its output and S' what else the state holds, are
never written out: W_tᵀ x_t is a product of the chunk's (the dual form of arXiv:2407.04620). A mixer
says what a chunk makes of its tokens and of what has been learned; this file walks over the chunks
of packed rows and goes on with a stream, whose chunk that is not complete is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.sequence_parallel import by_parts, by_whole_rows
from seqzoo.models.ops.softmax.local_blocks import Recent, forget, latest, run_tags
from seqzoo.models.ops.softmax.packed_blocks import SegmentBlocks, blocks_by_tag, segment_blocks


class Chunk(NamedTuple):
    """Whose tokens a chunk holds; several short segments may share one."""

    on: Bool[Array, "B C"] | None  # tokens that begin with what has been learned; None: all
    tag: Int[Array, "B C"]  # of their segment, 0 where there is no token
    position: Int[Array, "B C"]  # in it

    @property
    def seen(self) -> Bool[Array, "B 1 C C"]:
        """Whether the second token is the first or one before it in its segment."""
        past = jnp.tri(self.tag.shape[1], dtype=bool)
        return ((self.tag[:, :, None] == self.tag[:, None]) & past)[:, None]

    def real(self, x: Float[Array, "B C ..."]) -> Float[Array, "B C ..."]:
        """x, and 0 where there is no token."""
        return _where(self.tag > 0, x)

    def learned(
        self, x: Float[Array, "B C H I"], W: Float[Array, "B H I O"]
    ) -> Float[Array, "B C H O"]:
        """Wᵀ x of what has been learned, 0 for tokens that begin without it."""
        y = jnp.einsum("BCHI,BHIO->BCHO", x, W)
        return y if self.on is None else _where(self.on, y)

    def layer(
        self,
        x: Float[Array, "B C H I"],
        first: Float[Array, "B H I O"],
        moved: Float[Array, "B H I O"],
    ) -> Float[Array, "B C H O"]:
        """W'ᵀ x, where W' is `first` and what it has moved by."""
        if self.on is None:
            return self.learned(x, first + moved)
        return jnp.einsum("BCHI,BHIO->BCHO", x, first) + self.learned(x, moved)

    def kept(self, W: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """What the chunk goes on from."""
        return W if self.on is None else _where(self.on[:, 0], W)


def told(
    x: Float[Array, "B C H I"],
    z: Float[Array, "B S H I"],
    slope: Float[Array, "B S H O"],
    weights: Float[Array, "B #H C S"],
) -> Float[Array, "B C H O"]:
    """(Σ_s w_ts z_s δ_sᵀ)ᵀ x_t: what the gradients of a chunk give each token."""
    return jnp.einsum("BHCS,BSHO->BCHO", jnp.einsum("BCHI,BSHI->BHCS", x, z) * weights, slope)


def taught(z: Float[Array, "B S H I"], slope: Float[Array, "B S H O"]) -> Array:
    """Σ_s z_s δ_sᵀ [B, H, I, O]."""
    return jnp.einsum("BSHI,BSHO->BHIO", z, slope)


class Learner(NamedTuple):
    """What a mixer makes of a chunk. Its tokens are (queries, rows) of `in_chunks`.

    Attributes:
        nothing: what has been learned before the first token, zeros.
        weigh: (tokens, where they stand) -> what does not wait for the chunks before. It is made of
            all chunks at once: TTT takes 0.83 of its time on a CPU with that.
        read: (tokens, that, what has been learned, where they stand) -> outputs, and what is
            learned behind a complete chunk.
    """

    nothing: PyTree[Float[Array, "B ..."]]
    weigh: Callable[[PyTree, Chunk], PyTree]
    read: Callable[[PyTree, PyTree, PyTree, Chunk], tuple[Array, PyTree]]


def in_chunks(
    learner: Learner,
    queries: Float[Array, "B L H K"],
    rows: PyTree[Float[Array, "B L ..."]],
    layout: Segments,
    size: int,
    state: tuple[PyTree, Recent] | None,
) -> tuple[Float[Array, "B L H V"], tuple[PyTree, Recent] | None]:
    """Outputs of all tokens, and the state after them where there is one before.

    Args:
        learner: what is done with each chunk.
        queries: what the tokens ask.
        rows: what they teach, which a stream keeps until their chunk is complete.
        layout: of the rows.
        size: tokens of a chunk.
        state: what had been learned at the start of the chunk that is not complete, and its tokens.
    """
    shape = queries.shape[:2]
    if layout.masked:
        queries, rows = jax.tree.map(lambda a: _where(layout.valid, a), (queries, rows))
    queries, rows = jax.tree.map(by_whole_rows, (queries, rows))
    if state is not None:
        o, state = _continued(learner, queries, rows, run_tags(layout, *shape), size, state)
        return by_parts(o), state
    blocks = segment_blocks(layout, *shape, size)
    o, _ = _walk(learner, (queries, rows), blocks)
    return by_parts(blocks.unpack(o, shape[1])), None


def no_tokens(batch: int, size: int, dtype: jnp.dtype, *shapes: tuple[int, ...]) -> Recent:
    """What a stream keeps before the first token; `shapes` are those of a token's `rows`."""
    return forget(tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes), batch, size)


def _continued(learner: Learner, queries, rows, tags: Int[Array, "B C"], size: int, state):
    """Outputs of the next tokens: the chunk that is not complete is read again."""
    learned, recent = state
    all_tags, every, count = recent.tagged(tags), recent.before(rows), queries.shape[1]
    blocks = blocks_by_tag(all_tags, size)
    front = jnp.zeros((queries.shape[0], recent.size, *queries.shape[2:]), queries.dtype)
    rank = blocks.unpack(blocks.position[..., None], all_tags.shape[1])[..., 0]
    last = latest(all_tags)
    total = jnp.max(jnp.where(last, rank + 1, 0), 1)  # tokens of the last segment, in these rows
    end = jnp.argmax(jnp.where(last, rank + 1, 0), 1)
    own = jnp.take_along_axis(blocks.place, end[:, None], 1)[:, 0] // size
    target = jnp.where(total > 0, own, -1), total % size == 0, all_tags.max(1) <= 1
    tokens = jnp.concatenate([front, queries], 1), every
    o, learned = _walk(learner, tokens, blocks, learned, target)
    kept = last & (rank >= (total - total % size)[:, None])
    return blocks.unpack(o, all_tags.shape[1])[:, -count:], (learned, recent.after(rows, kept))


def _walk(
    learner: Learner,
    tokens: PyTree[Float[Array, "B S ..."]],
    blocks: SegmentBlocks,
    learned: PyTree | None = None,
    target: tuple[Array, Array, Array] | None = None,
) -> tuple[Float[Array, "B N C H V"], PyTree]:
    """Outputs in blocks; and what has been learned up to the start of a chunk.

    `learned` is where the segment of tag 1 begins; `target` has the block whose start is asked for,
    whether its end is meant instead, and whether its segment is that of tag 1.
    """
    batch, count = jax.tree.leaves(tokens)[0].shape[0], blocks.number.shape[1]
    nothing, weigh, read = learner
    first = nothing if learned is None else learned
    terms = (jnp.arange(count)[None], blocks.number, blocks.tag, blocks.position)
    tokens, index, number, *place = jax.tree.map(
        lambda a: jnp.moveaxis(jnp.broadcast_to(a, (batch, *a.shape[1:])), 1, 0),
        (jax.tree.map(blocks.pack, tokens), *terms),
    )
    weights = jax.vmap(lambda tokens, *place: weigh(tokens, Chunk(None, *place)))(tokens, *place)

    def body(carry: tuple, x: tuple) -> tuple[tuple, Array]:
        before, saved = carry
        tokens, weights, index, number, tag, position = x
        goes_on = number > 0
        before = _pick(goes_on, before, first)
        on = None if learned is None else goes_on[:, None] | (tag == 1)
        o, after = read(tokens, weights, before, Chunk(on, tag, position))
        if target is not None:
            block, complete, oldest = target
            kept = jax.tree.map(lambda a: _where(goes_on | oldest, a), before)
            saved = _pick(index == block, _pick(complete, after, kept), saved)
        return (after, saved), o

    carry = (nothing, None if target is None else first)
    xs = (tokens, weights, index, number, *place)
    (_, saved), o = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), carry, xs)
    return jnp.moveaxis(o, 0, 1), saved


def _where(which: Bool[Array, "..."], x: Array) -> Array:
    return jnp.where(which.reshape(*which.shape, *(1,) * (x.ndim - which.ndim)), x, 0)


def _pick(which: Bool[Array, "B"], one: PyTree, other: PyTree) -> PyTree:
    def pick(a: Array, b: Array) -> Array:
        return jnp.where(which.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, one, other)
