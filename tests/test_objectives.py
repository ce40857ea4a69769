"""Losses against values computed by hand, and what must not change them."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from trainables.datasets.table import UNKNOWN
from trainables.errors import SpecError
from trainables.objectives import TASKS, balanced_weights, build_objective


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
    objective = build_objective("multilabel")
    probabilities = objective.scores(logits)[0]
    expected = -(probabilities[0].log() + (1 - probabilities[1]).log()) / 2
    assert float(objective.loss(logits, marks)) == pytest.approx(float(expected))


def test_label_smoothing_of_several_labels_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^training.label_smoothing must be 0 where an image can have sev"):
        build_objective("multilabel", label_smoothing=0.3)


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
    with pytest.raises(
        ValueError, match="task must be one of 'multiclass', 'multilabel', 'ordinal', got 'multi'"
    ):
        build_objective("multi")


def test_marks_that_are_not_known_have_no_loss_and_no_gradient() -> None:
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.3]], requires_grad=True)
    marks = torch.tensor([[1, UNKNOWN], [UNKNOWN, 0]], dtype=torch.uint8)
    objective = build_objective("multilabel")
    loss = objective.loss(logits, marks)
    loss.backward()
    chosen = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([0.5, 0.3]), torch.tensor([1.0, 0.0])
    )
    assert float(loss.detach()) == pytest.approx(float(chosen))
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, True], [True, False]]
    assert objective.weight(marks) == 2


def test_a_batch_without_a_known_mark_has_no_loss_and_no_gradient() -> None:
    logits = torch.tensor([[0.5, -1.0]], requires_grad=True)
    loss = build_objective("multilabel").loss(logits, torch.full((1, 2), UNKNOWN, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0]]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights("multiclass", labels, 3), expected)
    # A class that does not occur weighs nothing, and the others as if it did.
    assert balanced_weights("multiclass", labels, 4)[3] == 0


def test_balanced_labels_weigh_positives_as_much_as_negatives() -> None:
    marks = np.array([[1, 0], [0, 0], [0, UNKNOWN], [UNKNOWN, UNKNOWN]], np.uint8)
    np.testing.assert_allclose(balanced_weights("multilabel", marks, 2), [2.0, 0.0])
    objective = build_objective("multilabel", class_weights=np.array([2.0, 1.0]))
    labels = torch.from_numpy(marks[:3, :1])
    logits = torch.zeros(3, 1)
    weighted = build_objective("multilabel", class_weights=np.array([2.0])).loss(logits, labels)
    assert float(weighted) == pytest.approx((2 + 1 + 1) * np.log(2) / 3)
    assert objective.weight(labels) == 3


@pytest.mark.parametrize("task", TASKS)
def test_losses_of_parts_add_up_to_that_of_the_whole(task: str) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(10, 3)))
    if task == "multilabel":
        labels = torch.from_numpy(rng.choice([0, 1, UNKNOWN], size=(10, 3)).astype(np.uint8))
    else:
        labels = torch.from_numpy(rng.integers(0, 3, 10))
    objective = build_objective(task, class_weights=np.array([1.0, 2.0, 0.5]))
    parts = [slice(0, 3), slice(3, 9), slice(9, 10)]
    weights = [objective.weight(labels[part]) for part in parts]
    losses = [float(objective.loss(logits[part].float(), labels[part])) for part in parts]
    together = float(np.average(losses, weights=weights))
    assert together == pytest.approx(float(objective.loss(logits.float(), labels)), rel=1e-5)
