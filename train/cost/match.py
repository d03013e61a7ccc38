"""Models made to cost the same: in parameters, operations, state or time.

The largest model stays as it is, or all come to a number that is given. What is turned, one after
another and as far as it must: the width of the feed-forward, or of what keeps the state, so that
the residual stream stays as wide for all; the stream's width; both; the depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import cost, step_flops
from seqzoo.train.cost.knobs import Knob, depth, expansion, measure_or_none, options, width
from seqzoo.train.cost.times import Times
from seqzoo.train.loop.program import make_program

Metric = Literal["parameters", "flops", "state", "time"]
TOLERANCE = 0.03  # relative difference within which models count as equal
NEAR = 0.25  # beyond which the nearest is not near, and nothing is matched
PROBES = 8  # of the interval of a knob
ENOUGH = {"parameters": 0.0, "state": 0.0, "flops": 0.003, "time": 0.02}  # as near as is sought
WORDS = {
    "parameters": "parameters",
    "flops": "operations a step",
    "state": "bytes of state",
    "time": "seconds a step",
}
Measure = Callable[[Experiment], float]


class Matched(NamedTuple):
    """A model at its new size."""

    experiment: Experiment
    size: float  # in the metric
    target: float
    turned: tuple[tuple[str, float], ...] = ()  # knobs and their new values

    @property
    def difference(self) -> float:
        """Relative, of the size from the target."""
        return self.size / self.target - 1

    def words(self, metric: Metric) -> str:
        """One line: how near, and by what."""
        by = ", ".join(f"{name} {value:.6g}" for name, value in self.turned) or "as it is"
        return f"{self.size:,.6g} {WORDS[metric]}, {self.difference:+.1%} ({by})"


def matched(
    models: Mapping[str, Experiment], metric: Metric, target: float = 0.0
) -> dict[str, Matched]:
    """Each model as near as it comes to `target`, by default to the largest of them.

    Raises ValueError for a model that comes nowhere near, or has nothing of what is matched.
    """
    if metric not in WORDS:
        raise ValueError(
            f"models cannot be matched in {metric!r}; choose one of {', '.join(WORDS)}"
        )
    measure = _measure(metric, models)
    sizes = {label: _size(label, e, metric, measure) for label, e in models.items()}
    goal = target or max(sizes.values())
    found = {}
    for label, experiment in models.items():
        start = Matched(experiment, sizes[label], goal)
        best = start if _equal(start) else _solved(start, metric, measure)
        if abs(best.difference) > NEAR:
            raise ValueError(
                f"{label} comes nowhere near the {goal:,.6g} {WORDS[metric]} of the others: "
                f"the nearest is {best.words(metric)}; give it another size, or leave out --match"
            )
        found[label] = best
    return found


def _measure(metric: Metric, models: Mapping[str, Experiment]) -> Measure:
    """What an experiment costs; each is measured once."""
    if metric == "time":
        # The first is as good as any: all are timed against it.
        plain: Measure = Times(next(iter(models.values())))
    elif metric == "flops":
        plain = lambda e: step_flops(make_program(e))  # noqa: E731
    else:
        name = {"parameters": "parameters", "state": "state_bytes"}[metric]
        plain = lambda e: float(cost(e)[name] or 0)  # noqa: E731
    known: dict[str, float] = {}

    def measure(experiment: Experiment) -> float:
        key = experiment.key()
        if key not in known:
            cost(experiment)  # raises, cheaply, where it cannot be
            known[key] = plain(experiment)
        return known[key]

    return measure


def _size(label: str, experiment: Experiment, metric: Metric, measure: Measure) -> float:
    size = measure(experiment)
    if not size:
        raise ValueError(f"{label} has no state (it sees whole rows at once): match another cost")
    return size


def _equal(found: Matched) -> bool:
    return abs(found.difference) <= TOLERANCE


def _solved(start: Matched, metric: Metric, measure: Measure) -> Matched:
    """The first that is near enough, else the nearest of all that were tried."""
    best = start
    for found in _tries(start, metric, measure):
        best = min((best, found), key=_distance)
        if _equal(best):
            return best
    while metric != "time":  # the cheap ones go on from the nearest, as long as that helps
        base = best
        for knob in _knobs(base, metric, measure):
            best = min((best, *turn(base, knob, measure, metric)), key=_distance)
        if _equal(best) or best is base:
            break
    return best


def _distance(found: Matched) -> float:
    return abs(found.difference)


def _can_be(experiment: Experiment) -> bool:
    return bool(cost(experiment))


def _knobs(base: Matched, metric: Metric, measure: Measure) -> Iterator[Knob]:
    """All but the depth."""
    yield from options(base.experiment, measure)
    yield from width(base.experiment, _can_be)
    if metric != "state":
        yield from expansion(base.experiment)


def _tries(start: Matched, metric: Metric, measure: Measure) -> Iterator[Matched]:
    """The best of each knob, from the least change to the greatest."""

    def fine(base: Matched) -> Iterator[Knob]:
        return (
            options(base.experiment, measure) if metric == "state" else expansion(base.experiment)
        )

    def rest(base: Matched) -> Iterator[Knob]:
        cheap = metric in ("parameters", "flops")  # of time each probe is a compilation
        return options(base.experiment, measure) if cheap else iter(())

    def along(base: Matched, knobs: Iterator[Knob]) -> Iterator[Matched]:
        for knob in knobs:
            yield from turn(base, knob, measure, metric)

    yield from along(start, fine(start))
    for coarse in (width(start.experiment, _can_be), depth(start.experiment)):
        bases = [*along(start, coarse)]
        yield from bases
        for more in (fine, rest):
            for base in bases:
                yield from along(base, more(base))


def turn(base: Matched, knob: Knob, measure: Measure, metric: Metric) -> list[Matched]:
    """The nearest along a knob, and the nearest from below if that is another; [] if none helps."""
    target, tried = base.target, {knob.now: base.size}

    def at(value: float) -> float | None:
        if value not in tried:
            tried[value] = measure_or_none(measure, knob.turned, value)
        return tried[value]

    if knob.values:
        for value in knob.values:
            at(value)
    elif ends := _ends(knob, at, target, metric):
        _between(ends, at, target, knob.step, metric)
    known = {v: size for v, size in tried.items() if size and size != base.size}
    near = sorted(known, key=lambda v: abs(known[v] - target))[:1]
    below = sorted((v for v in known if known[v] <= target), key=known.get)[-1:]
    return [
        Matched(knob.turned(v), known[v], target, (*base.turned, (knob.name, v)))
        for v in dict.fromkeys([*near, *below])
    ]


At = Callable[[float], float | None]  # the size at a knob's value; None where it cannot be
Point = tuple[float, float]  # a knob's value and the size


def _ends(knob: Knob, at: At, target: float, metric: Metric) -> tuple[Point, Point] | None:
    """Two values of the knob with the target between them, the smaller first."""
    now, size, slope = knob.now, at(knob.now), 0.0
    up = size < target
    if up and not knob.step and metric != "time":
        most = at(knob.most)
        return ((now, size), (knob.most, most)) if most and most > target else None
    while True:
        wanted = now * (2.0 if up else 0.5)
        if metric == "time":  # each probe is a compilation: as far as it may take, at once
            wanted = now * _far(target / size, knob)
            if slope > 0:
                wanted = min(now + (target - size) / slope, knob.most)
        then = _on_grid(wanted, knob)
        found = at(then) if 0 < then <= knob.most and then != now else None
        if found is None or found == size:  # the end, or nothing that this knob decides
            return None
        if metric == "time" and abs(found - target) <= ENOUGH[metric] * target:
            return None  # there is nothing to look for between
        if (found >= target) == up:
            pair = ((now, size), (then, found))
            return pair if up else pair[::-1]
        slope = (found - size) / (then - now)
        now, size = then, found


def _far(ratio: float, knob: Knob) -> float:
    """A factor of a knob that changes a step's time by `ratio` and, as a rule, a little more."""
    if knob.step:
        return ratio * (1.1 if ratio > 1 else 0.9)
    share = 0.2  # of the time that depends on the feed-forward's width
    return max(1 + (ratio - 1) / share, 0.25)


def _on_grid(value: float, knob: Knob) -> float:
    if not knob.step:
        return value
    return knob.now + round((value - knob.now) / knob.step) * knob.step


def _between(ends: tuple[Point, Point], at: At, target: float, step: int, metric: Metric) -> None:
    """Probes by false position: a straight line, of logarithms for whole numbers."""
    (low, least), (high, most) = ends
    for _ in range(PROBES):
        if not least < target < most or (step and high - low <= step):
            break
        if step:
            share = math.log(target / least) / math.log(most / least)
            wanted = low * (high / low) ** share
            middle = min(max(low + round((wanted - low) / step) * step, low + step), high - step)
        else:
            middle = low + (high - low) * (target - least) / (most - least)
        size = at(middle)
        if size in (None, least, most) or abs(size - target) <= ENOUGH[metric] * target:
            break
        low, high = (middle, high) if size < target else (low, middle)
        least, most = (size, most) if size < target else (least, size)
