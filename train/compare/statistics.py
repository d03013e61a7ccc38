"""Intervals and tests over seeds: Student's t, paired differences, Holm's correction.

A mean over n seeds has the half width t_{n-1} s / sqrt(n) (Student 1908). Where values have a range
that holds in the log odds of the mean, of positive values in its logarithm, so that the ends stay
inside (the delta method). A share of seeds has the exact interval of Clopper and Pearson (1934).

Seeds of one comparison share their data order between models, so differences are paired by seed:
exact where pairing helps and merely conservative where it does not. Several comparisons are
corrected by Holm (1979), and two models are called different where what is left of p says so and no
group of neighbours that holds both may be one model (`alike_p`): a t test of few seeds takes two
kinds of seeds, solved or not, for certainty. So it does, Holm or not, of two seeds, which therefore
get no verdict, and of differences that are the same in every seed, which have no p.

Of ten models that solve a task in half of their seeds, one will have solved it in all three and
another in none, and a t test of their differences, which hardly vary, is certain, whatever is
corrected. So a pair is told apart only if each group of three or more models that holds both and is
adjacent in the order of means is refused to be one: values are exchanged between its models, which
is exact for any distribution (Fisher 1935), and the levels grow with the group as those of Ryan,
Einot, Gabriel and Welsch (1975) do, so that the chance of a false difference anywhere in the table
stays what one test has. A pair alone has its t test. How often all this holds: docs/statistics.md.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

CONFIDENCE = 0.95
LEVEL = 0.05  # below which a p value says something
FEWEST = 3  # seeds of a verdict
Bounds = tuple[float, float]
UNBOUNDED, POSITIVE, SHARE = (-math.inf, math.inf), (0.0, math.inf), (0.0, 1.0)
LARGEST = 700.0  # number that has an exponential
LOPSIDED = 0.25  # relative difference of the two arms of an interval that is no longer "±"
NO_SPREAD = 1e-9  # of the values: what differences vary by when they vary by rounding alone
EXCHANGES = 1999  # random ones; with the values as they are a multiple of a thousand
SMALLEST = 3  # models of a group
ROUNDING = 1e-9  # of a statistic: exchanges that give the same


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
    separate: bool = False  # whether every seed of one is beyond every seed of the other

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
        if largest < LEVEL:
            return "different"
        return "too few seeds to tell" if self.separate else "not told apart"


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
    from scipy import special

    tail, missed = (1 - confidence) / 2, count - hits
    low = special.betaincinv(hits, missed + 1, tail) if hits else 0.0
    high = special.betaincinv(hits + 1, missed, 1 - tail) if missed else 1.0
    return float(low), float(high)


@functools.cache
def _quantile(freedom: int, confidence: float) -> float:
    from scipy import special  # late: most commands need no statistics; `stats` comes slowly

    return float(special.stdtrit(freedom, 0.5 + confidence / 2))


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
        rows.append((interval(x - y, confidence), float(paired_p(x, y)), _separate(x, y)))
    adjusted = holm([p for _, p, _ in rows])
    alike = alike_p(values, [pair for pair, q in zip(pairs, adjusted, strict=True) if q < LEVEL])
    return [
        Difference(*pair, spread, p, q, alike.get(frozenset(pair), 0.0), separate)
        for pair, (spread, p, separate), q in zip(pairs, rows, adjusted, strict=True)
    ]


def _separate(x: Float64[np.ndarray, " seeds"], y: Float64[np.ndarray, " seeds"]) -> bool:
    return bool(x.size and (x.min() > y.max() or y.min() > x.max()))


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


def alike_p(
    values: Mapping[str, Mapping[int, float]], pairs: Iterable[tuple[str, str]]
) -> dict[frozenset[str], float]:
    """Of each of these pairs the largest p of a group that holds both, at the whole table's level.

    Pairs that no group holds, as that of a table of two, are left out. A model without a finite
    value belongs to none.
    """
    finite = {m: [v for v in own.values() if math.isfinite(v)] for m, own in values.items()}
    finite = {m: np.asarray(own, np.float64) for m, own in finite.items() if own}
    order = sorted(finite, key=lambda model: float(finite[model].mean()))
    asked = [frozenset(pair) for pair in pairs]
    largest: dict[frozenset[str], float] = {}
    for size in range(SMALLEST, len(order) + 1):
        for first in range(len(order) - size + 1):
            group = order[first : first + size]
            held = [pair for pair in asked if pair <= {*group}]
            if not held:
                continue
            p = group_p([finite[model] for model in group])
            # A group of all but one is as rare as the whole table.
            times = len(order) / size if size < len(order) - 1 else 1.0
            for pair in held:
                largest[pair] = max(largest.get(pair, 0.0), 1 - (1 - p) ** times)
    return largest


def group_p(values: Sequence[Float64[np.ndarray, " seeds"]]) -> float:
    """p of the hypothesis that all values are of one distribution, whatever that is.

    The statistic is the sum of squares between models.
    """
    together = np.concatenate(values)
    together = together - together.mean()
    sizes = tuple(map(len, values))
    ends = np.cumsum((0, *sizes[:-1]))
    exchanged = together[np.vstack([np.arange(together.size), _orders(together.size)])]
    sums = np.add.reduceat(exchanged, ends, axis=1)
    between = (sums**2 / sizes).sum(1)
    return float(np.mean(between >= between[0] * (1 - ROUNDING)))


@functools.lru_cache(maxsize=64)
def _orders(count: int) -> Int64[np.ndarray, "exchanges count"]:
    """Orders of so many values, the same ones every time."""
    return np.argsort(np.random.default_rng(0).random((EXCHANGES, count)), axis=1)
