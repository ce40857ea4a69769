"""What trials predicted, as arrays: read, put in one order, and averaged into ensembles."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from analysis.numerics.resampling import Column
from trainables.datasets.spec import Task
from trainables.datasets.table import UNKNOWN
from trainables.errors import TrackingError, UserError
from trainables.scores import POSITIVE_FROM, score

if TYPE_CHECKING:
    from trainables.record import RecordReader, TrialRecord

_LABEL, _LABELS, _SCORES = "label", "label_", "score_"


@dataclass(frozen=True)
class Predictions:
    """The scores of one trial, or of an ensemble, on one split.

    Attributes:
        sample_ids: (n_samples,) str, unique.
        groups: (n_samples,) str: the patient or lesion.
        labels: (n_samples,) int64 class numbers, or (n_samples, n_classes) float 0, 1 or NaN (not known).
        scores: (n_samples, n_classes) probabilities, finite.
        referable_grade: of an ordinal task, the class from which on a grade counts as positive.
    """

    task: Task
    classes: tuple[str, ...]
    sample_ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    referable_grade: int | None = None

    @property
    def n_groups(self) -> int:
        return len(np.unique(self.groups))

    @property
    def known(self) -> np.ndarray:
        """(n_samples, n_classes) 1, 0 or NaN: whether a sample is of a class."""
        if self.task == "multilabel":
            return self.labels
        return (self.labels[:, None] == np.arange(len(self.classes))).astype(float)

    @property
    def predicted(self) -> np.ndarray:
        """(n_samples, n_classes) bool: the class of the greatest score, or every label from 0.5."""
        if self.task == "multilabel":
            return self.scores >= POSITIVE_FROM
        return self.scores.argmax(1)[:, None] == np.arange(len(self.classes))


@dataclass(frozen=True)
class LoadedPredictions:
    """What could be read.

    Attributes:
        by_trial: by trial_id.
        missing: why there are none, by trial_id.
    """

    by_trial: Mapping[str, Predictions]
    missing: Mapping[str, str]


def load_predictions(
    reader: "RecordReader", records: Iterable["TrialRecord"], *, split: str = "test"
) -> LoadedPredictions:
    """Read the predictions of trials; what cannot be read is noted and hides nothing else."""
    by_trial: dict[str, Predictions] = {}
    missing: dict[str, str] = {}
    for record in records:
        try:
            by_trial[record.trial_id] = read_predictions(
                reader.predictions(record, split), referable_grade=record.spec.dataset.referable_grade
            )
        except TrackingError:
            raise  # nothing is known of the trial, and it may be read the next time
        except (UserError, ValueError) as error:
            missing[record.trial_id] = str(error)
    return LoadedPredictions(by_trial, missing)


def read_predictions(
    table: pd.DataFrame, *, referable_grade: int | Literal["none"] | None = None
) -> Predictions:
    """Return stored predictions as arrays.

    Args:
        table: sample_id, group, `label` or one `label_<class>` per class, one `score_<class>` per class.
        referable_grade: that of the trial's dataset.

    Raises:
        ValueError: missing columns, no samples, samples that come twice, or scores that are not finite.
    """
    classes = tuple(name.removeprefix(_SCORES) for name in map(str, table) if name.startswith(_SCORES))
    is_multilabel = _LABEL not in table
    of_labels = [_LABELS + name for name in classes] if is_multilabel else [_LABEL]
    absent = [name for name in ("sample_id", "group", *of_labels) if name not in table]
    if absent or not classes:
        raise ValueError(f"predictions lack the columns {', '.join(absent) or 'score_<class>'}")
    scores = table[[_SCORES + name for name in classes]].to_numpy(float)
    ids = table["sample_id"].to_numpy(str)
    if len(ids) == 0:
        raise ValueError("predictions have no samples")
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"predictions name sample {_first_twice(ids)!r} more than once")
    if not np.isfinite(scores).all():
        raise ValueError(f"the scores of sample {str(ids[~np.isfinite(scores).all(1)][0])!r} are not finite")
    labels = table[of_labels].to_numpy(float)
    allowed = (0, 1, UNKNOWN) if is_multilabel else range(len(classes))
    is_label = np.isin(labels, list(allowed)) | (is_multilabel & np.isnan(labels))
    if not is_label.all():
        raise ValueError(
            f"the label of sample {str(ids[~is_label.all(1)][0])!r} must be one of "
            f"{', '.join(map(str, allowed))}, got {labels[~is_label][0]:g}"
        )
    grade = referable_grade if isinstance(referable_grade, int) else None
    return Predictions(
        task="multilabel" if is_multilabel else "multiclass" if grade is None else "ordinal",
        classes=classes,
        sample_ids=ids,
        groups=table["group"].to_numpy(str),
        labels=np.where(labels == UNKNOWN, np.nan, labels) if is_multilabel else labels[:, 0].astype(int),
        scores=scores,
        referable_grade=grade,
    )


def align(predictions: Sequence[Predictions]) -> list[Predictions]:
    """Return the predictions in the order of samples of the first.

    Raises:
        ValueError: the trials differ in task, classes, samples, groups or labels.
    """
    return [_in_order_of(predictions[0], other) for other in predictions]


def ensemble(predictions: Sequence[Predictions]) -> Predictions:
    """Return the mean probability of several trials, in the order of samples of the first.

    Raises:
        ValueError: no trials, or trials that cannot be aligned.
    """
    if not predictions:
        raise ValueError("an ensemble needs at least one trial, got none")
    aligned = align(predictions)
    return replace(aligned[0], scores=np.mean([one.scores for one in aligned], axis=0))


def ensemble_metrics(predictions: Sequence[Predictions]) -> dict[str, float]:
    """Return the metrics (auroc, auprc, accuracy, f1, …) of the mean probability of several trials."""
    return metrics(ensemble(predictions))


def metrics(predictions: Predictions) -> dict[str, float]:
    """Return the metrics by which a trial is scored: of its own predictions those it has logged."""
    labels = predictions.labels
    if predictions.task == "multilabel":
        labels = np.where(np.isnan(labels), UNKNOWN, labels)
    return score(predictions.task, predictions.scores, labels, referable_grade=predictions.referable_grade)


def decided_columns(predictions: Predictions) -> list[Column]:
    """Return every class (or label) against the rest: what F1 is the mean over."""
    columns = zip(predictions.known.T, predictions.scores.T, predictions.predicted.T, strict=True)
    return [Column(*column) for column in columns]


def ranked_columns(predictions: Predictions) -> list[Column]:
    """Return what AUROC and AUPRC are the mean over: as `trainables.scores.score` defines them."""
    columns = decided_columns(predictions)
    if predictions.task == "ordinal":
        assert predictions.referable_grade is not None, "grades come with the one that counts as positive"
        grade = predictions.referable_grade
        is_referable = predictions.labels >= grade
        return [Column(is_referable.astype(float), predictions.scores[:, grade:].sum(1), is_referable)]
    return columns[-1:] if predictions.task == "multiclass" and len(columns) == 2 else columns


def _in_order_of(first: Predictions, other: Predictions) -> Predictions:
    _check_same_task(first, other)
    found = other if np.array_equal(first.sample_ids, other.sample_ids) else _reordered(first, other)
    for what, mine, theirs in (("label", first.labels, found.labels), ("group", first.groups, found.groups)):
        differs = (mine != theirs) & ~((mine != mine) & (theirs != theirs))  # NaN is as NaN
        if differs.any():
            sample = first.sample_ids[np.argwhere(differs)[0, 0]]
            raise ValueError(f"the {what} of sample {str(sample)!r} differs between trials: the data changed")
    return found


def _check_same_task(first: Predictions, other: Predictions) -> None:
    if (first.task, first.classes, first.referable_grade) != (
        other.task, other.classes, other.referable_grade,
    ):  # fmt: skip
        raise ValueError(
            f"expected predictions of one task, got {_task(first)} and {_task(other)}; "
            "compare trials of one dataset"
        )


def _reordered(first: Predictions, other: Predictions) -> Predictions:
    only_one = np.setxor1d(first.sample_ids, other.sample_ids)
    if len(only_one):
        raise ValueError(
            f"expected predictions of the same samples, got {len(first.sample_ids)} and "
            f"{len(other.sample_ids)} of which {len(only_one)} are in one only, such as "
            f"{str(only_one[0])!r}; train these trials on the same data"
        )
    # The n-th smallest id of `other` goes where the n-th smallest of `first` is.
    order = np.empty(len(first.sample_ids), int)
    order[np.argsort(first.sample_ids)] = np.argsort(other.sample_ids)
    return replace(
        other,
        sample_ids=other.sample_ids[order],
        groups=other.groups[order],
        labels=other.labels[order],
        scores=other.scores[order],
    )


def _task(predictions: Predictions) -> str:
    grade = predictions.referable_grade
    return f"{predictions.task} of {', '.join(predictions.classes)}" + (f" from {grade}" if grade else "")


def _first_twice(ids: np.ndarray) -> str:
    names, counts = np.unique(ids, return_counts=True)
    return str(names[counts > 1][0])
