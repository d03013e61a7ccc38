"""Rows in blocks, and what pairs of blocks read and add to: terms of a rule, tiles of a bias.

Queries are [n, B, Hkv, G b, K], where the G = H / Hkv heads that share a key head are stacked as
rows, so that keys are not repeated; keys [n, B, Hkv, b, K].
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqzoo.models.ops.softmax.masks import Operands, Rule, Side, Sight
from seqzoo.models.ops.softmax.relative import Terms, pull_back


class Plan(NamedTuple):
    """The sizes of one call; static."""

    rule: Rule
    scale: float
    tagged: bool
    most: int  # of a block
    groups: int  # queries' heads for each key head
    length: int
    keys: int
    block_q: int
    block_k: int


class Blocks(NamedTuple):
    """The arguments in blocks, the block's number first."""

    q: Float[Array, "n B Hkv Gb K"]
    k: Float[Array, "m B Hkv b K"]
    v: Float[Array, "m B Hkv b V"]
    bias: Float[Array, "#B #Hkv #G #L #S"] | None  # padded, not in blocks
    terms: Terms  # [n B Hkv Gb M] by query, [m B Hkv Gb M] by key
    queries: Side
    keys: Side


def split(plan: Plan, operands: Operands, sight: Sight) -> Blocks:
    """All arguments in blocks."""
    keys = sight.keys
    if not plan.tagged and plan.keys % plan.block_k:  # tags hide the padding of the last block
        ones = jnp.ones((1, plan.keys), jnp.int32)
        sight = Sight(sight.queries._replace(tags=jnp.ones((1, plan.length), jnp.int32)), keys)
        sight = sight._replace(keys=keys._replace(tags=ones))
    return Blocks(
        cut(operands.q, plan.groups, plan.block_q),
        cut(operands.k, 1, plan.block_k),
        cut(operands.v, 1, plan.block_k),
        None if operands.bias is None else pad_bias(plan, operands.bias),
        _cut_terms(plan, operands.terms),
        jax.tree.map(lambda x: _cut_row(x, plan.block_q), sight.queries),
        jax.tree.map(lambda x: _cut_row(x, plan.block_k), sight.keys),
    )


def cut(x: Float[Array, "B L H K"], groups: int, block: int, fill: float = 0) -> Array:
    """Queries or keys in blocks, `fill` behind the last token."""
    batch, _, heads, width = x.shape
    x = _pad_axis(x, 1, block, fill)
    x = x.reshape(batch, -1, block, heads // groups, groups, width)
    x = x.transpose(1, 0, 3, 4, 2, 5)
    return x.reshape(*x.shape[:3], groups * block, width)


def join(x: Float[Array, "n B Hkv Gb K"], groups: int, length: int) -> Array:
    """Blocks as rows again: what `cut` has cut."""
    n, batch, heads, rows, width = x.shape
    x = x.reshape(n, batch, heads, groups, rows // groups, width).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(batch, -1, heads * groups, width)[:, :length]


def _cut_row(x: Array, block: int) -> Array:
    x = _pad_axis(x, 1, block)
    return x.reshape(x.shape[0], -1, block).swapaxes(0, 1)


def _pad_axis(x: Array, axis: int, block: int, fill: float = 0) -> Array:
    missing = -x.shape[axis] % block
    if not missing:
        return x
    widths = [(0, missing if a == axis else 0) for a in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=fill)


def at(x: Array, i) -> Array:
    """Block i."""
    return jax.lax.dynamic_index_in_dim(x, i, keepdims=False)


def put(x: Array, new: Array, i) -> Array:
    """`x` with `new` as block i."""
    return jax.lax.dynamic_update_index_in_dim(x, new, i, 0)


def add(x: Array, more: Array, i) -> Array:
    """`x` with `more` added to block i."""
    return put(x, at(x, i) + more, i)


# Terms of the rule: rows of numbers in blocks like queries and keys; what is shared stays whole.


def _cut_terms(plan: Plan, terms: Terms) -> Terms:
    shared, by_query, by_key = terms
    return Terms(
        shared,
        None if by_query is None else cut(by_query, plan.groups, plan.block_q),
        None if by_key is None else cut(by_key, plan.groups, plan.block_k),
    )


def join_terms(plan: Plan, terms: Terms) -> Terms:
    """The rows that `split` has cut."""
    shared, by_query, by_key = terms
    return Terms(
        shared,
        None if by_query is None else join(by_query, plan.groups, plan.length),
        None if by_key is None else join(by_key, plan.groups, plan.keys),
    )


def terms_of(plan: Plan, blocks: Blocks, i, j) -> tuple[Terms, Array]:
    """What the term is called with for a pair of blocks: [B, H, b, M] each, and distances."""
    shared, by_query, by_key = blocks.terms
    if by_query is not None:
        by_query = _flat_heads(at(by_query, i), plan.groups, plan.block_q)
    if by_key is not None:
        by_key = _flat_heads(at(by_key, j), plan.groups, plan.block_k)
    at_query, at_key = at(blocks.queries.positions, i), at(blocks.keys.positions, j)
    return Terms(shared, by_query, by_key), at_query[:, :, None] - at_key[:, None]


def _flat_heads(x: Array, groups: int, block: int) -> Float[Array, "B H b M"]:
    return x.reshape(x.shape[0], x.shape[1] * groups, block, x.shape[-1])


def by_heads(apart: Array) -> Float[Array, "B H b c"]:
    """Scores with one axis of heads."""
    return apart.reshape(apart.shape[0], -1, *apart.shape[3:])


def add_terms(plan: Plan, dterms: Terms, blocks: Blocks, ds: Array, i, j) -> Terms:
    """Gradients of the terms with those of a pair of blocks, whose scores have `ds`."""
    if not jax.tree.leaves(dterms):
        return dterms
    terms, ahead = terms_of(plan, blocks, i, j)
    ds = ds.reshape(ds.shape[0], -1, plan.block_q, plan.block_k)
    shared, by_query, by_key = pull_back(plan.rule.term, terms, ahead, ds)
    return Terms(
        jax.tree.map(jnp.add, dterms.shared, shared),
        _add_rows(dterms.by_query, by_query, i),
        _add_rows(dterms.by_key, by_key, j),
    )


def _add_rows(x: Array | None, more: Array | None, i) -> Array | None:
    return None if x is None else add(x, more.reshape(x.shape[1:]), i)


# The bias stays one array, of which every pair of blocks reads a tile; axes of size 1 broadcast.


def pad_bias(plan: Plan, bias: Array) -> Array:
    """A bias that whole blocks read: [B, Hkv, G, L, S]."""
    batch, heads, length, keys = bias.shape
    split = (1, 1) if heads == 1 else (heads // plan.groups, plan.groups)
    bias = bias.reshape(batch, *split, length, keys)
    if length > 1:
        bias = _pad_axis(bias, 3, plan.block_q)
    return _pad_axis(bias, 4, plan.block_k) if keys > 1 else bias


def trim_bias(padded: Array, bias: Array) -> Array:
    """A bias as it came."""
    return padded[..., : bias.shape[2], : bias.shape[3]].reshape(bias.shape)


def tile(plan: Plan, bias: Array, i, j) -> tuple[tuple, tuple[int, ...]]:
    """Where the tile of a pair of blocks begins, and its size."""
    start, size = [jnp.zeros_like(i)] * 5, list(bias.shape)
    if bias.shape[3] > 1:
        start[3], size[3] = i * plan.block_q, plan.block_q
    if bias.shape[4] > 1:
        start[4], size[4] = j * plan.block_k, plan.block_k
    return tuple(start), tuple(size)


def add_tile(plan: Plan, dbias: Array, ds: Array, i, j) -> Array:
    """The gradient of a bias with that of a pair of blocks."""
    start, size = tile(plan, dbias, i, j)
    apart = ds.reshape(*ds.shape[:2], plan.groups, plan.block_q, plan.block_k)
    summed = tuple(a for a in range(5) if size[a] == 1)
    new = jax.lax.dynamic_slice(dbias, start, size) + apart.sum(summed, keepdims=True)
    return jax.lax.dynamic_update_slice(dbias, new, start)
