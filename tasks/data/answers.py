"""Answers of several strings in a row of tokens: which of them are met as a whole.

`part` [L] says to which string a labelled position belongs, from 1 on; 0 belongs to none, as
separators do, which count in the loss alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqzoo.tasks.task import IGNORED


def strings_met(
    outputs: Float[Array, "B L V"], batch: Mapping[str, Array], count: int
) -> tuple[Bool[Array, "B count"], Bool[Array, "B count"]]:
    """Whether each string of a row is given without a mistake, and whether the row has it."""
    targets, part = batch["targets"], batch["part"]
    labelled = targets != IGNORED
    missed = labelled & (jnp.argmax(outputs, axis=-1) != targets)
    rows = jnp.arange(len(part))[:, None]
    at = jnp.zeros((len(part), count + 1), jnp.int32).at[rows, part]
    return at.add(missed)[:, 1:] == 0, at.add(labelled)[:, 1:] > 0


def readable(text: str, answer: str) -> str:
    """A text, long ones cut in the middle, and its answer."""
    short = text if len(text) < 400 else f"{text[:200]} [...] {text[-200:]}"
    return f"{short!r} -> {answer!r}"
