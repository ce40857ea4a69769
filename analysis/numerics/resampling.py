"""The bootstrap of ranking and decision metrics over groups of samples (patients, lesions).

A replicate draws as many groups as there are, with replacement (Efron 1979; for clusters: Davison & Hinkley
1997, §3.8), so that a sample has a whole number as weight. With weights, a metric of all replicates needs one
sort of the scores and cumulative sums, not a sort per replicate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# So many columns of 5,000 numbers stay in the cache; more at once is slower.
REPLICATES_AT_ONCE = 32


@dataclass(frozen=True)
class Column:
    """One class (or label) against the rest.

    Attributes:
        labels: (n_samples,) 0, 1, or NaN where it is not known; such samples count nowhere.
        scores: (n_samples,) finite; higher is more likely 1.
        predicted: (n_samples,) bool.
    """

    labels: np.ndarray
    scores: np.ndarray
    predicted: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.labels)
        shapes = {np.shape(values) for values in (self.labels, self.scores, self.predicted)}
        if shapes != {(n,)}:
            raise ValueError(
                f"a column has one label, score and prediction a sample, got shapes {sorted(shapes)}"
            )
        known = self.labels[~np.isnan(self.labels)]
        if not np.isin(known, (0, 1)).all():
            raise ValueError(f"labels must be 0, 1 or NaN (not known), got {np.unique(known)[:5].tolist()}")
        if not np.isfinite(self.scores).all():
            raise ValueError(
                f"scores must be finite, got {int((~np.isfinite(self.scores)).sum())} of {n} not"
            )


@dataclass(frozen=True)
class Replicates:
    """The metrics of every replicate, each (n_replicates,): means over columns; NaN where one has none."""

    auroc: np.ndarray
    auprc: np.ndarray
    f1: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A quantity with its percentile interval.

    Attributes:
        estimate: of the samples as they are; it need not lie in the middle.
        n_replicates: those that gave a number.
        n_undefined: those that did not, as a class was not drawn.
    """

    estimate: float
    low: float
    high: float
    n_replicates: int
    n_undefined: int


def draw_weights(groups: np.ndarray, *, n_replicates: int = 1000, seed: int = 0) -> np.ndarray:
    """Draw whole groups with replacement, as many as there are.

    Args:
        groups: (n_samples,) whom a sample is of; samples of one group are drawn together.

    Returns:
        (n_replicates, n_samples) uint16: how often a sample is drawn. Equal arguments give equal weights; the
        first replicates do not depend on how many follow.

    Raises:
        ValueError: fewer than two groups, or no replicates.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    n_groups = len(names)
    if n_groups < 2:
        raise ValueError(f"the bootstrap needs at least 2 groups to draw from, got {n_groups}")
    if n_replicates < 1:
        raise ValueError(f"n_replicates must be at least 1, got {n_replicates}")
    generator = np.random.default_rng(seed)
    weights = np.empty((n_replicates, len(groups)), np.uint16)
    for replicate in weights:
        drawn = np.bincount(generator.integers(n_groups, size=n_groups), minlength=n_groups)
        replicate[:] = drawn[group_of]
    return weights


def resample_metrics(
    ranked: Sequence[Column], decided: Sequence[Column], *, weights: np.ndarray
) -> Replicates:
    """Return AUROC and AUPRC, averaged over `ranked`, and F1, averaged over `decided`, of every replicate.

    Ties count half in AUROC (midranks); AUPRC is the average precision, with one threshold per distinct
    score. F1 is 0 where nothing is predicted and nothing right.

    Args:
        weights: (n_replicates, n_samples) whole numbers, such as those of `draw_weights`; all 1 give the
            metrics of the samples themselves.

    Returns:
        NaN for a replicate in which a column has no 0 or no 1.
    """
    _check(ranked, decided, weights)
    rankings, decisions = [_Ranking.of(column) for column in ranked], _Decisions.of(decided)
    parts = []
    for start in range(0, len(weights), REPLICATES_AT_ONCE):
        # Samples first, replicates side by side: sums over samples add whole rows.
        chunk = np.ascontiguousarray(weights[start : start + REPLICATES_AT_ONCE].T, dtype=np.int32)
        areas = np.mean([ranking.areas(chunk) for ranking in rankings], axis=0)
        parts.append([*areas, decisions.mean_f1(chunk)])
    return Replicates(*np.concatenate(parts, axis=1))


def percentile_interval(estimate: float, replicates: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Return the central part of the replicates that are numbers; NaN bounds if none is, or no estimate.

    A difference of two metrics has the difference of their replicates, drawn with the same weights.
    """
    valid = replicates[~np.isnan(replicates)]
    n_undefined = len(replicates) - len(valid)
    if len(valid) == 0 or math.isnan(estimate):
        return Interval(estimate, math.nan, math.nan, len(valid), n_undefined)
    low, high = np.quantile(valid, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), len(valid), n_undefined)


@dataclass(frozen=True)
class _Ranking:
    """Where the samples of a column stand, best first.

    Attributes:
        positives, negatives: sample numbers, by descending score.
        above, upto: per positive, the negatives with a higher score, and with one at least as high.
        equal: per positive, the positives with a score at least as high.
    """

    positives: np.ndarray
    negatives: np.ndarray
    above: np.ndarray
    upto: np.ndarray
    equal: np.ndarray

    @classmethod
    def of(cls, column: Column) -> "_Ranking":
        order = np.argsort(-column.scores, kind="stable")
        positives, negatives = (order[column.labels[order] == mark] for mark in (1, 0))
        high, low = -column.scores[positives], -column.scores[negatives]
        return cls(
            positives,
            negatives,
            above=np.searchsorted(low, high, side="left"),
            upto=np.searchsorted(low, high, side="right"),
            equal=np.searchsorted(high, high, side="right"),
        )

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return AUROC and AUPRC per replicate; weights are (n_samples, n_replicates)."""
        drawn = weights[self.positives]
        positives, negatives = _sums_before(drawn), _sums_before(weights[self.negatives])
        n_positive, n_negative = positives[-1], negatives[-1]
        upto = negatives[self.upto]
        # Products of two sums need not fit into 32 bits.
        lost = np.einsum("ij,ij->j", drawn, negatives[self.above] + upto, dtype=float) / 2
        found = positives[self.equal]
        # Where nothing was drawn up to here, there is nothing found either: 0 / 1.
        precision = found / np.maximum(found + upto, 1)
        auroc = 1 - lost / np.maximum(n_positive.astype(float) * n_negative, 1)
        auprc = np.einsum("ij,ij->j", drawn, precision) / np.maximum(n_positive, 1)
        missing = (n_positive == 0) | (n_negative == 0)
        return np.where(missing, math.nan, auroc), np.where(missing, math.nan, auprc)


def _sums_before(weights: np.ndarray) -> np.ndarray:
    """Return (n + 1, n_replicates): row i is the sum of the first i rows."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]), weights.dtype)
    np.cumsum(weights, axis=0, dtype=weights.dtype, out=sums[1:])
    return sums


@dataclass(frozen=True)
class _Decisions:
    """Which samples count in F1, each (n_columns, n_samples) as 0 and 1: a sum over them is a product."""

    known: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, columns: Sequence[Column]) -> "_Decisions":
        labels = np.stack([column.labels for column in columns])
        predicted = np.stack([column.predicted for column in columns])
        known, true = ~np.isnan(labels), labels == 1
        return cls(*(marks.astype(float) for marks in (known, true, known & predicted, true & predicted)))

    def mean_f1(self, weights: np.ndarray) -> np.ndarray:
        """Return the mean over columns per replicate; weights are (n_samples, n_replicates)."""
        drawn = weights.astype(float)
        n_known, n_true, n_predicted, n_right = (
            marks @ drawn for marks in (self.known, self.true, self.predicted, self.right)
        )
        f1 = 2 * n_right / np.maximum(n_true + n_predicted, 1)
        return np.where((n_true == 0) | (n_true == n_known), math.nan, f1).mean(0)


def _check(ranked: Sequence[Column], decided: Sequence[Column], weights: np.ndarray) -> None:
    if not ranked or not decided:
        raise ValueError("resample_metrics needs at least one column to rank and one to decide, got none")
    lengths = {len(column.labels) for column in (*ranked, *decided)}
    if weights.ndim != 2 or lengths != {weights.shape[1]}:
        raise ValueError(
            f"weights must be (n_replicates, n_samples) for columns of {sorted(lengths)} samples, "
            f"got shape {weights.shape}"
        )
