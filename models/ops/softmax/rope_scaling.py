"""Frequencies of rotary positions for rows longer than those that a model was trained on.

Each function gives K/2 frequencies and the factor of the rotated vectors, for `rope`. They are
constants, made in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqzoo.models.ops.softmax.rope import plain_frequencies


class Frequencies(NamedTuple):
    """Arguments of `rope`."""

    frequencies: np.ndarray  # [K/2], angle a position
    magnitude: float = 1.0


def linear_scaling(width: int, base: float, *, factor: float) -> Frequencies:
    """Positions divided by `factor` (Chen et al. 2023, arXiv:2306.15595)."""
    return Frequencies(plain_frequencies(width, base) / factor)


def ntk_scaling(width: int, base: float, *, factor: float) -> Frequencies:
    """A base so large that the lowest frequency is divided by `factor`, the highest kept.

    The "NTK-aware" form (bloc97 2023; Peng et al. 2023, arXiv:2309.00071, section 3.1).
    """
    return Frequencies(plain_frequencies(width, base * factor ** (width / (width - 2))))


def dynamic_ntk_scaling(
    width: int, base: float, *, factor: float, trained_length: int, length: int
) -> Frequencies:
    """`ntk_scaling` that grows with the row and leaves rows up to `trained_length` alone.

    Keys that are kept would have to be turned again whenever `length` changes, so it is for the
    parallel form only.
    """
    grown = max(1.0, factor * max(length, trained_length) / trained_length - (factor - 1))
    return ntk_scaling(width, base, factor=grown)


def yarn_scaling(
    width: int,
    base: float,
    *,
    factor: float,
    trained_length: int,
    fast: float = 32.0,
    slow: float = 1.0,
) -> Frequencies:
    """High frequencies kept, low ones divided by `factor`, a ramp between; longer vectors.

    YaRN (Peng et al. 2023, arXiv:2309.00071, eq. 19 to 22): kept are frequencies that turn more
    than `fast` times over `trained_length`, divided those that turn less than `slow` times.
    """

    def pair_that_turns(times: float) -> float:
        turn = math.log(trained_length / (times * 2 * math.pi))
        return width * turn / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(fast)), 0)
    high = min(math.ceil(pair_that_turns(slow)), width - 1)
    ramp = (np.arange(width // 2) - low) / max(high - low, 1e-3)
    divided = np.clip(ramp, 0, 1)
    plain = plain_frequencies(width, base)
    magnitude = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1
    return Frequencies(plain * (1 - divided) + plain / factor * divided, magnitude)


def llama3_scaling(
    width: int,
    base: float,
    *,
    factor: float,
    trained_length: int,
    slow: float = 1.0,
    fast: float = 4.0,
) -> Frequencies:
    """As YaRN's frequencies, with a ramp in turns over `trained_length` (Llama 3.1; Meta 2024)."""
    plain = plain_frequencies(width, base)
    turns = trained_length * plain / (2 * math.pi)
    kept = np.clip((turns - slow) / (fast - slow), 0, 1)
    return Frequencies(plain * kept + plain / factor * (1 - kept))


def longrope_scaling(
    width: int,
    base: float,
    *,
    factor: float,
    trained_length: int,
    divisors: Sequence[float],
) -> Frequencies:
    """Every frequency divided by a number of its own.

    LongRoPE (Ding et al. 2024, arXiv:2402.13753): `divisors` [K/2] were found by search, one list
    for short and one for long rows.
    """
    magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained_length))
    return Frequencies(plain_frequencies(width, base) / np.asarray(divisors), magnitude)
