"""What is done for XLA's CPU backend alone, so that it can be deleted together.

Each function says what the backend does without it and what that cost, measured with jax 0.10.2 and
float32 on two cores. They change programs, not results beyond the order of sums.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from seqzoo.models.ops.layout.sequence_parallel import parts
from seqzoo.models.ops.layout.sharding import undivided

VECTOR = 16  # numbers that a CPU's products take at once
HALVED = 2**18  # scores in one step, from which two halves are faster


def cos_sin_apart(angle: Float[Array, "..."]) -> Float[Array, "2 ..."]:
    """Cosines and sines, kept apart from what they are multiplied by.

    Else they are fused with it and computed again for every row and head: rotations of B=4, L=2048,
    H=4, K=128 take 31 ms instead of 7, forward and backward. A loop is never fused.
    """
    first = jnp.array([True, False])
    return jax.lax.map(lambda c: jnp.where(c, jnp.cos(angle), jnp.sin(angle)), first)


def squared_norm(x: Float[Array, "... K"]) -> Float[Array, "..."]:
    """|x|² as a product.

    A sum would be fused with its readers and done again for each of them, as for each of the
    features of a kernel.
    """
    return jnp.einsum("...k,...k->...", x, x)


def last_column_apart(values: int) -> tuple[int, ...]:
    """Widths of the columns of values that are multiplied apart; one width: all together.

    Products take columns by whole vectors, so that one more, as a normaliser's, costs a vector:
    linear attention of B=4, L=2048, V=32 and one takes 85 ms instead of 77, Performer 208 instead
    of 171.
    """
    return (values - 1, 1) if values >= VECTOR and values % VECTOR == 1 else (values,)


def worth_halving(batch: int, scores: int) -> bool:
    """Whether rows with so many scores in one step of a loop had better go in `halves`."""
    return undivided() and batch % 2 == 0 and scores >= HALVED


def halves(arrays: PyTree[Shaped[Array, "B ..."]]) -> tuple[PyTree, PyTree]:
    """The first and the second half of the rows; one row is for all.

    A product of a batch of small matrices has one thread, but what is independent runs at once: two
    halves in one step of a loop take 0.8 of the time (attention, B=4, H=4, K=32, L=2048; four parts
    0.85; H=1 or L=512 0.9).
    """

    def half(x: Array, second: bool) -> Array:
        middle = x.shape[0] // 2
        return x if x.shape[0] == 1 else x[middle:] if second else x[:middle]

    return tuple(
        jax.tree.map(functools.partial(half, second=second), arrays) for second in (False, True)
    )


def column_and_row(x: Float[Array, "... C 1"]) -> tuple[Array, Array]:
    """x and its transpose as two arrays, made before the loop whose bodies take differences.

    Where a fused loop reads both from one array, it takes the differences one by one, in eight
    times as long.
    """
    return x, jnp.swapaxes(x, -1, -2)


def with_rows_joined(
    f: Callable[[Float[Array, "N D"]], Float[Array, "N F"]], x: Float[Array, "... D"]
) -> Float[Array, "... F"]:
    """f(x) of an affine f, for which the rows of a batch and their steps are one axis.

    The gradient of its matrix is then one product of two matrices. Over two axes an operand is
    copied into another order first, which costs more than the product: projections around an
    elementwise map, 4 x 2,048 tokens of width 128, take 40 instead of 18 ms forward and backward.
    Steps that are divided over devices keep their axis, which could not stay divided.
    """
    if x.ndim < 3 or parts(x.shape[1]) > 1:
        return f(x)
    y = f(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def summed_outer(v: Float[Array, "L B I"], d: Float[Array, "L B O"]) -> Float[Array, "I O"]:
    """Σ v dᵀ; rows and steps that no devices divide are one axis, as in `with_rows_joined`."""
    if not undivided():
        return jnp.einsum("LBI,LBO->IO", v, d)
    return v.reshape(-1, v.shape[-1]).T @ d.reshape(-1, d.shape[-1])


def turned(kernel: Float[Array, "... I O"]) -> Float[Array, "... O I"]:
    """A transposed matrix, made before the loop that multiplies by it.

    A product with a matrix that is turned in the loop takes four times as long.
    """
    return jnp.swapaxes(kernel, -1, -2)


def one_by_one(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """f, which calls LAPACK; under `vmap` (over seeds, say) a loop over its calls.

    jaxlib gives the matrices of a batch to XLA's threads and waits for them on such a thread: as
    many batches at once as there are threads wait for ever. Seen on two cores, where two of an
    LSTM's gates met; a batch of one matrix is worked on at once.
    """
    return jax.custom_batching.sequential_vmap(f)
