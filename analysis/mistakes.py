"""Where trained networks go wrong, and where they disagree: by sample and by class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.predictions import Predictions, align, ensemble

ERROR_COLUMNS = (
    "setting", "sample_id", "group", "class", "label", "predicted", "score", "label_score", "n_wrong",
    "n_trials",
)  # fmt: skip
DISAGREEMENT_COLUMNS = ("setting", "sample_id", "group", "label", "within", "between", "excess")
NO, YES = "no", "yes"


@dataclass(frozen=True)
class Confusion:
    """What the samples of each class were taken for, by the trials of a cell.

    Attributes:
        rows: the true classes; of several labels `<label>: no` and `<label>: yes`.
        columns: the predicted ones; of several labels `no` and `yes`.
        counts: (n_rows, n_columns) samples, mean over trials; marks that are not known are left out.
    """

    setting: str
    init: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: np.ndarray
    n_trials: int

    @property
    def shares(self) -> np.ndarray:
        """The counts as shares of their row; NaN for a class that does not occur."""
        sums = self.counts.sum(1, keepdims=True)
        return np.divide(self.counts, sums, out=np.full(self.counts.shape, np.nan), where=sums > 0)


@dataclass(frozen=True)
class Mistakes:
    """The mistakes of the trials of one setting.

    Attributes:
        errors: see `confident_errors`.
        disagreements: see `disagreements`.
        confusions: one per initialization.
    """

    setting: str
    errors: pd.DataFrame
    disagreements: pd.DataFrame
    confusions: tuple[Confusion, ...]


def find_mistakes(
    finished: pd.DataFrame, predictions: Mapping[str, Predictions], *, n_samples: int = 12
) -> tuple[Mistakes, ...]:
    """Look for mistakes in every setting that has predictions.

    Args:
        finished: rows of finished trials.
        predictions: of one split, by trial_id; trials without are left out.
        n_samples: rows of `errors` (per label, if there are several) and of `disagreements`.

    Raises:
        ValueError: trials of one setting were not tested on the same samples.
    """
    found = []
    for setting, rows in finished.groupby("setting", sort=False):
        cells = {
            str(init): [predictions[key] for key in cell["trial_id"] if key in predictions]
            for init, cell in rows.groupby("init", sort=False)
        }
        cells = {init: trials for init, trials in cells.items() if trials}
        if cells:
            trials = [one for cell in cells.values() for one in cell]
            found.append(
                Mistakes(
                    str(setting),
                    confident_errors(trials, setting=str(setting), n_samples=n_samples),
                    disagreements(cells, setting=str(setting), n_samples=n_samples),
                    tuple(confusion(cells[init], setting=str(setting), init=init) for init in cells),
                )
            )
    return tuple(found)


def confident_errors(trials: Sequence[Predictions], *, setting: str, n_samples: int = 12) -> pd.DataFrame:
    """Return the samples that all trials together are most sure of, and wrong about.

    Returns:
        ERROR_COLUMNS, most confident first: `score` and `label_score` are the mean probabilities of the
        class that is predicted from the means, and of the true one; `n_wrong` of `n_trials` are wrong by
        themselves. Of several labels each has its own errors, named in `class` (else empty), with `no` and
        `yes` as label and prediction; then `score` is |score − label|. Marks that are not known are left out.
    """
    aligned = align(trials)
    mean = ensemble(aligned)
    if mean.task == "multilabel":
        parts = [_label_errors(mean, aligned, i, n_samples) for i in range(len(mean.classes))]
        rows = pd.concat(parts, ignore_index=True)
    else:
        rows = _class_errors(mean, aligned, n_samples)
    return rows.assign(setting=setting, n_trials=len(trials))[list(ERROR_COLUMNS)]


def disagreements(
    cells: Mapping[str, Sequence[Predictions]], *, setting: str, n_samples: int = 12
) -> pd.DataFrame:
    """Return the samples on which seeds differ most, and those on which initializations differ most.

    Args:
        cells: the trials by initialization.

    Returns:
        DISAGREEMENT_COLUMNS; up to `n_samples` of each kind. All are variances of probabilities, summed over
        classes: `within` between the seeds of a cell, mean over cells (NaN if none has two); `between`
        between the means of the cells (NaN for one cell); `excess` is `between` less what the seeds
        alone would give (about 0 where initializations do not differ, and often below).
    """
    aligned = align([one for trials in cells.values() for one in trials])
    remaining = iter(aligned)
    scores = [np.stack([next(remaining).scores for _ in trials]) for trials in cells.values()]
    n_rows, nothing = len(aligned[0].sample_ids), np.nan
    spreads = [of_cell.var(0, ddof=1).sum(1) for of_cell in scores if len(of_cell) > 1]
    within = np.mean(spreads, axis=0) if spreads else np.full(n_rows, nothing)
    means = np.stack([of_cell.mean(0) for of_cell in scores])
    between = means.var(0, ddof=1).sum(1) if len(means) > 1 else np.full(n_rows, nothing)
    # The mean of n seeds varies by an n-th of what they do.
    excess = between - within * np.mean([1 / len(of_cell) for of_cell in scores])
    rows = pd.DataFrame(
        {
            "setting": setting,
            "sample_id": aligned[0].sample_ids,
            "group": aligned[0].groups,
            "label": [_label_text(aligned[0], i) for i in range(n_rows)],
            "within": within,
            "between": between,
            "excess": excess,
        }
    )
    # Of single seeds it is not known what they alone would give.
    kinds = ("within", "excess") if spreads else ("between",)
    tops = [_top(rows.dropna(subset=[kind]), kind, n_samples) for kind in kinds]
    return pd.concat(tops, ignore_index=True).drop_duplicates("sample_id", ignore_index=True)


def confusion(trials: Sequence[Predictions], *, setting: str, init: str) -> Confusion:
    """Return how often the samples of each class are taken for each, mean over the trials of a cell."""
    first = trials[0]
    counts = np.mean([np.concatenate(list(_counts(one))) for one in align(trials)], axis=0)
    if first.task == "multilabel":
        rows = tuple(f"{name}: {mark}" for name in first.classes for mark in (NO, YES))
        columns: tuple[str, ...] = (NO, YES)
    else:
        rows = columns = first.classes
    return Confusion(setting, init, rows, columns, counts, len(trials))


def _counts(one: Predictions) -> Iterator[np.ndarray]:
    """Yield the rows of the confusion matrix: all at once, or those of one label after another."""
    if one.task != "multilabel":
        yield one.known.T @ one.predicted
        return
    for known, predicted in zip(one.known.T, one.predicted.T, strict=True):
        truth = np.stack([known == 0, known == 1]).astype(float)
        yield truth @ np.column_stack([~predicted, predicted])


def _class_errors(mean: Predictions, trials: Sequence[Predictions], n_samples: int) -> pd.DataFrame:
    everyone, taken_for = np.arange(len(mean.labels)), mean.scores.argmax(1)
    classes = np.array(mean.classes, dtype=object)
    rows = pd.DataFrame(
        {
            "sample_id": mean.sample_ids,
            "group": mean.groups,
            "class": "",
            "label": classes[mean.labels],
            "predicted": classes[taken_for],
            "score": mean.scores[everyone, taken_for],
            "label_score": mean.scores[everyone, mean.labels],
            "n_wrong": np.sum([one.scores.argmax(1) != one.labels for one in trials], axis=0),
        }
    )
    return _top(rows[taken_for != mean.labels], "score", n_samples)


def _label_errors(
    mean: Predictions, trials: Sequence[Predictions], number: int, n_samples: int
) -> pd.DataFrame:
    known, predicted = mean.known[:, number], mean.predicted[:, number]
    error = np.abs(mean.scores[:, number] - known)
    words = np.array([NO, YES], dtype=object)
    is_wrong = ~np.isnan(known) & (predicted != (known == 1))
    rows = pd.DataFrame(
        {
            "sample_id": mean.sample_ids,
            "group": mean.groups,
            "class": mean.classes[number],
            "label": words[(known == 1).astype(int)],
            "predicted": words[predicted.astype(int)],
            "score": error,
            "label_score": 1 - error,
            "n_wrong": np.sum([one.predicted[:, number] != (known == 1) for one in trials], axis=0),
        }
    )
    return _top(rows[is_wrong], "score", n_samples)


def _top(rows: pd.DataFrame, column: str, n: int) -> pd.DataFrame:
    return rows.sort_values([column, "sample_id"], ascending=[False, True]).head(n)


def _label_text(one: Predictions, sample: int) -> str:
    """Name the class of a sample, or the labels it is known to have."""
    if one.task != "multilabel":
        return one.classes[one.labels[sample]]
    return ", ".join(name for name, mark in zip(one.classes, one.labels[sample], strict=True) if mark == 1)
