"""What attention is given, and which keys a query sees: tags (segments), order and distance."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.ops.softmax.relative import Term, Terms

# A score that no softmax feels, finite so that differences of two of them are no NaN.
LOW = -0.7 * float(np.finfo(np.float32).max)


class Rule(NamedTuple):
    """The static part."""

    causal: bool = False
    window: int | None = None
    by_index: bool = True  # positions are indices, so that blocks can be skipped
    term: Term | None = None  # makes what is added to the scores by distance

    @property
    def reads_positions(self) -> bool:
        """Whether positions matter at all."""
        return self.causal or self.window is not None


class Side(NamedTuple):
    """Queries or keys. Tags are None where all are of one segment."""

    positions: Int[Array, "#B N"]
    tags: Int[Array, "#B N"] | None = None


class Operands(NamedTuple):
    """What gradients are taken of; the bias may be None."""

    q: Float[Array, "B L H K"]
    k: Float[Array, "B S Hkv K"]
    v: Float[Array, "B S Hkv V"]
    bias: Float[Array, "#B #H #L #S"] | None = None
    terms: Terms = Terms()  # what the rule's term is made of


class Sight(NamedTuple):
    """What decides on visibility."""

    queries: Side
    keys: Side


def visible(rule: Rule, queries: Side, keys: Side) -> Bool[Array, "#B L S"] | None:
    """Whether query l sees key s; None where every query sees every key."""
    seen = []
    if queries.tags is not None:
        tags = jnp.where(queries.tags > 0, queries.tags, -1)  # so that 0 equals nothing
        seen.append(tags[..., :, None] == keys.tags[..., None, :])
    if rule.reads_positions:
        ahead = queries.positions[..., :, None] - keys.positions[..., None, :]
        if rule.causal:
            seen.append(ahead >= 0)
        if rule.window is not None:
            seen.append(ahead < rule.window)
            if not rule.causal:
                seen.append(ahead > -rule.window)
    if not seen:
        return None
    together = seen[0]
    for more in seen[1:]:
        together = together & more
    return together


def block_pairs(
    rule: Rule, tagged: bool, length: int, keys: int, block_q: int, block_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs [N, 2] of a query and a key block: those seen wholly, and those to be masked.

    Pairs in neither list hide every key. Keys from number `keys` on are padding of the last block.
    """
    i, j = np.indices((-(-length // block_q), -(-keys // block_k))).reshape(2, -1)
    nearest = i * block_q - (j + 1) * block_k + 1  # least and greatest query index minus key index
    farthest = (i + 1) * block_q - 1 - j * block_k
    some = np.ones(i.shape, bool)
    whole = (j + 1) * block_k <= keys
    if tagged or (rule.reads_positions and not rule.by_index):
        whole[:] = False
    if rule.causal and rule.by_index:
        some &= farthest >= 0
        whole &= nearest >= 0
    if rule.window is not None and rule.by_index:
        some &= nearest < rule.window
        whole &= farthest < rule.window
        if not rule.causal:
            some &= farthest > -rule.window
            whole &= nearest > -rule.window
    pairs = np.stack([i, j], axis=1).astype(np.int32)
    return pairs[whole], pairs[some & ~whole]
