"""Losses and scores against values computed by hand, and what must not change them."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.objectives import TASKS, build_objective, score

BINARY = np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8], [0.7, 0.3]])
BINARY_LABELS = np.array([0, 0, 1, 1, 0])


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


@pytest.mark.parametrize("task", TASKS)
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
    labels = np.zeros((0, 2), np.uint8) if task == "multilabel" else np.zeros(0, np.int64)
    assert all(math.isnan(value) for value in score(task, np.zeros((0, 2)), labels).values())


def test_class_that_is_never_predicted_has_f1_zero() -> None:
    values = score("multiclass", np.array([[0.9, 0.1]] * 5), BINARY_LABELS)
    assert values["f1"] == pytest.approx((0.75 + 0) / 2)


def test_cross_entropy_is_minus_the_log_of_the_true_class() -> None:
    logits, labels = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]]), torch.tensor([2, 1])
    objective = build_objective("multiclass")
    true = objective.scores(logits)[torch.arange(2), labels]
    assert float(objective.loss(logits, labels)) == pytest.approx(float(-true.log().mean()))


def test_label_smoothing_moves_its_share_to_all_classes() -> None:
    logits, labels = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([2])
    logs = torch.log_softmax(logits, 1)[0]
    expected = -(0.7 * logs[2] + 0.3 * logs.mean())
    loss = build_objective("multiclass", label_smoothing=0.3).loss(logits, labels)
    assert float(loss) == pytest.approx(float(expected))


def test_binary_cross_entropy_is_the_mean_over_marks() -> None:
    logits, marks = torch.tensor([[0.5, -1.0]]), torch.tensor([[1, 0]], dtype=torch.uint8)
    objective = build_objective("multilabel", label_smoothing=0.3)
    probabilities = objective.scores(logits)[0]
    expected = -(probabilities[0].log() + (1 - probabilities[1]).log()) / 2
    assert float(objective.loss(logits, marks)) == pytest.approx(float(expected))


def test_confident_predictions_keep_their_order() -> None:
    logits = torch.tensor([[0.0, 20.0], [0.0, 21.0]])
    scores = build_objective("multiclass").scores(logits)
    assert scores[0, 1] < scores[1, 1] < 1


@pytest.mark.parametrize("task", TASKS)
def test_loss_has_a_gradient(task: str) -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    labels = torch.ones(2, 3, dtype=torch.uint8) if task == "multilabel" else torch.tensor([0, 1])
    build_objective(task).loss(logits, labels).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) > 0


def test_unknown_task_is_named() -> None:
    with pytest.raises(ValueError, match="task must be one of 'multiclass', 'multilabel', got 'multi'"):
        build_objective("multi")
