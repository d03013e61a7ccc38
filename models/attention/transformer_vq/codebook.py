"""Vector quantisation: the nearest codeword of a key, and what the keys of a code add up to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.sequence_parallel import parts

QUERIES = 128  # whose scores are made together, and that are quantised together


def quantize(
    k: Float[Array, "B L H K"], codebook: Float[Array, "H N K"]
) -> tuple[Int[Array, "B L H"], Float[Array, "B L H K"]]:
    """The number of the nearest codeword (the first of equals), and the codeword.

    Some tokens at a time, so that their distances to all codewords are never kept; tokens come last
    and the index is found by a second look, since a CPU compares many tokens at once, but not many
    numbers of one.
    """
    k, book = jax.lax.stop_gradient(k), jax.lax.stop_gradient(codebook)
    square = jnp.square(book).sum(-1)[:, :, None, None]
    number = jnp.arange(book.shape[1], dtype=jnp.int32)[:, None, None]

    def nearest(k: Float[Array, "B C H K"]) -> Int[Array, "B C H"]:
        distance = square - 2 * jnp.einsum("HNK,BCHK->HNBC", book, k)
        least = distance.min(axis=1, keepdims=True)
        first = jnp.where(distance == least, number, len(number)).min(axis=1)
        return jnp.moveaxis(first, 0, -1)

    length = k.shape[1]
    if length <= QUERIES or length % QUERIES or parts(length) > 1:
        codes = nearest(k)
    else:
        chunks = k.reshape(k.shape[0], -1, QUERIES, *k.shape[2:]).swapaxes(0, 1)
        codes = jax.lax.map(nearest, chunks).swapaxes(0, 1).reshape(k.shape[:3])
    return codes, book[jnp.arange(len(book)), codes]


def code_sums(
    k: Float[Array, "B L H K"],
    codes: Int[Array, "B L H"],
    real: Float[Array, "B L"],
    num_codes: int,
) -> tuple[Float[Array, "H N"], Float[Array, "H N K"]]:
    """How many real keys have each code, and their sums."""
    hot = one_hot(codes, num_codes, k.dtype) * real[:, None, None, :]
    return hot.sum((0, 3)), jnp.einsum("BHNL,BLHK->HNK", hot, k)


def one_hot(
    codes: Int[Array, "B L H"], num_codes: int, dtype: DTypeLike
) -> Float[Array, "B H N L"]:
    """1 where a token has a code, in the order in which it is multiplied by tokens."""
    codes = jnp.moveaxis(codes, 1, -1)[:, :, None]
    return (codes == jnp.arange(num_codes, dtype=codes.dtype)[:, None]).astype(dtype)
