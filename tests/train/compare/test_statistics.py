import itertools
import math

import numpy as np
import pytest
from scipy import stats

from seqzoo.train.compare.statistics import (
    Difference,
    Interval,
    band,
    bounds_of,
    holm,
    interval,
    paired_p,
    pairwise,
)


def test_interval_has_the_tabulated_width():
    # t_{2, 0.975} = 4.30265 from any table; s = 1 for 1, 2, 3.
    got = interval([1.0, 2.0, 3.0])
    assert got.mean == 2.0
    assert got.count == 3
    assert abs(got.half_width - 4.30265 / math.sqrt(3)) < 1e-4
    assert got.low == got.mean - got.half_width


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rows = rng.normal(3.0, 2.0, (4000, 3))
    hits = np.mean([i.low <= 3.0 <= i.high for i in map(interval, rows)])
    assert abs(hits - 0.95) < 0.015  # 4.4 standard errors of a share of 0.95


def test_an_interval_of_shares_ends_with_the_range_and_covers_as_often():
    one = interval([1.0, 1.0, 0.0], bounds=bounds_of("accuracy"))
    assert (one.low, one.high, one.cut) == (0.0, 1.0, True)
    assert one.half_width > 1
    assert not interval([0.5, 0.51, 0.52], bounds=bounds_of("token_accuracy")).cut
    assert interval([0.1, 0.3], bounds=bounds_of("loss")).low < 0
    rng = np.random.default_rng(0)
    rows = rng.beta(2, 1, (4000, 3)).round(2)
    cut, whole = ([interval(x, bounds=b) for x in rows] for b in ((0, 1), (-np.inf, np.inf)))
    hits = [np.mean([i.low <= 2 / 3 <= i.high for i in found]) for found in (cut, whole)]
    assert hits[0] == hits[1]
    assert np.mean([i.cut for i in cut]) > 0.5
    alike = band([{0: 1.0, 1: 0.5}, {0: 0.9, 1: 0.5}], bounds=(0, 1))
    assert alike.high == [1.0, 0.5]


def test_interval_leaves_out_what_is_not_finite():
    assert interval([1.0, math.nan, 3.0, math.inf]).count == 2
    assert math.isnan(interval([1.0]).half_width)
    assert interval([]).count == 0


def test_interval_refuses_a_confidence_in_percent():
    with pytest.raises(ValueError, match="got 95"):
        interval([1.0, 2.0], confidence=95)


def test_paired_p_is_that_of_the_differences_in_each_pair():
    a, b = np.random.default_rng(1).normal(size=(2, 4, 7))
    for row, p in enumerate(paired_p(a, b)):
        d = a[row] - b[row]
        t = d.mean() / (d.std(ddof=1) / math.sqrt(7))
        assert abs(p - 2 * stats.t.sf(abs(t), 6)) < 1e-12


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], "no spread to test"),
        ([0.1 + 0.2, 0.5, 0.7], [0.3 - 0.2, 0.3, 0.5], "no spread to test"),  # but for rounding
        ([0.5, 0.7, 0.9], [0.5, 0.7, 0.9], "the same in every seed"),
        ([1e9, 1e9 + 1e-6], [1.0, 1.0], "no spread to test"),
        ([0.9], [0.1], "one seed"),
    ],
)
def test_differences_without_spread_have_no_p(first, second, verdict):
    values = {name: dict(enumerate(x)) for name, x in (("a", first), ("b", second))}
    (row,) = pairwise(values)
    assert row.verdict == verdict
    assert math.isnan(row.p)
    assert math.isnan(row.p_adjusted)


def test_a_pair_alone_may_differ_and_beside_others_not():
    rng = np.random.default_rng(0)
    values = {"a": {0: 1.0, 1: 1.1, 2: 1.25}, "b": {0: 0.6, 1: 0.5, 2: 0.9}}
    (alone,) = pairwise(values)
    assert alone.p < 0.05
    assert alone.verdict == "different"
    others = {f"m{i}": dict(enumerate(rng.normal(size=3))) for i in range(3)}
    beside = pairwise({**values, **others})[0]
    assert beside.p == alone.p
    assert beside.verdict == "not told apart"


def test_ten_equal_models_are_seldom_called_different():
    rng = np.random.default_rng(0)
    first, second = np.array(list(itertools.combinations(range(10), 2))).T
    finals = rng.normal(size=(1000, 10, 3))  # comparisons, models, seeds
    called = 0
    for p in paired_p(finals[:, first], finals[:, second]):
        spread = Interval(0.1, 0.1, 3)
        verdicts = [
            Difference("a", "b", spread, *pair).verdict for pair in zip(p, holm(p), strict=True)
        ]
        called += "different" in verdicts
    assert called / len(finals) < 0.07  # 0.05, and three standard errors


def test_holm_worked_example():
    # 0.01 * 4, 0.015 * 3, then max(0.045, 0.04 * 2), then max(0.08, 0.06 * 1).
    got = holm([0.06, 0.01, math.nan, 0.04, 0.015])
    assert np.allclose([got[i] for i in (1, 4, 3, 0)], [0.04, 0.045, 0.08, 0.08])
    assert math.isnan(got[2])


def test_pairwise_pairs_by_seed_and_not_by_order():
    values = {"a": {0: 1.0, 1: 5.0, 2: 9.0}, "b": {2: 8.0, 0: 0.5, 1: 3.5, 7: 99.0}}
    (row,) = pairwise(values)
    assert (row.first, row.second, row.interval.count) == ("a", "b", 3)
    assert row.interval.mean == 1.0
    assert abs(row.p - stats.ttest_rel([1.0, 5.0, 9.0], [0.5, 3.5, 8.0]).pvalue) < 1e-12


def test_pairwise_drops_a_failed_seed_from_its_pairs_only():
    values = {"a": {0: 1.0, 1: math.nan}, "b": {0: 2.0, 1: 3.0}, "c": {0: 4.0, 1: 4.0}}
    counts = [row.interval.count for row in pairwise(values)]
    assert counts == [1, 1, 2]


def test_band_at_the_steps_of_any_curve():
    got = band([{0: 1.0, 10: 2.0}, {0: 3.0, 10: math.nan, 20: math.nan}])
    assert got.steps == [0, 10]
    assert got.mean == [2.0, 2.0]
    assert abs((got.high[0] - got.low[0]) / 2 - interval([1.0, 3.0]).half_width) < 1e-12
    assert got.low[1] == got.high[1] == 2.0
