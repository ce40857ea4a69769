"""Correlations over few points, and accuracies on the logit scale (Kornblith et al. 2019)."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

FEWEST_POINTS = 3
FEWEST_FOR_INTERVAL = 5
MOST_FOR_EXACT = 8


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient and how sure it is.

    Attributes:
        n: points of which both numbers are known.
        estimate: NaN where it is not defined; `reason` says why.
        low, high: percentile bootstrap over points; NaN for fewer than FEWEST_FOR_INTERVAL, whose resamples
            are mostly repetitions. Rough below some 20 points, and without width where all points agree.
        p: two-sided, by permutation: of all orders up to MOST_FOR_EXACT points, of random ones beyond.
        reason: "" where there is an estimate.
    """

    n: int
    estimate: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    reason: str = ""


def spearman(
    x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95, n_replicates: int = 2000, seed: int = 0
) -> Correlation:
    """Correlate the ranks of two series; equal values share their average rank.

    Args:
        x, y: (n_points,); points with a NaN are left out.
        n_replicates: of the bootstrap, and of the permutations where these are random.
    """
    return _correlate(x, y, ranked=True, confidence=confidence, n_replicates=n_replicates, seed=seed)


def pearson(
    x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95, n_replicates: int = 2000, seed: int = 0
) -> Correlation:
    """Correlate two series, as `spearman` but of the values themselves."""
    return _correlate(x, y, ranked=False, confidence=confidence, n_replicates=n_replicates, seed=seed)


def logit_accuracy(accuracy: ArrayLike, *, n: int | None = None) -> np.ndarray:
    """Return log(p / (1 - p)).

    Args:
        accuracy: (n_values,) shares between 0 and 1; NaN stays NaN.
        n: samples the shares were counted on. All right, or all wrong, counts as half a sample short of it:
            values are clipped to [1 / 2n, 1 - 1 / 2n]. Without it, 0 and 1 give NaN.

    Raises:
        ValueError: a value lies outside 0 … 1, or n is not positive.
    """
    share = np.asarray(accuracy, dtype=float)
    outside = share[(share < 0) | (share > 1)]
    if outside.size:
        raise ValueError(f"the logit needs shares between 0 and 1 (not percent), got {outside.flat[0]}")
    if n is None:
        share = np.where((share == 0) | (share == 1), np.nan, share)
    elif n < 1:
        raise ValueError(f"the number of samples behind an accuracy must be positive, got {n}")
    else:
        share = np.clip(share, 1 / (2 * n), 1 - 1 / (2 * n))
    return np.log(share) - np.log1p(-share)


def network_effects(logits: np.ndarray) -> np.ndarray:
    """Average over datasets after removing what is common to each dataset.

    The network's part of the least-squares fit network + dataset. Where every network has every dataset this
    is the mean of logit minus the dataset's mean (Kornblith et al. 2019, §3.1); where some are missing, the
    fit does not mistake an easy dataset for a good network.

    Args:
        logits: (n_networks, n_datasets), NaN where missing.

    Returns:
        (n_networks,) with mean 0; NaN for a network without any value. All NaN where the datasets fall apart
        into groups without a common network: their effects cannot be told from those of the networks.
    """
    values = np.asarray(logits, dtype=float)
    network, dataset = np.nonzero(~np.isnan(values))
    effects = np.full(len(values), np.nan)
    present, row = np.unique(network, return_inverse=True)
    used, column = np.unique(dataset, return_inverse=True)
    if not len(present):
        return effects
    design = np.hstack([np.eye(len(present))[row], np.eye(len(used))[column]])
    fitted, _, rank, _ = np.linalg.lstsq(design, values[network, dataset], rcond=None)
    if rank == len(present) + len(used) - 1:
        of_network = fitted[: len(present)]
        effects[present] = of_network - of_network.mean()
    return effects


def _correlate(
    x: ArrayLike, y: ArrayLike, *, ranked: bool, confidence: float, n_replicates: int, seed: int
) -> Correlation:
    points = np.asarray([x, y], dtype=float)
    points = points[:, ~np.isnan(points).any(axis=0)]
    n = points.shape[1]
    if n < FEWEST_POINTS:
        return Correlation(n, math.nan, reason=f"{n} points; a correlation needs at least {FEWEST_POINTS}")
    # A constant plus rounding must not pass for something that varies.
    if (np.ptp(points, axis=1) <= 8 * np.finfo(float).eps * np.abs(points).max(axis=1)).any():
        return Correlation(n, math.nan, reason="one of the two does not vary")
    rng = np.random.default_rng(seed)
    first, second = _ranks(points) if ranked else points
    estimate = float(_rows(first[None], second[None])[0])
    p = _permutation_p(first, second, n_random=n_replicates, rng=rng)
    if n < FEWEST_FOR_INTERVAL:
        return Correlation(n, estimate, p=p)
    drawn = points[:, rng.integers(n, size=(n_replicates, n))]
    replicates = _rows(*(_ranks(drawn) if ranked else drawn))
    low, high = np.nanquantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Correlation(n, estimate, float(low), float(high), p)


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.asarray(stats.rankdata(values, axis=-1))


def _rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation of every row of x with that of y; NaN where one is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    size = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    # Resamples of one point repeated: their centred values are rounding.
    defined = size > 1e-12 * size.max(initial=0.0)
    together = (x * y).sum(axis=1)
    return np.divide(together, size, out=np.full(len(x), np.nan), where=defined).clip(-1, 1)


def _permutation_p(x: np.ndarray, y: np.ndarray, *, n_random: int, rng: np.random.Generator) -> float:
    n = len(x)
    exact = n <= MOST_FOR_EXACT
    orders = (
        np.array(list(itertools.permutations(range(n))))
        if exact
        else rng.permuted(np.tile(np.arange(n), (n_random, 1)), axis=1)
    )
    observed = abs(_rows(x[None], y[None])[0])
    n_extreme = int((abs(_rows(np.broadcast_to(x, orders.shape), y[orders])) >= observed - 1e-12).sum())
    # The order that was observed is one of the possible ones (Phipson & Smyth 2010).
    return n_extreme / len(orders) if exact else (n_extreme + 1) / (n_random + 1)
