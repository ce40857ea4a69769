import math

import numpy as np
import pytest

from analysis.numerics.statistics import paired_difference, summarize


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
