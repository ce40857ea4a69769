"""Weights of classes, against their definition."""

import numpy as np
import pytest

from trainables.errors import DataError
from trainables.importance import class_importance, effective_sample_size

COUNTS = np.array([60, 30, 10])
PREDICTIONS = np.array([[0.2, 0.3, 0.5], [0.4, 0.1, 0.5]])


def test_weights_are_the_ratio_of_the_shares_of_the_classes() -> None:
    weights = class_importance(PREDICTIONS, COUNTS)
    np.testing.assert_allclose(weights, np.array([0.3, 0.2, 0.5]) / [0.6, 0.3, 0.1])


def test_drawn_by_its_weights_the_source_has_the_classes_of_the_target() -> None:
    weights = class_importance(PREDICTIONS, COUNTS)
    np.testing.assert_allclose(weights * COUNTS / (weights @ COUNTS), PREDICTIONS.mean(0))


def test_a_target_like_the_source_changes_nothing() -> None:
    np.testing.assert_allclose(class_importance(COUNTS[None] / 100, COUNTS), np.ones(3))


def test_every_prediction_counts_the_same_whatever_its_sum() -> None:
    scaled = PREDICTIONS * np.array([[7.0], [0.1]])
    np.testing.assert_allclose(class_importance(scaled, COUNTS), class_importance(PREDICTIONS, COUNTS))


@pytest.mark.parametrize("temper", [0.0, 0.5, 1.0])
def test_tempering_takes_the_weights_towards_one(temper: float) -> None:
    weights = class_importance(PREDICTIONS, COUNTS, temper=temper)
    ratio = class_importance(PREDICTIONS, COUNTS) ** temper
    np.testing.assert_allclose(weights, ratio / (ratio @ COUNTS / 100))
    assert weights @ COUNTS == pytest.approx(100)


def test_a_cap_bounds_the_weights_and_raises_the_effective_sample_size() -> None:
    free, capped = class_importance(PREDICTIONS, COUNTS), class_importance(PREDICTIONS, COUNTS, cap=2.0)
    assert capped.max() == 2
    np.testing.assert_allclose(capped[:2], free[:2])
    sizes = [effective_sample_size(np.repeat(weights, COUNTS)) for weights in (free, capped)]
    assert sizes[0] < sizes[1] < 100


def test_a_class_without_images_weighs_nothing() -> None:
    weights = class_importance(PREDICTIONS, np.array([60, 0, 40]))
    assert weights[1] == 0
    assert weights @ [60, 0, 40] == pytest.approx(100)


def test_all_of_the_target_in_one_class_draws_that_class_alone() -> None:
    weights = class_importance(np.array([[0.0, 1.0, 0.0]] * 2), COUNTS)
    np.testing.assert_allclose(weights, [0, 100 / 30, 0])
    assert effective_sample_size(np.repeat(weights, COUNTS)) == pytest.approx(30)


def test_effective_sample_size_is_between_one_and_all() -> None:
    assert effective_sample_size(np.ones(50)) == 50
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == 1


@pytest.mark.parametrize(
    ("predictions", "counts", "message"),
    [
        (np.zeros((0, 3)), COUNTS, "expected predictions for at least one target image, got none"),
        (np.array([[np.nan, 0.5, 0.5]]), COUNTS, "expected finite predictions that are not all 0"),
        (np.zeros((2, 3)), COUNTS, "expected finite predictions that are not all 0"),
        (np.array([[1.0, 0.0, 0.0]]), np.array([0, 5, 5]), "sees none of the source's classes in the target"),
    ],
)
def test_what_gives_no_weights_is_refused(predictions: np.ndarray, counts: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_importance(predictions, counts)
