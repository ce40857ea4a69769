"""Variance and covariance of areas under the ROC curve after DeLong, DeLong & Clarke-Pearson (1988).

Computed from midranks as Sun & Xu (2014, IEEE Signal Processing Letters 21:1389) show: O(n log n) instead of
every positive against every negative. The samples are assumed independent: not for several images a patient.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Areas:
    """Areas of several score vectors on the same samples.

    Attributes:
        auroc: (n_vectors,)
        covariance: (n_vectors, n_vectors)
    """

    auroc: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class NormalInterval:
    """An estimate with a normal interval.

    Attributes:
        se: standard error.
        low, high: NaN where the variance is 0 (a perfect separation), as nothing is known of the spread then.
    """

    estimate: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """The difference of two areas.

    Attributes:
        p_value: two-sided; NaN where the difference has no variance.
    """

    difference: NormalInterval
    p_value: float


def delong(labels: np.ndarray, scores: np.ndarray) -> Areas:
    """Return the areas and their covariance.

    Args:
        labels: (n_samples,) 0 or 1.
        scores: (n_samples,) or (n_samples, n_vectors), finite; higher is more likely 1.

    Raises:
        ValueError: fewer than two samples of a class, other labels, or scores that do not fit.
    """
    columns = scores[:, None] if scores.ndim == 1 else scores
    _check(labels, columns)
    positive = labels == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    ranks = _midranks(columns)
    # Sun & Xu (2014), eq. 5–9: how much of the other class a sample is ranked right against.
    of_positives = (ranks[positive] - _midranks(columns[positive])) / n_negative
    of_negatives = 1 - (ranks[~positive] - _midranks(columns[~positive])) / n_positive
    covariance = _covariance(of_positives) / n_positive + _covariance(of_negatives) / n_negative
    return Areas(of_positives.mean(0), covariance)


def auroc_interval(labels: np.ndarray, scores: np.ndarray, *, confidence: float = 0.95) -> NormalInterval:
    """Return the area of one score vector, (n_samples,), with its normal interval cut at 0 and 1."""
    areas = delong(labels, scores)
    interval = _normal(float(areas.auroc[0]), float(areas.covariance[0, 0]), confidence)
    low, high = (float(np.clip(bound, 0, 1)) for bound in (interval.low, interval.high))
    return NormalInterval(interval.estimate, interval.se, low, high)


def paired_test(labels: np.ndarray, x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95) -> PairedTest:
    """Compare the areas of two score vectors, x − y, on the same samples."""
    areas = delong(labels, np.column_stack([x, y]))
    contrast = np.array([1.0, -1.0])
    variance = float(contrast @ areas.covariance @ contrast)
    difference = _normal(float(contrast @ areas.auroc), variance, confidence)
    if math.isnan(difference.low):
        return PairedTest(difference, math.nan)
    return PairedTest(difference, float(2 * stats.norm.sf(abs(difference.estimate) / difference.se)))


def _normal(estimate: float, variance: float, confidence: float) -> NormalInterval:
    # Two equal rankings have a variance of 0 up to rounding.
    if variance < 1e-15:
        return NormalInterval(estimate, 0.0, math.nan, math.nan)
    se = math.sqrt(variance)
    half_width = float(stats.norm.ppf((1 + confidence) / 2)) * se
    return NormalInterval(estimate, se, estimate - half_width, estimate + half_width)


def _midranks(columns: np.ndarray) -> np.ndarray:
    return stats.rankdata(columns, method="average", axis=0)


def _covariance(columns: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(columns, rowvar=False))


def _check(labels: np.ndarray, columns: np.ndarray) -> None:
    if labels.ndim != 1 or columns.ndim != 2 or len(columns) != len(labels):
        raise ValueError(
            f"delong needs a row of scores for each label, got shapes {columns.shape} and {labels.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"delong needs labels 0 and 1, got {np.unique(labels)[:5].tolist()}")
    if not np.isfinite(columns).all():
        raise ValueError("delong needs finite scores, got some that are not")
    counts = int((labels == 1).sum()), int((labels == 0).sum())
    if min(counts) < 2:
        raise ValueError(
            f"delong needs at least 2 samples of each class, got {counts[0]} of 1 and {counts[1]} of 0"
        )
