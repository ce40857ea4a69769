"""Trees on pixels, the baselines of the freeze study (Patel 2019).

The study tells no settings: these are scikit-learn's defaults. They are fitted on the training split, as the
networks are; in the study they had 80 % of the samples and the networks 60 %.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from trainables.datasets.loading import Dataset, Split
from trainables.datasets.table import UNKNOWN
from trainables.errors import DataError, unknown_choice


def _build_tree(seed: int, threads: int, class_weight: str | None) -> DecisionTreeClassifier:
    """Build a tree of unlimited depth that splits by Gini impurity."""
    return DecisionTreeClassifier(random_state=seed, class_weight=class_weight)


def _build_forest(seed: int, threads: int, class_weight: str | None) -> RandomForestClassifier:
    """Build 100 such trees, each on a bootstrap sample, with a square root of the pixels tried at a split."""
    return RandomForestClassifier(random_state=seed, n_jobs=threads, class_weight=class_weight)


BASELINES: dict[str, Callable[[int, int, str | None], Any]] = {
    "decision_tree": _build_tree,
    "random_forest": _build_forest,
}


@dataclass(frozen=True)
class Baseline:
    """Fitted classifiers: one for all classes, or one for each label of a multilabel task.

    Attributes:
        classifiers: scikit-learn's; their `classes_` are the class numbers (or marks) they have seen.
    """

    classifiers: tuple[Any, ...]
    n_classes: int
    is_multilabel: bool

    def scores(self, split: Split) -> np.ndarray:
        """Return (n_samples, n_classes) float64 probabilities; 0 for what was not there to be learned."""
        pixels = _pixels(split)
        if self.is_multilabel:
            columns = [_probabilities(c, pixels, n_classes=2)[:, 1] for c in self.classifiers]
            return np.stack(columns, axis=1)
        return _probabilities(self.classifiers[0], pixels, n_classes=self.n_classes)


def fit_baseline(
    name: str,
    dataset: Dataset,
    *,
    seed: int,
    threads: int,
    class_weights: Literal["none", "balanced"] = "none",
) -> Baseline:
    """Fit a baseline on the pixels of the training split; the result depends on the seed, not on `threads`.

    Pixels are taken as they are: trees look at their order alone, so scaling them would change nothing.
    scikit-learn holds them as float32, four times the memory of the images.

    Args:
        class_weights: as in the training of networks; `balanced` weighs each label's marks by themselves.

    Raises:
        ValueError: no such baseline.
        DataError: a label without a known mark.
    """
    if name not in BASELINES:
        raise ValueError(unknown_choice("baseline", name, BASELINES))
    class_weight = None if class_weights == "none" else class_weights

    def build() -> Any:
        return BASELINES[name](seed, threads, class_weight)

    pixels, labels = _pixels(dataset.train), dataset.train.labels
    if dataset.task != "multilabel":
        classifier = build().fit(pixels, labels)
        return Baseline((classifier,), dataset.n_outputs, is_multilabel=False)
    classifiers = []
    for label, marks in zip(dataset.classes, labels.T, strict=True):
        known = marks != UNKNOWN
        if not known.any():
            raise DataError(
                f"{name}: {label} must have a known mark in the training split, got none; "
                "leave it out of dataset.classes"
            )
        classifiers.append(build().fit(pixels[known], marks[known]))
    return Baseline(tuple(classifiers), dataset.n_outputs, is_multilabel=True)


def _pixels(split: Split) -> np.ndarray:
    return np.asarray(split.images).reshape(len(split.images), -1)


def _probabilities(classifier: Any, pixels: np.ndarray, *, n_classes: int) -> np.ndarray:
    scores = np.zeros((len(pixels), n_classes))
    scores[:, classifier.classes_] = classifier.predict_proba(pixels)
    return scores
