"""Scores against values computed by hand and by scikit-learn, and what must not change them."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from trainables.datasets.table import UNKNOWN
from trainables.objectives import TASKS
from trainables.scores import score as score_of
from trainables.scores import score_by_class

REFERABLE = 2

BINARY = np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8], [0.7, 0.3]])
BINARY_LABELS = np.array([0, 0, 1, 1, 0])


def score(task: str, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return score_of(task, scores, labels, referable_grade=REFERABLE if task == "ordinal" else None)


def random_case(task: str, seed: int = 0, n: int = 60, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.random((n, k))
    if task == "multilabel":
        labels = (rng.random((n, k)) < 0.4).astype(np.uint8)
        labels[0], labels[1] = 0, 1
        return scores, labels
    return scores / scores.sum(1, keepdims=True), np.arange(n) % k


def pairs_won(positive: np.ndarray, scores: np.ndarray) -> float:
    """Count the definition of the area: how often a positive is ranked above a negative, ties half."""
    difference = scores[positive][:, None] - scores[~positive][None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def test_binary_scores_equal_those_computed_by_hand() -> None:
    values = score("multiclass", BINARY, BINARY_LABELS)
    # By the score of class 1 the truth is 1 0 1 0 0: of six pairs five are in order.
    assert values["auroc"] == pytest.approx(5 / 6)
    assert values["auprc"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert values["accuracy"] == pytest.approx(0.8)
    # Class 0: precision 3/4, recall 1; class 1: precision 1, recall 1/2.
    assert values["f1"] == pytest.approx((6 / 7 + 2 / 3) / 2)


def test_multiclass_areas_are_means_of_one_against_the_rest() -> None:
    scores, labels = random_case("multiclass")
    expected = np.mean([pairs_won(labels == k, scores[:, k]) for k in range(4)])
    assert score("multiclass", scores, labels)["auroc"] == pytest.approx(expected)


def test_multilabel_areas_are_means_over_labels() -> None:
    scores, labels = random_case("multilabel")
    values = score("multilabel", scores, labels)
    expected = np.mean([pairs_won(labels[:, k] == 1, scores[:, k]) for k in range(4)])
    assert values["auroc"] == pytest.approx(expected)
    assert values["accuracy"] == pytest.approx(((scores >= 0.5) == labels).mean())


def test_multilabel_of_two_labels_counts_both() -> None:
    scores, labels = np.array([[0.1, 0.9], [0.9, 0.1]]), np.array([[0, 0], [1, 1]])
    assert score("multilabel", scores, labels)["auroc"] == pytest.approx(0.5)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])  # grades are summed, and then ranked
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_monotone_transform_leaves_the_ranking_scores(task: str, seed: int) -> None:
    scores, labels = random_case(task, seed)
    plain, transformed = score(task, scores, labels), score(task, np.exp(3 * scores) / 100, labels)
    for name in ("auroc", "auprc"):
        assert plain[name] == pytest.approx(transformed[name])


@pytest.mark.parametrize("task", TASKS)
def test_order_of_samples_changes_nothing(task: str) -> None:
    scores, labels = random_case(task)
    order = np.random.default_rng(1).permutation(len(scores))
    assert score(task, scores, labels) == pytest.approx(score(task, scores[order], labels[order]))


@pytest.mark.parametrize("task", TASKS)
def test_perfect_predictions_score_one(task: str) -> None:
    _, labels = random_case(task)
    perfect = labels if task == "multilabel" else np.eye(4)[labels]
    assert set(score(task, perfect.astype(float), labels).values()) == {1.0}


def test_reversed_binary_scores_give_the_complement() -> None:
    scores, labels = random_case("multiclass", k=2)
    forward, backward = score("multiclass", scores, labels), score("multiclass", scores[:, ::-1], labels)
    assert forward["auroc"] == pytest.approx(1 - backward["auroc"])


def test_absent_class_is_nan_and_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = score("multiclass", BINARY, np.zeros(5, np.int64))
    assert [math.isnan(values[name]) for name in ("auroc", "auprc", "f1", "accuracy")] == [True] * 3 + [False]
    assert values["accuracy"] == 0.8


@pytest.mark.parametrize("constant", [0, 1])
def test_label_that_never_varies_is_nan(constant: int) -> None:
    scores, labels = random_case("multilabel")
    labels[:, 2] = constant
    values = score("multilabel", scores, labels)
    assert math.isnan(values["auroc"])
    assert math.isfinite(values["accuracy"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("task", TASKS)
def test_scores_that_are_not_finite_give_nan_everywhere(task: str, bad: float) -> None:
    scores, labels = random_case(task)
    scores[3, 1] = bad
    assert all(math.isnan(value) for value in score(task, scores, labels).values())


@pytest.mark.parametrize("task", TASKS)
def test_no_samples_give_nan_everywhere(task: str) -> None:
    labels = np.zeros((0, 3), np.uint8) if task == "multilabel" else np.zeros(0, np.int64)
    assert all(math.isnan(value) for value in score(task, np.zeros((0, 3)), labels).values())


def test_class_that_is_never_predicted_has_f1_zero() -> None:
    values = score("multiclass", np.array([[0.9, 0.1]] * 5), BINARY_LABELS)
    assert values["f1"] == pytest.approx((0.75 + 0) / 2)


def test_grades_are_ranked_by_the_probability_of_a_referable_one() -> None:
    scores, labels = random_case("ordinal", k=5)
    values = score("ordinal", scores, labels)
    assert values["auroc"] == pytest.approx(pairs_won(labels >= 2, scores[:, 2:].sum(1)))
    expected = cohen_kappa_score(labels, scores.argmax(1), weights="quadratic")
    assert values["kappa"] == pytest.approx(expected)


def test_kappa_punishes_by_the_square_of_the_distance() -> None:
    labels = np.arange(40) % 4
    near, far = (np.eye(4)[(labels + shift) % 4] for shift in (1, 2))
    assert score("ordinal", np.eye(4)[labels], labels)["kappa"] == 1
    assert score("ordinal", far, labels)["kappa"] < score("ordinal", near, labels)["kappa"] < 1
    # Expected by hand: far is always 2 off, so 1 - 4 / mean of (i - j)^2 over independent grades, which is
    # 2.5.
    assert score("ordinal", far, labels)["kappa"] == pytest.approx(1 - 4 / 2.5)


def test_only_grades_have_a_kappa() -> None:
    assert "kappa" not in score("multiclass", *random_case("multiclass"))
    assert "kappa" not in score("multilabel", *random_case("multilabel"))
    one_grade = np.eye(3)[np.zeros(4, int)]
    assert math.isnan(score("ordinal", one_grade, np.zeros(4, np.int64))["kappa"])


@pytest.mark.parametrize("task", TASKS)
def test_micro_f1_is_that_of_all_marks_together(task: str) -> None:
    scores, labels = random_case(task)
    if task == "multilabel":
        expected = f1_score(labels, scores >= 0.5, average="micro")
    else:
        expected = f1_score(labels, scores.argmax(1), average="micro")
    assert score(task, scores, labels)["f1_micro"] == pytest.approx(expected)


def test_marks_that_are_not_known_count_nowhere() -> None:
    scores, labels = random_case("multilabel")
    masked = labels.copy()
    masked[::3, 1] = UNKNOWN
    known = masked[:, 1] != UNKNOWN
    values = score("multilabel", scores, masked)
    columns = [roc_auc_score(labels[:, k], scores[:, k]) for k in (0, 2, 3)]
    columns.append(roc_auc_score(labels[known, 1], scores[known, 1]))
    assert values["auroc"] == pytest.approx(np.mean(columns))
    correct = ((scores >= 0.5) == labels)[masked != UNKNOWN]
    assert values["accuracy"] == pytest.approx(correct.mean())
    changed = scores.copy()
    changed[::3, 1] = 1 - changed[::3, 1]
    assert score("multilabel", changed, masked) == pytest.approx(values)


def test_a_label_of_which_nothing_is_known_is_nan() -> None:
    scores, labels = random_case("multilabel")
    labels[:, 2] = UNKNOWN
    assert math.isnan(score("multilabel", scores, labels)["auroc"])
    by_class = score_by_class("multilabel", scores, labels, ("a", "b", "c", "d"))
    assert [name for name in by_class if math.isnan(by_class[name])] == ["auroc/c", "auprc/c", "f1/c"]


@pytest.mark.parametrize("task", TASKS)
def test_the_means_are_those_of_the_single_classes(task: str) -> None:
    scores, labels = random_case(task)
    values, by_class = score(task, scores, labels), score_by_class(task, scores, labels, ("a", "b", "c", "d"))
    assert values["f1"] == pytest.approx(np.mean([by_class[f"f1/{name}"] for name in "abcd"]))
    if task != "ordinal":
        assert values["auroc"] == pytest.approx(np.mean([by_class[f"auroc/{name}"] for name in "abcd"]))


def test_names_of_classes_become_names_of_metrics() -> None:
    scores, labels = random_case("multiclass", k=2)
    found = score_by_class("multiclass", scores, labels, ("Pleural Effusion", "50 % (of all)"))
    assert list(found)[::3] == ["auroc/Pleural Effusion", "auroc/50 _ _of all_"]


def test_no_class_is_lost_to_another_of_a_like_name() -> None:
    scores, labels = random_case("multiclass", k=5)
    names = ("a(", "a)", "b/c", "", ".")
    found = score_by_class("multiclass", scores, labels, names)
    assert list(found)[::3] == ["auroc/a_ 0", "auroc/a_ 1", "auroc/b_c", "auroc/3", "auroc/. 4"]
    plain = score_by_class("multiclass", scores, labels, tuple("vwxyz"))
    assert list(found.values()) == list(plain.values())
