import math

import numpy as np
import pytest

from analysis.numerics.statistics import (
    bootstrap_interval,
    paired_difference,
    paired_power,
    paired_test,
    seeds_needed,
    summarize,
)


def test_summary_agrees_with_a_worked_example():
    # t(0.975, 4 degrees of freedom) = 2.776 (any printed table); sd of 1…5 is sqrt(2.5).
    summary = summarize([1, 2, 3, 4, 5])
    assert (summary.n, summary.mean) == (5, 3)
    assert summary.sd == pytest.approx(math.sqrt(2.5))
    assert summary.high - summary.mean == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert summary.mean - summary.low == pytest.approx(summary.high - summary.mean)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    summaries = [summarize(rng.normal(0.9, 0.01, size=3), confidence=0.9) for _ in range(1500)]
    covered = np.mean([s.low <= 0.9 <= s.high for s in summaries])
    assert covered == pytest.approx(0.9, abs=0.025)


def test_one_seed_has_a_mean_and_no_spread():
    summary = summarize([0.8])
    assert (summary.n, summary.mean) == (1, 0.8)
    assert math.isnan(summary.sd)
    assert math.isnan(summary.low)
    assert math.isnan(summary.high)


def test_no_value_is_nan_and_not_zero():
    summary = summarize([])
    assert summary.n == 0
    assert math.isnan(summary.mean)


def test_a_value_that_could_not_be_computed_is_left_out_and_not_counted():
    assert summarize([0.5, math.nan, 0.7]).n == 2
    assert summarize([0.5, math.nan, 0.7]).mean == pytest.approx(0.6)


def test_differences_are_paired_by_seed():
    # Seeds differ much, the gain is always 0.01: only pairing sees it.
    baseline = {0: 0.5, 1: 0.7, 2: 0.9}
    values = {2: 0.91, 0: 0.51, 1: 0.71}
    difference = paired_difference(values, baseline)
    assert difference.mean == pytest.approx(0.01)
    assert difference.sd == pytest.approx(0, abs=1e-12)
    assert difference.low > 0


def test_seeds_without_a_partner_are_left_out():
    difference = paired_difference({0: 1.0, 1: 2.0, 5: 100.0}, {0: 0.0, 1: 0.0, 2: 50.0})
    assert (difference.n, difference.mean) == (2, 1.5)


def test_no_shared_seed_gives_no_difference():
    assert paired_difference({0: 1.0}, {1: 1.0}).n == 0


def test_paired_test_agrees_with_a_worked_example():
    # Differences .01, .03, .02: t = .02 / (.01 / sqrt(3)) = 3.464; p = 0.0742 of t with 2 degrees of freedom,
    # whose distribution function is 1/2 + t / (2 sqrt(2 + t²)).
    test = paired_test({0: 0.51, 1: 0.73, 2: 0.92}, {0: 0.5, 1: 0.7, 2: 0.9})
    t = math.sqrt(12)
    assert (test.n, test.t) == (3, pytest.approx(t))
    assert test.p == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_test_and_interval_agree_on_what_excludes_zero():
    rng = np.random.default_rng(3)
    for _ in range(50):
        values = dict(enumerate(rng.normal(0.02, 0.02, size=4)))
        zeros = dict.fromkeys(values, 0.0)
        difference = paired_difference(values, zeros)
        assert (paired_test(values, zeros).p < 0.05) == (difference.low > 0 or difference.high < 0)


@pytest.mark.parametrize(
    ("values", "baseline"),
    [
        ({0: 0.8}, {0: 0.7}),
        ({}, {}),
        ({0: 0.8, 1: math.nan}, {0: 0.7, 1: 0.5}),
        ({0: 0.6, 1: 0.8}, {0: 0.5, 1: 0.7}),  # both .1, up to rounding
        ({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}),
    ],
    ids=["one pair", "none", "one known", "no spread", "equal"],
)
def test_what_cannot_be_tested_has_no_p_value(values, baseline):
    test = paired_test(values, baseline)
    assert math.isnan(test.p)
    assert math.isnan(test.t)


def test_bootstrap_interval_lies_within_the_values_and_repeats_exactly():
    values = [0.8, 0.9, 0.85, 0.7]
    interval = bootstrap_interval(values, seed=5)
    assert interval == bootstrap_interval(values, seed=5)
    assert 0.7 <= interval.low < interval.mean < interval.high <= 0.9
    assert interval.mean == summarize(values).mean


def test_bootstrap_of_many_values_agrees_with_student():
    values = np.random.default_rng(0).normal(size=400)
    student, bootstrap = summarize(values), bootstrap_interval(values, n_replicates=10_000)
    assert bootstrap.low == pytest.approx(student.low, abs=0.01)
    assert bootstrap.high == pytest.approx(student.high, abs=0.01)


def test_bootstrap_of_three_seeds_is_as_much_too_narrow_as_documented():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(size=3), n_replicates=300) for _ in range(800)]
    assert np.mean([s.low <= 0 <= s.high for s in intervals]) == pytest.approx(0.75, abs=0.05)


def test_bootstrap_of_one_value_has_no_interval():
    assert math.isnan(bootstrap_interval([0.5]).low)
    assert bootstrap_interval([math.nan]).n == 0


def test_seeds_needed_agree_with_a_published_table():
    # Cohen (1988): a paired t test of effect 0.5 sd at alpha .05 two-sided and power .80 needs 34 pairs;
    # 0.8 sd needs 15 (the normal approximation gives 32 and 13).
    assert seeds_needed(1, 0.5) == 34
    assert seeds_needed(1, 0.8) == 15
    assert seeds_needed(0.02, -0.01) == 34


def test_so_many_seeds_find_the_difference_as_often_as_asked():
    n = int(seeds_needed(1, 1.2, power=0.9))
    rng = np.random.default_rng(0)
    found = rng.normal(1.2, 1, size=(20_000, n))
    t = found.mean(axis=1) / (found.std(axis=1, ddof=1) / math.sqrt(n))
    critical = {9: 2.306, 10: 2.262, 11: 2.228}[n]  # any printed table, n - 1 degrees of freedom
    assert np.mean(abs(t) > critical) == pytest.approx(paired_power(n, 1.2), abs=0.01)
    assert paired_power(n - 1, 1.2) < 0.9 <= paired_power(n, 1.2)


def test_power_without_an_effect_is_the_error_rate():
    assert paired_power(5, 0.0) == pytest.approx(0.05)


def test_seeds_needed_at_the_ends():
    assert seeds_needed(1e-6, 1.0) == 2
    assert seeds_needed(1.0, 0.0) == math.inf
    assert seeds_needed(1.0, 1e-5) == math.inf
    assert seeds_needed(1.0, 0.01) == pytest.approx((1.96 + 0.8416) ** 2 / 1e-4, rel=1e-3)
    for unknown in ((math.nan, 0.1), (0.1, math.nan), (0.0, 0.1)):
        assert math.isnan(seeds_needed(*unknown))


def test_wrong_arguments_of_seeds_needed_are_named():
    with pytest.raises(ValueError, match=r"a standard deviation is at least 0, got -1"):
        seeds_needed(-1, 0.1)
    with pytest.raises(ValueError, match=r"power must lie between 0.05 and 1, got 80"):
        seeds_needed(1, 0.1, power=80)
