"""How alike two sets of units respond: mean CCA, SVCCA and linear CKA, from their moments.

All three are 0 … 1 and larger means more alike; none is 0 for unrelated units of finite samples, so
every result carries its noise floor: what the measure gives, with as many samples and directions,
when there is nothing in common.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from analysis.numerics.moments import IncomparableError, Moments

RANK_TOLERANCE = 1e-10
"""Directions with less than this share of the largest direction's variance count as absent: float32
activations carry no information there, and dead or duplicated units land there."""


@dataclass(frozen=True)
class Similarity:
    """One comparison.

    Attributes:
        value: 0 … 1, larger is more alike.
        noise_floor: the same measure without any relation between the two sides.
        directions_x, directions_y: linear directions of each side that took part.
        n_samples: rows that took part.
    """

    value: float
    noise_floor: float
    directions_x: int
    directions_y: int
    n_samples: int


@dataclass(frozen=True)
class _Subspace:
    """The directions with variance of one side: `vectors` is (units, rank), `variances` descends."""

    vectors: Tensor
    variances: Tensor

    @property
    def rank(self) -> int:
        return self.variances.numel()

    def top(self, variance_fraction: float) -> "_Subspace":
        """Keep the fewest leading directions that hold the fraction of the total variance."""
        cumulative = self.variances.cumsum(0)
        reached = cumulative >= variance_fraction * cumulative[-1]
        n_kept = int(reached.int().argmax()) + 1
        return _Subspace(self.vectors[:, :n_kept], self.variances[:n_kept])


def mean_cca(moments: Moments) -> Similarity:
    """Average the canonical correlations over all min(rank x, rank y) pairs of directions.

    Invariant to every invertible linear map and shift of either side.

    Raises:
        IncomparableError: a side is constant, or there are no more samples than directions.
    """
    x, y = _subspaces(moments, "mean CCA")
    if moments.n - 1 in (x.rank, y.rank):
        raise IncomparableError(
            f"mean CCA needs more samples than units, got n_samples={moments.n} and "
            f"{x.vectors.shape[0]} and {y.vectors.shape[0]} units; use a larger probe set, or SVCCA"
        )
    return _averaged_correlations(moments, x, y)


def svcca(moments: Moments, *, variance_fraction: float = 0.99) -> Similarity:
    """Mean CCA of the leading principal directions of each side (Raghu et al. 2017).

    Variance means squares of singular values; several public implementations sum the singular values
    themselves and so keep more directions under the same fraction. Invariant to rotations, shifts and
    isotropic scaling, not to every invertible map.

    Args:
        variance_fraction: share of each side's variance to keep, in (0, 1].

    Raises:
        IncomparableError: a side is constant, or the kept directions fill the sample space, where
            correlations of 1 appear whatever the activations.
        ValueError: the fraction is outside (0, 1].
    """
    if not 0 < variance_fraction <= 1:
        raise ValueError(f"variance_fraction must be above 0 and at most 1, got {variance_fraction}")
    full_x, full_y = _subspaces(moments, "SVCCA")
    x, y = full_x.top(variance_fraction), full_y.top(variance_fraction)
    samples_exhausted = moments.n - 1 in (full_x.rank, full_y.rank)
    if samples_exhausted and x.rank + y.rank > moments.n - 1:
        raise IncomparableError(
            f"SVCCA needs more samples than kept directions, got n_samples={moments.n} and "
            f"{x.rank} + {y.rank} directions; use a larger probe set or keep less variance."
        )
    return _averaged_correlations(moments, x, y)


def linear_cka(moments: Moments) -> Similarity:
    """Return biased linear CKA in its feature form, ‖Cxy‖² / (‖Cxx‖ ‖Cyy‖), Frobenius norms.

    Invariant to rotations, shifts and isotropic scaling. Biased upwards when samples are few: read it
    against its noise floor, the exact mean over all ways to shuffle the rows of one side.

    Raises:
        IncomparableError: a side is constant.
    """
    x, y = _subspaces(moments, "linear CKA")
    norms = float(moments.cxx.norm() * moments.cyy.norm())
    value = float(moments.cxy.square().sum()) / norms
    floor = float(moments.cxx.trace() * moments.cyy.trace()) / (norms * (moments.n - 1))
    return Similarity(_unit(value), _unit(floor), x.rank, y.rank, moments.n)


MEASURES: dict[str, Callable[[Moments, float], Similarity]] = {
    "svcca": lambda moments, fraction: svcca(moments, variance_fraction=fraction),
    "mean_cca": lambda moments, fraction: mean_cca(moments),
    "linear_cka": lambda moments, fraction: linear_cka(moments),
}
"""Name -> measure of (moments, variance fraction); all are larger for more similar activations."""


@lru_cache(maxsize=4096)
def noise_floor(n_samples: int, directions_x: int, directions_y: int, *, seed: int = 0) -> float:
    """Return the mean canonical correlation of independent Gaussian data of this shape.

    After centring, the two sides are independent random subspaces of n - 1 dimensions, so one may be
    the first coordinate axes and only the other has to be drawn. Few directions are drawn more often.
    """
    small, large = sorted((directions_x, directions_y))
    n_draws = max(1, 256 // small)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n_draws, n_samples - 1, small, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(drawn).Q
    return _unit(float(torch.linalg.svdvals(basis[:, :large]).clamp(0, 1).mean()))


def _subspaces(moments: Moments, measure: str) -> tuple[_Subspace, _Subspace]:
    if moments.n < 2:
        raise IncomparableError(f"{measure} needs at least 2 samples, got n_samples={moments.n}")
    x = _subspace(*moments.spectrum_x, moments.mean_x)
    y = _subspace(*moments.spectrum_y, moments.mean_y)
    for side, subspace in (("first", x), ("second", y)):
        if subspace.rank == 0:
            raise IncomparableError(
                f"{measure} is not defined: the activations of the {side} network are the same for all "
                f"{moments.n} samples; its units are dead or the probe images are equal"
            )
    return x, y


def _subspace(variances: Tensor, vectors: Tensor, mean: Tensor) -> _Subspace:
    # A constant unit leaves rounding errors of its mean as variance; they are no signal either.
    rounding = float((1e-14 * mean.abs().max()) ** 2) * mean.numel()
    floor = max(RANK_TOLERANCE * float(variances[-1]), rounding)
    kept = variances > floor
    return _Subspace(vectors[:, kept].flip(1), variances[kept].flip(0))


def _averaged_correlations(moments: Moments, x: _Subspace, y: _Subspace) -> Similarity:
    white_x = x.vectors / x.variances.sqrt()
    white_y = y.vectors / y.variances.sqrt()
    correlations = torch.linalg.svdvals(white_x.T @ moments.cxy @ white_y).clamp(0, 1)
    floor = noise_floor(moments.n, x.rank, y.rank)
    return Similarity(_unit(float(correlations.mean())), floor, x.rank, y.rank, moments.n)


def _unit(value: float) -> float:
    """Remove rounding beyond 0 … 1; NaN stays NaN."""
    return value if math.isnan(value) else min(1.0, max(0.0, value))
