"""Intervals and tests over seeds: Student's t, paired differences, Holm's correction.

A mean over n seeds has the half width t_{n-1} s / sqrt(n) (Student 1908). Seeds of one comparison
share their data order between models, so differences are paired by seed: exact where pairing helps
and merely conservative where it does not. Several comparisons are corrected by Holm (1979), and
only what is left of a p value then says that two models differ. Differences that are the same in
every seed have no spread, hence no p value: a t test of them would say nothing or certainty.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

CONFIDENCE = 0.95
Bounds = tuple[float, float]
UNBOUNDED, SHARE = (-math.inf, math.inf), (0.0, 1.0)
NO_SPREAD = 1e-9  # of the values: what differences vary by when they vary by rounding alone


class Interval(NamedTuple):
    """A mean with its confidence interval; `half_width` is NaN below two values.

    What cannot be beyond bounds has an interval that ends there, and covers as often as before.
    """

    mean: float
    half_width: float
    count: int
    bounds: Bounds = UNBOUNDED

    @property
    def low(self) -> float:
        """The lower end."""
        return max(self.mean - self.half_width, self.bounds[0])

    @property
    def high(self) -> float:
        """The upper end."""
        return min(self.mean + self.half_width, self.bounds[1])

    @property
    def cut(self) -> bool:
        """Whether it ends at a bound, so that its ends are not as far from the mean."""
        return self.mean - self.half_width < self.low or self.mean + self.half_width > self.high


class Difference(NamedTuple):
    """first - second over the seeds that both have, with a two-sided p of no difference."""

    first: str
    second: str
    interval: Interval
    p: float  # paired t test; NaN below two common seeds, and without spread
    p_adjusted: float  # Holm over all pairs of the comparison that have a p

    @property
    def verdict(self) -> str:
        """What may be said of the pair beside all others of the comparison."""
        if self.interval.count < 2:
            return "one seed"
        if math.isnan(self.p):
            return "the same in every seed" if self.interval.mean == 0 else "no spread to test"
        return "different" if self.p_adjusted < 1 - CONFIDENCE else "not told apart"


class Band(NamedTuple):
    """Mean and interval of several curves at each step."""

    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def interval(
    values: Sequence[float], confidence: float = CONFIDENCE, bounds: Bounds = UNBOUNDED
) -> Interval:
    """Mean and Student interval of the finite `values`; a value that is not finite is left out.

    Raises:
        ValueError: unless confidence lies in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), as in 0.95; got {confidence}")
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return Interval(math.nan, math.nan, 0, bounds)
    if x.size == 1:
        return Interval(float(x[0]), math.nan, 1, bounds)
    half_width = _quantile(x.size - 1, confidence) * x.std(ddof=1) / math.sqrt(x.size)
    return Interval(float(x.mean()), float(half_width), int(x.size), bounds)


def bounds_of(metric: str) -> Bounds:
    """What a metric cannot be beyond."""
    return SHARE if metric.endswith("accuracy") else UNBOUNDED


@functools.cache
def _quantile(freedom: int, confidence: float) -> float:
    from scipy import stats  # late: it takes a second, and most commands need no statistics

    return float(stats.t.ppf(0.5 + confidence / 2, freedom))


def paired_p(
    first: Float64[np.ndarray, "*pairs seeds"], second: Float64[np.ndarray, "*pairs seeds"]
) -> Float64[np.ndarray, "*pairs"]:
    """Two-sided p of the paired t test; NaN below two seeds and for differences without spread."""
    from scipy import stats

    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape[-1] < 2:
        return np.full(first.shape[:-1], np.nan)
    size = np.maximum(np.abs(first), np.abs(second)).max(-1)
    varies = (first - second).std(-1) > NO_SPREAD * size
    p = np.full(varies.shape, np.nan)
    p[varies] = stats.ttest_rel(first[varies], second[varies], axis=-1).pvalue
    return p


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
        both = [s for s in a if s in b and math.isfinite(a[s]) and math.isfinite(b[s])]
        x, y = (np.array([model[s] for s in both]) for model in (a, b))
        rows.append((interval(x - y, confidence), float(paired_p(x, y))))
    adjusted = holm([p for _, p in rows])
    return [
        Difference(first, second, spread, p, q)
        for (first, second), (spread, p), q in zip(pairs, rows, adjusted, strict=True)
    ]


def band(
    curves: Sequence[Mapping[float, float]],
    confidence: float = CONFIDENCE,
    bounds: Bounds = UNBOUNDED,
) -> Band:
    """Mean and interval at each step that some curve has; one curve alone has no width.

    Args:
        curves: step -> value, one mapping a seed; a value that is not finite is left out.
        confidence: of the interval at each step.
        bounds: where intervals end.
    """
    steps = sorted({step for curve in curves for step in curve})
    rows = [interval([c[s] for c in curves if s in c], confidence, bounds) for s in steps]
    kept = [(s, r) for s, r in zip(steps, rows, strict=True) if r.count]
    return Band(
        [s for s, _ in kept],
        [r.mean for _, r in kept],
        [r.mean if r.count == 1 else r.low for _, r in kept],
        [r.mean if r.count == 1 else r.high for _, r in kept],
    )
