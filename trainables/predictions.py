"""The last word on a trial: its predictions on validation and test images, and their scores."""

import numpy as np
import pandas as pd

from trainables.datasets.loading import Dataset, Split
from trainables.record import TrialWriter
from trainables.scores import score, score_by_class


def record_predictions(
    record: TrialWriter, dataset: Dataset, *, val_scores: np.ndarray, test_scores: np.ndarray
) -> dict[str, float]:
    """Log every prediction of both splits, and return the test metrics, over all classes and by class.

    Args:
        val_scores, test_scores: (n_samples, n_classes) probabilities.
    """
    record.log_predictions("test", prediction_table(dataset, dataset.test, test_scores))
    record.log_predictions("val", prediction_table(dataset, dataset.val, val_scores))
    labels = dataset.test.labels
    metrics = {
        **score(dataset.task, test_scores, labels, referable_grade=dataset.referable_grade),
        **score_by_class(dataset.task, test_scores, labels, dataset.classes),
    }
    return {f"test_{name}": value for name, value in metrics.items()}


def prediction_table(dataset: Dataset, split: Split, scores: np.ndarray) -> pd.DataFrame:
    """Return one row per sample: sample_id, group, label (one column per label if several), scores."""
    columns: dict[str, np.ndarray] = {"sample_id": split.sample_ids, "group": split.groups}
    if split.labels.ndim == 1:
        columns["label"] = split.labels
    else:
        columns |= {f"label_{name}": split.labels[:, i] for i, name in enumerate(dataset.classes)}
    columns |= {f"score_{name}": scores[:, i] for i, name in enumerate(dataset.classes)}
    return pd.DataFrame(columns)
