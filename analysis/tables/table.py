"""A table in two forms, and how numbers are written in it."""

from dataclasses import dataclass

import pandas as pd

from analysis.numerics.statistics import Summary

METRIC_NAMES = {
    "test_auroc": "AUROC",
    "test_auprc": "AUPRC",
    "test_accuracy": "accuracy",
    "test_f1": "F1",
    "test_f1_micro": "micro F1",
    "test_kappa": "kappa",
    "test_loss": "loss",
}


CLASS_METRICS = {"auroc": "AUROC", "f1": "F1"}


MEASURE_NAMES = {
    "svcca": "SVCCA",
    "mean_cca": "mean CCA",
    "pwcca": "PWCCA",
    "linear_cka": "linear CKA",
    "debiased_cka": "debiased CKA",
    "procrustes": "Procrustes",
    "knn_jaccard": "kNN Jaccard",
}


ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """A table in two forms.

    Attributes:
        name: of its files.
        note: what a reader must know to read it.
        data: tidy numbers, NaN where there is none.
        display: text, the columns as people read them.
        links: an address for the first cell of every row, or none at all.
    """

    name: str
    title: str
    note: str
    data: pd.DataFrame
    display: pd.DataFrame
    links: tuple[str, ...] = ()


def metric_name(metric: str) -> str:
    """`validation AUROC` for `val_auroc`."""
    split, _, quantity = metric.partition("_")
    names = {"val": "validation", "train": "training", "test": "test"}
    return f"{names.get(split, split)} {METRIC_NAMES.get(f'test_{quantity}', quantity)}"


def mean_and_sd(summary: Summary, *, digits: int = 4) -> str:
    """`0.9731 ± 0.0021`; without ± for one seed."""
    if summary.n == 0:
        return ABSENT
    if summary.n == 1:
        return f"{summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f} ± {summary.sd:.{digits}f}"


def signed(value: float, *, digits: int = 4) -> str:
    """`+0.0120` or `−0.0120`, with a true minus sign; no sign where all digits are 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def with_interval(difference: Summary) -> str:
    """`+0.0120 [−0.0031, +0.0271]`; without the interval for one pair."""
    if difference.n == 0:
        return ABSENT
    if difference.n == 1:
        return f"{signed(difference.mean)} [one pair]"
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def number(value: float, *, digits: int = 4) -> str:
    """`0.9731`, or ABSENT for NaN."""
    return ABSENT if pd.isna(value) else f"{value:.{digits}f}"
