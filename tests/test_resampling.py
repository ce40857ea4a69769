"""The bootstrap against a plain loop over resampled samples, and what must not change it."""

import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from analysis.numerics import resampling
from analysis.numerics.resampling import (
    Column,
    Replicates,
    draw_weights,
    percentile_interval,
    resample_metrics,
)


def columns_of(kind: str, *, n: int = 60, levels: int = 12, seed: int = 0) -> list[Column]:
    """Return columns with ties; of `multilabel`, with labels that are not known."""
    rng = np.random.default_rng(seed)
    if kind == "binary":
        labels = (rng.random(n) < 0.3).astype(float)
        scores = np.round((rng.random(n) + 0.3 * labels) * levels) / levels
        return [Column(labels, scores, scores >= 0.6)]
    if kind == "multiclass":
        classes = np.arange(n) % 3
        scores = np.round((rng.random((n, 3)) + 0.5 * np.eye(3)[classes]) * levels) / levels
        return [Column((classes == k).astype(float), scores[:, k], scores.argmax(1) == k) for k in range(3)]
    marks = (rng.random((n, 3)) < 0.4).astype(float)
    marks[rng.random((n, 3)) < 0.25] = np.nan
    scores = np.round(rng.random((n, 3)) * levels) / levels
    return [Column(marks[:, k], scores[:, k], scores[:, k] >= 0.5) for k in range(3)]


def plain_loop(columns: list[Column], weights: np.ndarray) -> dict[str, list[float]]:
    """Score each resampled list of samples by itself."""
    found: dict[str, list[float]] = {"auroc": [], "auprc": [], "f1": []}
    for counts in weights:
        drawn = np.repeat(np.arange(len(counts)), counts)
        of_columns = []
        for column in columns:
            rows = drawn[~np.isnan(column.labels[drawn])]
            truth, scores, predicted = column.labels[rows] == 1, column.scores[rows], column.predicted[rows]
            if len(np.unique(truth)) < 2:
                of_columns.append((math.nan,) * 3)
                continue
            f1 = f1_score(truth, predicted, zero_division=0.0)
            of_columns.append((roc_auc_score(truth, scores), average_precision_score(truth, scores), f1))
        for name, value in zip(found, np.mean(of_columns, axis=0), strict=True):
            found[name].append(float(value))
    return found


def assert_equal(found: Replicates, expected: dict[str, list[float]]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("levels", [3, 12, 10**9], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_every_replicate_equals_scikit_learn_on_the_resampled_samples(
    kind: str, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "REPLICATES_AT_ONCE", 4)
    columns = columns_of(kind, levels=levels)
    weights = draw_weights(np.arange(60) // 2, n_replicates=10)
    assert_equal(resample_metrics(columns, columns, weights=weights), plain_loop(columns, weights))


def test_replicates_without_a_class_are_nan_and_counted() -> None:
    labels, scores = np.array([1.0, 1, 0, 0, 0, 0]), np.linspace(1, 0, 6)
    columns = [Column(labels, scores, scores > 0.5)]
    weights = draw_weights(np.array(list("aabcde")), n_replicates=100)
    found = resample_metrics(columns, columns, weights=weights)
    lacks = (weights[:, labels == 1].sum(1) == 0) | (weights[:, labels == 0].sum(1) == 0)
    assert lacks.sum() > 10
    np.testing.assert_array_equal(np.isnan(found.auroc), lacks)
    np.testing.assert_array_equal(np.isnan(found.f1), lacks)
    interval = percentile_interval(1.0, found.auroc)
    assert (interval.n_undefined, interval.n_replicates) == (lacks.sum(), 100 - lacks.sum())
    assert_equal(found, plain_loop(columns, weights))


def test_a_mean_is_nan_where_one_of_its_classes_was_not_drawn() -> None:
    whole, part = columns_of("multilabel")[:2]
    rare = Column(np.where(np.arange(60) == 0, 1.0, 0.0), part.scores, part.predicted)
    weights = draw_weights(np.arange(60), n_replicates=64)
    found = resample_metrics([whole, rare], [whole, rare], weights=weights)
    np.testing.assert_array_equal(np.isnan(found.auroc), weights[:, 0] == 0)


def test_areas_and_f1_can_be_of_different_columns() -> None:
    columns = columns_of("multiclass")
    weights = draw_weights(np.arange(60), n_replicates=5)
    found = resample_metrics(columns[-1:], columns, weights=weights)
    np.testing.assert_allclose(found.auroc, plain_loop(columns[-1:], weights)["auroc"])
    np.testing.assert_allclose(found.f1, plain_loop(columns, weights)["f1"])


def test_order_of_samples_and_monotone_scores_change_nothing() -> None:
    [column] = columns_of("binary")
    weights = draw_weights(np.arange(60), n_replicates=20)
    order = np.random.default_rng(1).permutation(60)
    shuffled = Column(column.labels[order], np.exp(column.scores[order]), column.predicted[order])
    plain = resample_metrics([column], [column], weights=weights)
    other = resample_metrics([shuffled], [shuffled], weights=weights[:, order])
    np.testing.assert_allclose(plain.auroc, other.auroc, rtol=1e-12)
    np.testing.assert_allclose(plain.auprc, other.auprc, rtol=1e-12)


def test_samples_of_a_group_are_drawn_together_and_groups_as_often_as_there_are() -> None:
    groups = np.array(["b", "a", "b", "c", "a", "d"])
    weights = draw_weights(groups, n_replicates=300)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    assert set(weights[:, [0, 1, 3, 5]].sum(1)) == {4}
    assert weights.mean() == pytest.approx(1, abs=0.1)


def test_groups_are_drawn_like_a_multinomial() -> None:
    weights = draw_weights(np.arange(10), n_replicates=4000)
    assert weights[:, 0].var() == pytest.approx(0.9, abs=0.08)
    assert np.cov(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-0.1, abs=0.04)


def test_equal_seeds_give_equal_draws_and_more_replicates_only_add() -> None:
    groups = np.arange(20)
    np.testing.assert_array_equal(
        draw_weights(groups, n_replicates=7), draw_weights(groups, n_replicates=30)[:7]
    )
    assert (draw_weights(groups, seed=1) != draw_weights(groups, seed=2)).any()


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # The area of two normals one sd apart is Phi(1 / sqrt 2) = 0.7602.
    covered = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0.0, 1.0], 60)
        column = Column(labels, rng.normal(labels), labels == 1)
        found = resample_metrics(
            [column], [column], weights=draw_weights(np.arange(120), n_replicates=200, seed=seed)
        )
        interval = percentile_interval(0.76, found.auroc)
        covered.append(interval.low <= 0.7602 <= interval.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.055)


def test_copies_of_a_patient_s_image_add_nothing_to_what_is_known() -> None:
    [column] = columns_of("binary")
    copied = Column(*(np.repeat(values, 3) for values in (column.labels, column.scores, column.predicted)))
    plain = resample_metrics([column], [column], weights=draw_weights(np.arange(60), n_replicates=50))
    groups = np.repeat(np.arange(60), 3)
    more = resample_metrics([copied], [copied], weights=draw_weights(groups, n_replicates=50))
    np.testing.assert_allclose(plain.auroc, more.auroc)


def test_a_paired_difference_is_surer_than_its_parts() -> None:
    [one] = columns_of("binary", n=200)
    other = Column(one.labels, one.scores + 0.02 * one.labels, one.predicted)
    weights = draw_weights(np.arange(200))
    x, y = (resample_metrics([c], [c], weights=weights).auroc for c in (other, one))
    difference, alone = percentile_interval(0.0, x - y), percentile_interval(0.0, x)
    assert difference.high - difference.low < (alone.high - alone.low) / 2


def test_interval_is_the_central_part() -> None:
    interval = percentile_interval(50.0, np.arange(101.0), confidence=0.9)
    assert (interval.low, interval.high, interval.n_replicates) == (pytest.approx(5), pytest.approx(95), 101)


def test_without_a_number_the_interval_is_nan_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = percentile_interval(0.5, np.full(3, math.nan))
        unknown = percentile_interval(math.nan, np.ones(3))
    assert math.isnan(empty.low)
    assert math.isnan(unknown.high)
    assert (empty.n_replicates, empty.n_undefined, unknown.n_replicates) == (0, 3, 3)


@pytest.mark.parametrize("groups", [np.array([]), np.array(["a", "a"])], ids=["none", "one"])
def test_fewer_than_two_groups_are_refused(groups: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"needs at least 2 groups to draw from, got [01]$"):
        draw_weights(groups)


def test_bad_input_is_refused_with_a_clear_message() -> None:
    good = np.array([0.0, 1.0])
    column = Column(good, good, good == 1)
    with pytest.raises(ValueError, match="n_replicates must be at least 1, got 0"):
        draw_weights(np.arange(3), n_replicates=0)
    with pytest.raises(ValueError, match="labels must be 0, 1 or NaN"):
        Column(np.array([0.0, 255.0]), good, good == 1)
    with pytest.raises(ValueError, match="scores must be finite, got 1 of 2 not"):
        Column(good, np.array([0.0, math.inf]), good == 1)
    with pytest.raises(ValueError, match="one label, score and prediction a sample"):
        Column(good, np.zeros(3), good == 1)
    with pytest.raises(ValueError, match=r"for columns of \[2\] samples, got shape \(5, 3\)"):
        resample_metrics([column], [column], weights=np.ones((5, 3)))
    with pytest.raises(ValueError, match="at least one column to rank"):
        resample_metrics([], [column], weights=np.ones((5, 2)))
