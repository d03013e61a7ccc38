"""Groups of models that may be one: what keeps lucky seeds from being called a difference.

A task that is solved or not has two kinds of seeds. Of ten models that solve it in half of their
seeds, one will have solved it in all three and another in none, and a t test of their differences,
which hardly vary, is certain, whatever is corrected. So a pair is told apart only if each group of
three or more models that holds both and is adjacent in the order of means is refused to be one:
values are exchanged between its models, which is exact for any distribution (Fisher 1935), and the
levels grow with the group as those of Ryan, Einot, Gabriel and Welsch (1975) do, so that the chance
of a false difference anywhere in the table stays what one test has. A pair alone has its t test.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64

EXCHANGES = 1999  # random ones; with the values as they are a multiple of a thousand
SMALLEST = 3  # models of a group
ROUNDING = 1e-9  # of a statistic: exchanges that give the same


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
