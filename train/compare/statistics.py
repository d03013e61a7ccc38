"""Intervals and tests over seeds: Student's t, paired differences, Holm's correction.

A mean over n seeds has the half width t_{n-1} s / sqrt(n) (Student 1908). Seeds of one comparison
share their data order between models, so differences are paired by seed: exact where pairing helps
and merely conservative where it does not. Several comparisons are corrected by Holm (1979).
All of it is plain float64 NumPy on the host.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with a symmetric confidence interval; `half_width` is NaN below two values."""

    mean: float
    half_width: float
    count: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width


class Difference(NamedTuple):
    """first - second over the seeds that both have, with a two-sided p of no difference."""

    first: str
    second: str
    interval: Interval
    p: float  # paired t test; NaN below two common seeds
    p_adjusted: float  # Holm over all pairs of the comparison


class Band(NamedTuple):
    """Mean and interval of several curves at each step."""

    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean and Student interval of the finite `values`; a value that is not finite is left out.

    Raises:
        ValueError: unless confidence lies in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), as in 0.95; got {confidence}")
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return Interval(math.nan, math.nan, 0)
    if x.size == 1:
        return Interval(float(x[0]), math.nan, 1)
    t = stdtrit(x.size - 1, 0.5 + confidence / 2)
    return Interval(float(x.mean()), float(t * x.std(ddof=1) / math.sqrt(x.size)), int(x.size))


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t test; NaN below two differences."""
    d = np.asarray(differences, np.float64)
    if d.size < 2:
        return math.nan
    spread = d.std(ddof=1) / math.sqrt(d.size)
    if spread == 0:
        return 1.0 if d.mean() == 0 else 0.0
    return float(2 * stdtr(d.size - 1, -abs(d.mean()) / spread))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact two-sided p of the sign-flip permutation test; at best 2^(1-n), so use six or more.

    Raises:
        ValueError: for more than 16 differences, whose 2^n flips are too many to list.
    """
    d = np.asarray(differences, np.float64)
    if d.size > 16:
        raise ValueError(f"sign_flip_p lists 2^n sign flips and takes n <= 16; got n = {d.size}")
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=d.size)))
    sums = np.abs(signs @ d)
    # The slack keeps ties, which rounding would split, on the side of the null.
    return float(np.mean(sums >= abs(d.sum()) * (1 - 1e-12)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given; NaN stays NaN and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


def pairwise(
    values: Mapping[str, Mapping[int, float]], confidence: float = CONFIDENCE
) -> list[Difference]:
    """Every pair of models compared over the seeds that both have.

    Args:
        values: model -> seed -> final value; a value that is not finite counts as absent.
        confidence: of the intervals, which are of one pair each; `p_adjusted` is over all pairs.
    """
    pairs = list(itertools.combinations(values, 2))
    rows = []
    for first, second in pairs:
        a, b = values[first], values[second]
        d = [a[s] - b[s] for s in a if s in b and math.isfinite(a[s]) and math.isfinite(b[s])]
        rows.append((interval(d, confidence), paired_p(d)))
    adjusted = holm([p for _, p in rows])
    return [
        Difference(first, second, spread, p, q)
        for (first, second), (spread, p), q in zip(pairs, rows, adjusted, strict=True)
    ]


def band(curves: Sequence[Mapping[float, float]], confidence: float = CONFIDENCE) -> Band:
    """Mean and interval at each step that some curve has; one curve alone has no width.

    Args:
        curves: step -> value, one mapping a seed; a value that is not finite is left out.
        confidence: of the interval at each step.
    """
    steps = sorted({step for curve in curves for step in curve})
    rows = [interval([c[s] for c in curves if s in c], confidence) for s in steps]
    kept = [(s, r) for s, r in zip(steps, rows, strict=True) if r.count]
    width = [0.0 if math.isnan(r.half_width) else r.half_width for _, r in kept]
    return Band(
        [s for s, _ in kept],
        [r.mean for _, r in kept],
        [r.mean - w for (_, r), w in zip(kept, width, strict=True)],
        [r.mean + w for (_, r), w in zip(kept, width, strict=True)],
    )
