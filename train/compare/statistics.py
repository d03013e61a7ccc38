"""Intervals and tests over seeds: Student's t, paired differences, Holm's correction.

A mean over n seeds has the half width t_{n-1} s / sqrt(n) (Student 1908). Where values have a range
that holds in the log odds of the mean, of positive values in its logarithm, so that the ends stay
inside (the delta method). A share of seeds has the exact interval of Clopper and Pearson (1934).

Seeds of one comparison share their data order between models, so differences are paired by seed:
exact where pairing helps and merely conservative where it does not. Several comparisons are
corrected by Holm (1979), and two models are called different where what is left of p says so and no
group of neighbours that holds both may be one model (`neighbours.py`): a t test of few seeds takes
two kinds of seeds, solved or not, for certainty. So it does, Holm or not, of two seeds, which
therefore get no verdict, and of differences that are the same in every seed, which have no p.
How often all this holds is in docs/statistics.md.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from seqzoo.train.compare.neighbours import alike_p

CONFIDENCE = 0.95
LEVEL = 0.05  # below which a p value says something
FEWEST = 3  # seeds of a verdict
Bounds = tuple[float, float]
UNBOUNDED, POSITIVE, SHARE = (-math.inf, math.inf), (0.0, math.inf), (0.0, 1.0)
LARGEST = 700.0  # number that has an exponential
LOPSIDED = 0.25  # relative difference of the two arms of an interval that is no longer "±"
NO_SPREAD = 1e-9  # of the values: what differences vary by when they vary by rounding alone


class Interval(NamedTuple):
    """A mean with its confidence interval; `half_width` is NaN below two values."""

    mean: float
    half_width: float  # of Student's interval, which knows of no bounds
    count: int
    bounds: Bounds = UNBOUNDED

    @property
    def low(self) -> float:
        """The lower end."""
        return min(self._end(-self.half_width), self.mean)

    @property
    def high(self) -> float:
        """The upper end."""
        return max(self._end(self.half_width), self.mean)

    @property
    def lopsided(self) -> bool:
        """Whether one end is clearly further from the mean than the other."""
        arms = self.high - self.mean, self.mean - self.low
        return max(arms) > (1 + LOPSIDED) * min(arms)

    def _end(self, way: float) -> float:
        """Where `way` from the mean leads, on the scale that has no end at the bounds."""
        low, high = self.bounds
        if self.bounds == UNBOUNDED or math.isnan(way) or not low < self.mean < high:
            return self.mean + way
        below, above = self.mean - low, high - self.mean
        if high == math.inf:
            return low + below * math.exp(way / below)
        log_odds = math.log(below / above) + way * (high - low) / (below * above)
        return low + (high - low) / (1 + math.exp(min(-log_odds, LARGEST)))


class Difference(NamedTuple):
    """first - second over the seeds that both have, with a two-sided p of no difference."""

    first: str
    second: str
    interval: Interval
    p: float  # paired t test; NaN below two common seeds, and without spread
    p_adjusted: float  # Holm over all pairs of the comparison that have a p
    p_alike: float = 0.0  # of the likeliest group of neighbours that holds both; 0: not asked

    @property
    def verdict(self) -> str:
        """What may be said of the pair beside all others of the comparison."""
        if self.interval.count < 2:
            return "one seed"
        if math.isnan(self.p):
            return "the same in every seed" if self.interval.mean == 0 else "no spread to test"
        if self.interval.count < FEWEST:
            return "two seeds"
        largest = max(self.p_adjusted, self.p_alike)
        return "different" if largest < LEVEL else "not told apart"


class Band(NamedTuple):
    """Mean and interval of several curves at each step."""

    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def interval(
    values: Sequence[float], confidence: float = CONFIDENCE, bounds: Bounds = UNBOUNDED
) -> Interval:
    """Mean and interval of the finite `values`; a value that is not finite is left out.

    Values beyond their `bounds` have none.

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
    if x.min() < bounds[0] or x.max() > bounds[1]:
        bounds = UNBOUNDED
    half_width = _quantile(x.size - 1, confidence) * x.std(ddof=1) / math.sqrt(x.size)
    return Interval(float(x.mean()), float(half_width), int(x.size), bounds)


def bounds_of(metric: str) -> Bounds:
    """What a metric cannot be beyond: losses and errors are not negative."""
    return SHARE if metric.endswith("accuracy") else POSITIVE


def share_interval(hits: int, count: int, confidence: float = CONFIDENCE) -> Bounds:
    """The exact interval of a share, `hits` of `count` (Clopper and Pearson 1934)."""
    from scipy import stats

    tail, missed = (1 - confidence) / 2, count - hits
    low = stats.beta.ppf(tail, hits, missed + 1) if hits else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, missed) if missed else 1.0
    return float(low), float(high)


@functools.cache
def _quantile(freedom: int, confidence: float) -> float:
    from scipy import stats  # late: it takes a second, and most commands need no statistics

    return float(stats.t.ppf(0.5 + confidence / 2, freedom))


def paired_p(
    first: Float64[np.ndarray, "*pairs seeds"], second: Float64[np.ndarray, "*pairs seeds"]
) -> Float64[np.ndarray, "*pairs"]:
    """Two-sided p of the paired t test; NaN below two seeds and for differences without spread."""
    from scipy import special

    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    count = first.shape[-1]
    if count < 2:
        return np.full(first.shape[:-1], np.nan)
    size = np.maximum(np.abs(first), np.abs(second)).max(-1)
    differ = first - second
    varies = differ.std(-1) > NO_SPREAD * size
    spread = np.where(varies, differ.std(-1, ddof=1), np.nan)
    t = differ.mean(-1) / (spread / math.sqrt(count))
    return 2 * special.stdtr(count - 1, -np.abs(t))


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
    alike = alike_p(values, [pair for pair, q in zip(pairs, adjusted, strict=True) if q < LEVEL])
    return [
        Difference(*pair, spread, p, q, alike.get(frozenset(pair), 0.0))
        for pair, (spread, p), q in zip(pairs, rows, adjusted, strict=True)
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
