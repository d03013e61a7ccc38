import math

import numpy as np
import pytest
from scipy import stats

from seqzoo.train.compare.statistics import (
    POSITIVE,
    SHARE,
    alike_p,
    band,
    bounds_of,
    group_p,
    holm,
    interval,
    paired_p,
    pairwise,
    share_interval,
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


COVERED = {  # drawn, bounds, its true mean, the least share that three, five, ten seeds cover it
    "normal": (lambda rng, s: rng.normal(0.7, 0.05, s), SHARE, 0.7, (0.93, 0.93, 0.93)),
    "near one": (lambda rng, s: rng.beta(60, 1, s), SHARE, 60 / 61, (0.93, 0.91, 0.91)),
    "ties": (lambda rng, s: rng.binomial(20, 0.9, s) / 20, SHARE, 0.9, (0.92, 0.93, 0.93)),
    "wide": (lambda rng, s: rng.beta(2, 1, s), SHARE, 2 / 3, (0.93, 0.93, 0.93)),
    "error": (lambda rng, s: np.exp(rng.normal(0, 0.3, s)), POSITIVE, math.exp(0.045), (0.93,) * 3),
}


@pytest.mark.parametrize("shape", COVERED)
def test_intervals_stay_in_range_and_cover_for_any_shape(shape):
    draw, bounds, mean, least = COVERED[shape]
    rng = np.random.default_rng(0)
    for count, share in zip((3, 5, 10), least, strict=True):
        found = [interval(x, bounds=bounds) for x in draw(rng, (1500, count))]
        assert all(bounds[0] <= i.low <= i.mean <= i.high <= bounds[1] for i in found)
        assert np.mean([i.low <= mean <= i.high for i in found]) > share, count


def test_the_ends_of_an_interval_are_those_of_its_scale():
    one = interval([1.0, 1.0, 0.0], bounds=SHARE)
    half = 4.30265 / 3  # t times the standard error, which is a third
    assert abs(one.half_width - half) < 1e-4
    shift = half / (1 / 3 * 2 / 3)  # of the log odds, log 2
    assert abs(one.high - 1 / (1 + math.exp(-math.log(2) - shift))) < 1e-6
    assert 0 < one.low < one.mean < one.high < 1
    assert one.lopsided
    assert not interval([0.5, 0.51, 0.52], bounds=SHARE).lopsided
    error = interval([1.0, 1.0, 0.1], bounds=POSITIVE)
    assert abs(error.high - 0.7 * math.exp(error.half_width / 0.7)) < 1e-12
    assert error.low > 0
    assert interval([1.0, 1.0, 1.0], bounds=SHARE)[:2] == (1.0, 0.0)
    assert interval([1.0, 1.0, 1.0], bounds=SHARE).low == 1.0
    assert interval([-1.0, 1.0], bounds=POSITIVE).low < -1  # it is no such metric
    assert interval([1 - 1e-12, 1.0], bounds=SHARE).high == 1.0
    assert (bounds_of("token_accuracy"), bounds_of("mse")) == (SHARE, POSITIVE)
    alike = band([{0: 1.0, 1: 0.5}, {0: 0.9, 1: 0.5}], bounds=SHARE)
    assert alike.high[0] < 1.0
    assert alike.high[1] == 0.5


def test_a_share_of_seeds_has_the_exact_interval():
    # Clopper and Pearson's own: for 0 of n one-sided 1 - (alpha / 2)^(1 / n).
    assert share_interval(0, 3) == (0.0, pytest.approx(1 - 0.025 ** (1 / 3)))
    assert share_interval(3, 3) == (pytest.approx(0.025 ** (1 / 3)), 1.0)
    low, high = share_interval(2, 3)
    assert abs(stats.binom.sf(1, 3, low) - 0.025) < 1e-9
    assert abs(stats.binom.cdf(2, 3, high) - 0.025) < 1e-9


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
    assert beside.verdict == "too few seeds to tell"


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        ((0.71, 0.08, 0.12), "too few seeds to tell"),  # each below each: no small p, and no draw
        ((0.99, 0.08, 0.12), "not told apart"),
        ((0.1, 0.08, 0.12), "different"),
    ],
)
def test_a_pair_whose_seeds_do_not_overlap_is_not_called_level(second, verdict):
    (row,) = pairwise({"a": {0: 1.0, 1: 1.0, 2: 0.985}, "b": dict(enumerate(second))})
    assert row.verdict == verdict
    (row,) = pairwise({"b": dict(enumerate(second)), "a": {0: 1.0, 1: 1.0, 2: 0.985}})
    assert row.verdict == verdict


def test_two_seeds_are_too_few_for_a_verdict():
    (row,) = pairwise({"a": {0: 1.0, 1: 1.001}, "b": {0: 0.0, 1: 0.0}})
    assert row.p < 0.01
    assert row.verdict == "two seeds"


SHAPES = {  # of the values of one model's seeds
    "normal": lambda rng, size: rng.normal(size=size),
    "solved or not": lambda rng, size: rng.choice([0.2, 0.99], size) + rng.normal(0, 0.005, size),
    "seldom solved": lambda rng, size: (
        np.where(rng.random(size) < 0.2, 0.99, 0.2) + rng.normal(0, 0.005, size)
    ),
    "skewed": lambda rng, size: np.exp(rng.normal(size=size)),
    "near one": lambda rng, size: rng.beta(60, 1, size),
    "ties": lambda rng, size: rng.binomial(20, 0.9, size) / 20,
}


def called(rng, shape, models, seeds, times):
    """Share of comparisons of equal models in which some pair is called different."""
    hits = 0
    for _ in range(times):
        drawn = SHAPES[shape](rng, (models, seeds))
        rows = pairwise({f"m{i}": dict(enumerate(own)) for i, own in enumerate(drawn)})
        hits += any(row.verdict == "different" for row in rows)
    return hits / times


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_model_twice_is_seldom_called_different(shape):
    rng = np.random.default_rng(5)
    for seeds in (3, 5, 10):
        share = called(rng, shape, 2, seeds, 200)
        assert share <= 0.07, seeds


@pytest.mark.of_the_day
@pytest.mark.parametrize("shape", SHAPES)
def test_ten_equal_models_are_seldom_called_different(shape):
    """Student's t with Holm alone: in half of those with three seeds that solve it or not."""
    rng = np.random.default_rng(0)
    for seeds in (3, 5):
        share = called(rng, shape, 10, seeds, 60)
        assert share <= 0.07, seeds


def test_models_that_differ_are_told_apart_beside_each_other():
    """What is paid for that: nothing where models lie ten of their spreads apart."""
    rng = np.random.default_rng(0)
    means = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
    told = []
    for _ in range(20):
        drawn = means[:, None] + rng.normal(0, 0.01, (6, 5))
        rows = pairwise({f"m{i}": dict(enumerate(own)) for i, own in enumerate(drawn)})
        told += [row.verdict == "different" for row in rows]
    assert np.mean(told) > 0.99


def test_a_group_is_one_model_as_often_as_exchanges_say():
    # Of the 20 ways to divide six values among two models, two are as far apart.
    assert abs(group_p([np.arange(3.0), np.arange(3.0) + 10]) - 0.1) < 0.02
    assert group_p([np.ones(3), np.ones(3), np.ones(3)]) == 1.0
    apart = group_p([np.arange(5.0), np.arange(5.0) + 10, np.arange(5.0) + 20])
    assert apart < 0.005
    values = {m: {0: float(i), 1: i + 0.1} for i, m in enumerate("abcd")}
    assert alike_p({m: values[m] for m in "ab"}, ["ab"]) == {}
    first, last = alike_p(values, ["ab", "ad"]).values()
    groups = [group_p([np.array([*values[m].values()]) for m in held]) for held in ("abc", "abcd")]
    assert (first, last) == pytest.approx((max(groups), groups[1]))


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
