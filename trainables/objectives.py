"""What a network is trained for: the loss and the probabilities of each task."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.datasets.spec import Task
from trainables.datasets.table import UNKNOWN
from trainables.errors import SpecError, unknown_choice

TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Objective:
    """A loss and the probabilities that belong to it.

    Attributes:
        loss: of logits (n, n_classes) and labels as in `trainables.datasets.loading.Split`; a mean over
            samples, or over the marks that are known (0, with a gradient of 0, if none is).
        each: the summands of that mean, (n,), before it is divided.
        weights: of labels, (n,): what the mean divides by is their sum. By it the losses of parts of a batch
            add up to that of the whole.
        scores: of logits (n, n_classes), probabilities of the same shape, float64, so that confident
            predictions keep their order.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    each: Callable[[Tensor, Tensor], Tensor]
    weights: Callable[[Tensor], Tensor]
    scores: Callable[[Tensor], Tensor]

    def weight(self, labels: Tensor) -> Tensor:
        """Return the sum of `weights`: a 0-dimensional float64 on their device, so that nothing waits."""
        return self.weights(labels).sum(dtype=torch.float64)


def build_objective(
    task: str,
    *,
    label_smoothing: float = 0.0,
    class_weights: np.ndarray | None = None,
    device: torch.device | None = None,
) -> Objective:
    """Return cross-entropy with softmax, or for `multilabel` binary cross-entropy with sigmoid.

    Args:
        label_smoothing: of the cross-entropy; binary cross-entropy has none.
        class_weights: (n_classes,); of the cross-entropy a class's part in the mean, of the binary one the
            weight of a label's positives.
        device: of the logits and labels.

    Raises:
        ValueError: another task.
        SpecError: label smoothing of `multilabel`.
    """
    check_task(task)
    weights = None if class_weights is None else torch.from_numpy(class_weights).float().to(device)
    if task == "multilabel":
        if label_smoothing:
            raise SpecError(
                f"training.label_smoothing must be 0 where an image can have several labels, got "
                f"{label_smoothing}"
            )
        return _multilabel(weights)
    return _multiclass(weights, label_smoothing)


def balanced_weights(task: str, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return weights by the inverse of the frequency in `labels`.

    Of classes n / (n_classes · n_k), as in scikit-learn's `balanced`; of labels negatives / positives, of
    the known marks. A class without samples, or a label without positives, has weight 0.
    """
    if task == "multilabel":
        positives, negatives = (labels == 1).sum(0), (labels == 0).sum(0)
        return np.divide(negatives, positives, out=np.zeros(n_classes), where=positives > 0)
    counts = np.bincount(labels, minlength=n_classes)
    return np.divide(len(labels), n_classes * counts, out=np.zeros(n_classes), where=counts > 0)


def check_task(task: str) -> None:
    """Refuse what is no task.

    Raises:
        ValueError: names the tasks.
    """
    if task not in TASKS:
        raise ValueError(unknown_choice("task", task, TASKS))


def _multiclass(weights: Tensor | None, label_smoothing: float) -> Objective:
    def cross_entropy(logits: Tensor, labels: Tensor, *, reduction: str) -> Tensor:
        of_kind = None if weights is None else weights.to(logits)
        return F.cross_entropy(
            logits, labels, weight=of_kind, label_smoothing=label_smoothing, reduction=reduction
        )

    def weights_of(labels: Tensor) -> Tensor:
        return torch.ones_like(labels) if weights is None else weights[labels]

    return Objective(
        loss=partial(cross_entropy, reduction="mean"),
        each=partial(cross_entropy, reduction="none"),
        weights=weights_of,
        scores=lambda logits: torch.softmax(logits.double(), dim=1),
    )


def _multilabel(weights: Tensor | None) -> Objective:
    def each(logits: Tensor, labels: Tensor) -> Tensor:
        of_kind = None if weights is None else weights.to(logits)
        # The loss of an unknown mark is computed and multiplied by 0, so that shapes stay fixed.
        losses = F.binary_cross_entropy_with_logits(
            logits, (labels == 1).to(logits.dtype), pos_weight=of_kind, reduction="none"
        )
        return (losses * (labels != UNKNOWN)).sum(1)

    def weights_of(labels: Tensor) -> Tensor:
        return (labels != UNKNOWN).sum(1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return each(logits, labels).sum() / weights_of(labels).sum().clamp(min=1)

    return Objective(loss, each, weights_of, lambda logits: torch.sigmoid(logits.double()))
