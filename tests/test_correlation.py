import itertools
import math

import numpy as np
import pytest

from analysis.numerics.correlation import logit_accuracy, network_effects, pearson, spearman


def average_ranks(values):
    """Ranks from 1, of equal values the middle of their places, by counting."""
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


def plain_pearson(x, y):
    x, y = np.asarray(x) - np.mean(x), np.asarray(y) - np.mean(y)
    return (x @ y) / math.sqrt((x @ x) * (y @ y))


def test_spearman_with_ties_is_the_correlation_of_average_ranks():
    x, y = [1.0, 2.0, 2.0, 5.0, 7.0, 7.0], [3.0, 1.0, 4.0, 4.0, 4.0, 9.0]
    assert spearman(x, y).estimate == pytest.approx(plain_pearson(average_ranks(x), average_ranks(y)))


def test_spearman_without_ties_agrees_with_the_textbook_formula():
    x, y = [10, 20, 30, 40, 50], [1, 3, 2, 5, 4]
    # 1 - 6 sum d² / (n (n² - 1)) with d² = 0, 1, 1, 1, 1.
    assert spearman(x, y).estimate == pytest.approx(1 - 6 * 4 / (5 * 24))


def test_spearman_sees_order_only():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 12))
    plain, bent = spearman(x, y), spearman(np.exp(5 * x), -1 / y)
    assert plain.estimate == pytest.approx(bent.estimate)
    assert (plain.low, plain.high, plain.p) == pytest.approx((bent.low, bent.high, bent.p))


def test_correlation_is_symmetric_and_changes_sign_with_one_side():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 9))
    assert pearson(x, y).estimate == pytest.approx(pearson(y, x).estimate)
    assert pearson(x, -y).estimate == pytest.approx(-pearson(x, y).estimate)


def test_p_of_few_points_counts_every_order():
    x, y = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    orders = list(itertools.permutations(y))
    extreme = [abs(plain_pearson(x, order)) >= abs(plain_pearson(x, y)) - 1e-9 for order in orders]
    assert pearson(x, y).p == pytest.approx(np.mean(extreme))


def test_three_points_in_order_prove_little():
    found = spearman([1, 2, 3], [4, 5, 6])
    assert found.estimate == pytest.approx(1)
    assert found.p == pytest.approx(2 / 6)
    assert math.isnan(found.low)
    assert found.reason == ""


def test_p_of_many_unrelated_points_is_uniform_and_never_zero():
    rng = np.random.default_rng(2)
    p = [spearman(*rng.normal(size=(2, 15)), n_replicates=199).p for _ in range(200)]
    assert np.mean(np.array(p) < 0.2) == pytest.approx(0.2, abs=0.09)
    line = np.arange(30.0)
    assert spearman(line, line, n_replicates=199).p == pytest.approx(1 / 200)


def test_bootstrap_interval_holds_the_estimate_and_narrows_with_points():
    rng = np.random.default_rng(3)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)
    few, many = pearson(x[:12], y[:12]), pearson(x, y)
    assert few.low < few.estimate < few.high
    assert many.high - many.low < few.high - few.low
    assert many.low < math.sqrt(0.5) < many.high


def test_points_with_a_missing_number_are_left_out():
    assert spearman([1, 2, math.nan, 4], [1, math.nan, 3, 4]).n == 2
    with_gap, without = spearman([1, 2, math.nan, 4], [2, 1, 9, 4]), spearman([1, 2, 4], [2, 1, 4])
    assert (with_gap.n, with_gap.estimate) == (without.n, without.estimate)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_points_give_no_correlation_and_say_so(n):
    found = pearson(np.arange(n), np.arange(n))
    assert (found.n, found.reason) == (n, f"{n} points; a correlation needs at least 3")
    assert math.isnan(found.estimate)


def test_what_does_not_vary_has_no_correlation():
    for constant in ([0.5] * 4, [0.1 + 0.2, 0.3, 0.3, 0.3]):  # the second up to rounding
        found = spearman([1, 2, 3, 4], constant)
        assert math.isnan(found.estimate)
        assert found.reason == "one of the two does not vary"


def test_logit_is_the_log_of_the_odds():
    np.testing.assert_allclose(logit_accuracy([0.5, 0.75, 0.9]), [0, math.log(3), math.log(9)])
    assert math.isnan(logit_accuracy([math.nan], n=10)[0])


def test_all_right_counts_as_half_a_sample_short_of_it():
    np.testing.assert_allclose(logit_accuracy([1.0, 0.0], n=50), [math.log(99), -math.log(99)])
    # 99 of 100 right is not clipped.
    np.testing.assert_allclose(logit_accuracy([0.99], n=100), [math.log(99)])


def test_all_right_of_an_unknown_number_has_no_logit():
    assert np.isnan(logit_accuracy([0.0, 1.0])).all()


def test_wrong_arguments_of_the_logit_are_named():
    with pytest.raises(ValueError, match=r"shares between 0 and 1 \(not percent\), got 91.0"):
        logit_accuracy([0.9, 91.0])
    with pytest.raises(ValueError, match=r"must be positive, got 0"):
        logit_accuracy([0.9], n=0)


def test_network_effects_of_a_full_table_are_means_about_the_datasets():
    logits = np.random.default_rng(0).normal(size=(5, 3)) + np.array([0, 2, -1])
    np.testing.assert_allclose(network_effects(logits), (logits - logits.mean(axis=0)).mean(axis=1))


def test_a_missing_value_does_not_make_an_easy_dataset_a_good_network():
    quality, ease = np.array([-0.5, 0.0, 0.5]), np.array([-2.0, 2.0])
    logits = quality[:, None] + ease
    logits[0, 0] = math.nan  # the worst network was only tried on the easy dataset
    np.testing.assert_allclose(network_effects(logits), quality, atol=1e-12)


def test_a_network_without_value_and_datasets_apart_have_no_effects():
    effects = network_effects(np.array([[1.0, 2.0], [2.0, 3.0], [math.nan, math.nan]]))
    np.testing.assert_allclose(effects[:2], [-0.5, 0.5])
    assert math.isnan(effects[2])
    assert np.isnan(network_effects(np.array([[1.0, math.nan], [math.nan, 2.0]]))).all()
    assert np.isnan(network_effects(np.full((2, 2), math.nan))).all()
