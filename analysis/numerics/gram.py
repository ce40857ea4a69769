"""Measures that need the rows themselves: debiased CKA and the overlap of nearest neighbours.

Both take sampled rows, (n_samples, n_units) each, and need time in proportion to n_samples²; debiased CKA
also memory, 8 bytes x n_samples² for a matrix of which there are a few. MOST_ROWS keeps that near 2 GB.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.numerics.noise_floors import jaccard_floor
from analysis.numerics.side import IncomparableError, rounding_variance
from analysis.numerics.similarity import Similarity

MOST_ROWS = 10_000
ROWS_AT_ONCE = 1024


def debiased_cka(x: Tensor, y: Tensor) -> Similarity:
    """Return linear CKA of the unbiased estimator of HSIC (Song et al. 2012, HSIC_1).

    Without the upward bias of `linear_cka` when units are many and samples few: 0 on average over all
    ways to shuffle the rows of one side, which is its noise floor, and so below 0 at times. Invariant to
    rotations, shifts and isotropic scaling. The directions of the result are units that vary.

    Args:
        x, y: `(n_samples, n_units)`, any floating type; at least 4 rows. For minibatches this is to be
            computed over all rows at once: an average of the ratios of batches estimates something else.

    Raises:
        IncomparableError: rows are too few or too many, a side is constant or has rows that are all
            equally far apart, or values are not finite.
        ValueError: the rows are not paired.
    """
    x, y = _centred(x, y, "debiased CKA", least_rows=4)
    own_x, own_y = _hsic(x, x), _hsic(y, y)
    for name, side, own in (("first", x, own_x), ("second", y, own_y)):
        if not own > 1e-12 * float(side.square().sum()) ** 2 / len(side):
            raise IncomparableError(
                f"debiased CKA is not defined: the {len(side)} rows of the {name} network are all equally "
                "far apart; use a larger probe set"
            )
    value = min(1.0, _hsic(x, y) / (own_x * own_y) ** 0.5)
    return Similarity(value, 0.0, _varying(x), _varying(y), len(x))


def knn_jaccard(x: Tensor, y: Tensor, *, k: int = 10) -> Similarity:
    """Return the mean Jaccard index of each row's k nearest other rows on either side.

    Nearest by cosine of rows, with the mean of every unit removed first (mklabunde/resi leaves it in; after
    a ReLU all cosines are then near 1, and shifts matter). Equally near rows count in their order.
    Invariant to rotations, shifts and isotropic scaling. The noise floor, two random sets of k, is exact.
    The directions of the result are units that vary.

    Raises:
        IncomparableError: as `debiased_cka`; more than k + 1 rows are needed.
        ValueError: the rows are not paired, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    x, y = _centred(x, y, "kNN-Jaccard", least_rows=k + 2)
    total = 0.0
    for start in range(0, len(x), ROWS_AT_ONCE):
        near_x, near_y = (_neighbours(side, start, k) for side in (x, y))
        shared = (near_x & near_y).sum(dim=1).double()
        total += float((shared / (2 * k - shared)).sum())
    floor = jaccard_floor(len(x), k)
    return Similarity(total / len(x), floor, _varying(x), _varying(y), len(x), {"k": k})


ROW_MEASURES: dict[str, Callable[[Tensor, Tensor], Similarity]] = {
    "debiased_cka": debiased_cka,
    "knn_jaccard": knn_jaccard,
}
"""Name -> measure of paired rows; all are larger for more similar activations."""


def _centred(x: Tensor, y: Tensor, measure: str, *, least_rows: int) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"{measure} needs two (n_samples, n_units) sets of rows with equal n_samples, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if len(x) < least_rows:
        raise IncomparableError(f"{measure} needs at least {least_rows} rows, got n_samples={len(x)}")
    if len(x) > MOST_ROWS:
        raise IncomparableError(
            f"{measure} compares every row with every other, at most {MOST_ROWS} of them, got "
            f"n_samples={len(x)}; pass a sample of the rows"
        )
    sides = []
    for name, side in (("first", x), ("second", y)):
        side = side.double()
        mean = side.mean(dim=0)
        if not mean.isfinite().all():
            raise IncomparableError(
                f"activations must be finite, got NaN or infinity in the {name} network; it has diverged"
            )
        side = side - mean
        if float(side.square().sum()) <= rounding_variance(mean) * len(side):
            raise IncomparableError(
                f"{measure} is not defined: the activations of the {name} network are the same for all "
                f"{len(side)} samples; its units are dead or the probe images are equal"
            )
        sides.append(side / side.abs().max())
    return sides[0], sides[1]


def _hsic(x: Tensor, y: Tensor) -> float:
    """Return n (n - 3) HSIC_1 of K = x xᵀ and L = y yᵀ; its terms, K~ being K with a diagonal of zeros:

    tr(K~ L~) + 1ᵀK~1 1ᵀL~1 / ((n - 1) (n - 2)) - 2 / (n - 2) 1ᵀK~L~1.
    """
    n = len(x)
    own_x, own_y = x.square().sum(dim=1), y.square().sum(dim=1)
    rows_x, rows_y = x @ x.sum(dim=0) - own_x, y @ y.sum(dim=0) - own_y
    if x.shape[1] * y.shape[1] <= n * (x.shape[1] + y.shape[1]):
        trace = (x.T @ y).square().sum()
    else:
        trace = ((x @ x.T) * (y @ y.T)).sum()
    trace = trace - own_x @ own_y
    return float(trace + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows_x @ rows_y))


def _neighbours(rows: Tensor, start: int, k: int) -> Tensor:
    """Mark the k nearest others of the rows from `start` on: booleans, (at most ROWS_AT_ONCE, n_samples)."""
    directions = normalize(rows)
    some = directions[start : start + ROWS_AT_ONCE]
    index = torch.arange(len(rows), device=rows.device)
    # Less than any difference that means something, more than rounding.
    cosines = (some @ directions.T).sub_(index * (1e-9 / len(rows)))
    cosines[index[: len(some)], index[start : start + len(some)]] = -torch.inf
    nearest = cosines.topk(k, dim=1).indices
    return torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, nearest, value=True)


def _varying(centred: Tensor) -> int:
    return int((centred.abs().amax(dim=0) > 1e-13).sum())
