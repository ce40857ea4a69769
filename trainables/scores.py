"""How well a network does its task: the metrics of a split, over all classes and by class.

scikit-learn is imported with the first score: it takes seconds, and whoever only trains can do without.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from trainables.datasets.table import UNKNOWN
from trainables.objectives import check_task

POSITIVE_FROM = 0.5
OVERALL = ("auroc", "auprc", "accuracy", "f1", "f1_micro")
BY_CLASS = ("auroc", "auprc", "f1")
# MLflow refuses other characters in the name of a metric.
_REFUSED = re.compile(r"[^\w\-. ]")


def score(
    task: str, scores: np.ndarray, labels: np.ndarray, *, referable_grade: int | None = None
) -> dict[str, float]:
    """Return auroc, auprc, accuracy, f1, f1_micro, and of grades kappa, of one split.

    The areas are of the last class if there are two, else the mean over classes (one against the rest)
    or labels; of grades they are of the probability of a grade of at least `referable_grade`. f1 is the
    mean over classes or labels, f1_micro that of all their marks together. A prediction is the class of the
    greatest score, or every label from 0.5; then accuracy is the share of correct marks. kappa is Cohen's,
    with quadratic weights. Marks that are not known count nowhere.

    Args:
        scores: (n, n_classes) probabilities.
        labels: (n,) class numbers, or (n, n_classes) marks 0, 1 or UNKNOWN.

    Returns:
        NaN where a quantity is not defined: a mean over classes if one of them (or its absence) does not
        occur, all of them if there are no samples or a score is not finite.
    """
    from sklearn.metrics import f1_score

    check_task(task)
    names = (*OVERALL, "kappa") if task == "ordinal" else OVERALL
    if len(scores) == 0 or not np.isfinite(scores).all():
        return dict.fromkeys(names, math.nan)
    marks = _marks(task, scores, labels)
    of_classes = [_one_class(*column) for column in marks]
    is_defined = all(not math.isnan(one["auroc"]) for one in of_classes)
    ranked = of_classes[-1:] if task == "multiclass" and len(of_classes) == 2 else of_classes
    truth, predicted = (np.concatenate([column[i] for column in marks]) for i in (0, 2))
    metrics = {
        **{name: _mean(one[name] for one in ranked) for name in ("auroc", "auprc")},
        "accuracy": _accuracy(task, scores, labels, truth, predicted),
        "f1": _mean(one["f1"] for one in of_classes) if is_defined else math.nan,
        "f1_micro": float(f1_score(truth, predicted, zero_division=0.0)) if len(truth) else math.nan,
    }
    if task == "ordinal":
        assert referable_grade is not None, "grades come with the one that counts as positive"
        is_referable = labels >= referable_grade
        referable = _one_class(is_referable, scores[:, referable_grade:].sum(1), is_referable)
        metrics |= {"auroc": referable["auroc"], "auprc": referable["auprc"]}
        metrics["kappa"] = _kappa(labels, scores.argmax(1), n_classes=scores.shape[1])
    return metrics


def score_by_class(
    task: str, scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """Return `auroc/<class>`, `auprc/<class>` and `f1/<class>` of one split, each class against the rest.

    Characters that MLflow refuses in names become `_`; where that leaves two classes with one name, or one
    with a name that is no part of a path (empty, `.`, `..`), the class number follows it.

    Returns:
        NaN where a class, or its absence, does not occur.
    """
    check_task(task)
    if len(scores) == 0 or not np.isfinite(scores).all():
        of_classes: list[Mapping[str, float]] = [dict.fromkeys(BY_CLASS, math.nan)] * len(classes)
    else:
        of_classes = [_one_class(*column) for column in _marks(task, scores, labels)]
    return {
        f"{name}/{label}": one[name]
        for label, one in zip(_metric_names(classes), of_classes, strict=True)
        for name in BY_CLASS
    }


def _metric_names(classes: Sequence[str]) -> list[str]:
    safe = [_REFUSED.sub("_", label) for label in classes]
    counts = Counter(safe)
    return [
        label if counts[label] == 1 and label not in ("", ".", "..") else f"{label} {i}".strip()
        for i, label in enumerate(safe)
    ]


def _marks(
    task: str, scores: np.ndarray, labels: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return per class the truth, the scores and the predictions, of the samples whose mark is known."""
    n_classes = scores.shape[1]
    if task == "multilabel":
        known = labels != UNKNOWN
        columns = [(labels[k, i] == 1, scores[k, i]) for i, k in enumerate(known.T)]
        return [(truth, ranked, ranked >= POSITIVE_FROM) for truth, ranked in columns]
    predicted = scores.argmax(1)
    return [(labels == i, scores[:, i], predicted == i) for i in range(n_classes)]


def _one_class(truth: np.ndarray, scores: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    if not truth.any() or truth.all():
        return dict.fromkeys(BY_CLASS, math.nan)
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "auprc": float(average_precision_score(truth, scores)),
        "f1": float(f1_score(truth, predicted, zero_division=0.0)),
    }


def _accuracy(
    task: str, scores: np.ndarray, labels: np.ndarray, truth: np.ndarray, predicted: np.ndarray
) -> float:
    correct = truth == predicted if task == "multilabel" else scores.argmax(1) == labels
    return float(correct.mean()) if len(correct) else math.nan


def _kappa(labels: np.ndarray, predicted: np.ndarray, *, n_classes: int) -> float:
    from sklearn.metrics import cohen_kappa_score

    # All of one grade, in truth and prediction alike: 0 / 0.
    if len(np.unique(np.concatenate([labels, predicted]))) < 2:
        return math.nan
    return float(cohen_kappa_score(labels, predicted, labels=range(n_classes), weights="quadratic"))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
