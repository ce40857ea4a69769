"""DeLong's variance against its definition (every positive against every negative) and against draws."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from analysis.numerics.delong import auroc_interval, delong, paired_test


def case(n: int = 80, *, levels: int = 15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.35).astype(int)
    scores = np.round((rng.random((n, 3)) + 0.4 * labels[:, None] * [1, 0.5, 0]) * levels) / levels
    return labels, scores


def by_definition(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong et al. (1988), eq. 4–6: the kernel is 1, ½ or 0 for every pair."""
    x, y = scores[labels == 1], scores[labels == 0]
    kernel = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    v10, v01 = kernel.mean(1), kernel.mean(0)
    area = kernel.mean((0, 1))
    s10 = (v10 - area).T @ (v10 - area) / (len(x) - 1)
    s01 = (v01 - area).T @ (v01 - area) / (len(y) - 1)
    return area, s10 / len(x) + s01 / len(y)


@pytest.mark.parametrize("levels", [3, 15, 10**9], ids=["many ties", "some ties", "no ties"])
def test_areas_and_covariance_equal_their_definition(levels: int) -> None:
    labels, scores = case(levels=levels)
    found = delong(labels, scores)
    area, covariance = by_definition(labels, scores)
    np.testing.assert_allclose(found.auroc, area, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-10)
    np.testing.assert_allclose(found.auroc, [roc_auc_score(labels, column) for column in scores.T])


def test_one_vector_of_scores_is_one_column() -> None:
    labels, scores = case()
    assert delong(labels, scores[:, 0]).covariance.shape == (1, 1)
    assert delong(labels, scores[:, 0]).auroc[0] == pytest.approx(delong(labels, scores).auroc[0])


def test_variance_is_that_of_repeated_samples() -> None:
    drawn = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], [60, 40])
        drawn.append(delong(labels, rng.normal(labels)))
    spread = np.var([areas.auroc[0] for areas in drawn], ddof=1)
    assert np.mean([areas.covariance[0, 0] for areas in drawn]) == pytest.approx(spread, rel=0.2)


def test_interval_is_normal_and_cut_at_one() -> None:
    labels, scores = case()
    interval = auroc_interval(labels, scores[:, 0])
    variance = by_definition(labels, scores)[1][0, 0]
    assert interval.se == pytest.approx(math.sqrt(variance))
    assert interval.low == pytest.approx(interval.estimate - 1.959964 * math.sqrt(variance), rel=1e-6)
    nearly = auroc_interval(np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.5, 0.9]))
    assert nearly.high == 1


def test_paired_test_uses_the_covariance() -> None:
    labels, scores = case()
    test = paired_test(labels, scores[:, 0], scores[:, 2])
    area, covariance = by_definition(labels, scores)
    variance = covariance[0, 0] + covariance[2, 2] - 2 * covariance[0, 2]
    assert test.difference.estimate == pytest.approx(area[0] - area[2])
    z = (area[0] - area[2]) / math.sqrt(variance)
    assert test.p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)))


def test_paired_test_is_symmetric() -> None:
    labels, scores = case()
    forth, back = paired_test(labels, *scores.T[:2]), paired_test(labels, *scores.T[1::-1])
    assert forth.p_value == pytest.approx(back.p_value)
    assert forth.difference.estimate == pytest.approx(-back.difference.estimate)


def test_where_there_is_no_variance_there_is_no_interval_and_no_p_value() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    perfect = auroc_interval(labels, scores)
    assert (perfect.estimate, perfect.se) == (1, 0)
    assert math.isnan(perfect.low)
    labels, scores = case()
    same = paired_test(labels, scores[:, 0], 2 * scores[:, 0])
    assert same.difference.estimate == 0
    assert math.isnan(same.p_value)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 0, 1], [0.1, 0.2, 0.3], "at least 2 samples of each class, got 1 of 1 and 2 of 0"),
        ([], [], "at least 2 samples of each class, got 0 of 1 and 0 of 0"),
        ([0, 1, 2, 1], [0.1, 0.2, 0.3, 0.4], r"labels 0 and 1, got \[0, 1, 2\]"),
        ([0, 1, 0, 1], [0.1, math.nan, 0.3, 0.4], "finite scores"),
        ([0, 1, 0, 1], [0.1, 0.2], r"a row of scores for each label, got shapes \(2, 1\) and \(4,\)"),
    ],
)
def test_what_has_no_variance_is_refused(labels: list, scores: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        delong(np.array(labels), np.array(scores))
