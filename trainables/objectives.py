"""What a network is trained for, and how well it does it: loss, probabilities and scores by task."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from trainables.errors import unknown_choice

TASKS = ("multiclass", "multilabel")
POSITIVE_FROM = 0.5


@dataclass(frozen=True)
class Objective:
    """A loss and the probabilities that belong to it.

    Attributes:
        loss: of logits (n, n_classes) and labels as in `trainables.datasets.loading.Split`; a mean.
        scores: of logits (n, n_classes), probabilities of the same shape, float64, so that confident
            predictions keep their order.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    scores: Callable[[Tensor], Tensor]


def build_objective(task: str, *, label_smoothing: float = 0.0) -> Objective:
    """Return cross-entropy with softmax (multiclass), or binary cross-entropy with sigmoid (multilabel).

    Args:
        label_smoothing: of the cross-entropy; no part in binary cross-entropy.

    Raises:
        ValueError: another task.
    """
    _check_task(task)
    if task == "multilabel":
        return Objective(_binary_cross_entropy, _sigmoid)
    return Objective(partial(F.cross_entropy, label_smoothing=label_smoothing), _softmax)


def score(task: str, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return auroc, auprc, accuracy and f1 of one split.

    The areas are of the last class if there are two, else the mean over classes (one against the rest)
    or labels. f1 is the mean over classes or labels. A prediction is the class of the greatest score, or
    every label from 0.5; then accuracy is the share of correct marks.

    Args:
        scores: (n, n_classes) probabilities.
        labels: (n,) class numbers, or (n, n_classes) marks.

    Returns:
        NaN where a quantity is not defined: auroc, auprc and f1 if a class (or a label, or its absence)
        does not occur, all of them if there are no samples or a score is not finite.
    """
    _check_task(task)
    is_multilabel = task == "multilabel"
    n_classes = scores.shape[1]
    if len(scores) == 0 or not np.isfinite(scores).all():
        return dict.fromkeys(("auroc", "auprc", "accuracy", "f1"), math.nan)
    if is_multilabel:
        truth, predicted = labels.astype(bool), scores >= POSITIVE_FROM
        accuracy = float((truth == predicted).mean())
    else:
        truth, predicted = _one_hot(labels, n_classes), _one_hot(scores.argmax(1), n_classes)
        accuracy = float((scores.argmax(1) == labels).mean())
    if truth.all(0).any() or not truth.any(0).all():
        return {"auroc": math.nan, "auprc": math.nan, "accuracy": accuracy, "f1": math.nan}
    ranked = range(n_classes) if is_multilabel or n_classes > 2 else (n_classes - 1,)
    return {
        "auroc": _mean(roc_auc_score(truth[:, k], scores[:, k]) for k in ranked),
        "auprc": _mean(average_precision_score(truth[:, k], scores[:, k]) for k in ranked),
        "accuracy": accuracy,
        "f1": _mean(f1_score(truth[:, k], predicted[:, k], zero_division=0.0) for k in range(n_classes)),
    }


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise ValueError(unknown_choice("task", task, TASKS))


def _binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def _sigmoid(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits.double())


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits.double(), dim=1)


def _one_hot(numbers: np.ndarray, n_classes: int) -> np.ndarray:
    return numbers[:, None] == np.arange(n_classes)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
