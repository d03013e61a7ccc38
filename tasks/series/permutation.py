"""JAX's random permutation of the years before 0.5, whose splits publications have.

`jax.random.permutation(key, n)` gave other orders until `jax_threefry_partitionable` became the
default; here are those, in NumPy, so that they outlive the option. Keys are pairs of words.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int64, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
Key = UInt32[np.ndarray, "2"]


def key_of(seed: int) -> Key:
    """`jax.random.PRNGKey(seed)` of a seed below 2^32."""
    return np.array([0, seed], np.uint32)


def split(key: Key, count: int = 2) -> UInt32[np.ndarray, "count 2"]:
    """`jax.random.split`."""
    return _words(key, 2 * count).reshape(count, 2)


def permutation(key: Key, size: int) -> Int64[np.ndarray, "size"]:
    """`jax.random.permutation` of the numbers below `size`: sorted by random words, in rounds."""
    order = np.arange(size)
    for _ in range(math.ceil(3 * math.log(max(1, size)) / math.log(2**32 - 1))):
        key, own = split(key)
        order = order[_words(own, size).argsort(kind="stable")]
    return order


def _words(key: Key, count: int) -> UInt32[np.ndarray, "count"]:
    """Threefry of the numbers below `count`, of which the second half are the second words."""
    numbers = np.arange(count + count % 2, dtype=np.uint32)
    numbers[count:] = 0
    first, second = np.split(numbers, 2)
    keys = (*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    with np.errstate(over="ignore"):
        first, second = first + keys[0], second + keys[1]
        for block in range(5):
            for turn in ROTATIONS[block % 2]:
                first = first + second
                second = first ^ (second << np.uint32(turn) | second >> np.uint32(32 - turn))
            first = first + keys[(block + 1) % 3]
            second = second + keys[(block + 2) % 3] + np.uint32(block + 1)
    return np.concatenate([first, second])[:count]
