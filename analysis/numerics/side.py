"""One side of a comparison: its mean, its covariance, and the directions in which it varies."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-10
"""Directions with less than this share of the largest direction's variance count as absent: float32
activations carry no information there, and dead or duplicated units land there."""


class IncomparableError(ValueError):
    """A comparison is not defined on these activations."""


class Principal(NamedTuple):
    """Principal directions with variance: `vectors` is (units, rank), `variances` descends."""

    vectors: Tensor
    variances: Tensor


class Side:
    """The moments of one side. What follows from them is computed when first asked for, and kept.

    Attributes:
        n: rows seen.
        mean: `(units,)`.
        covariance: `(units, units)`, divided by n - 1.
    """

    def __init__(self, n: int, mean: Tensor, covariance: Tensor) -> None:
        self.n, self.mean, self.covariance = n, mean, covariance

    @property
    def units(self) -> int:
        """Width, dead units included."""
        return self.mean.numel()

    @property
    def rank(self) -> int:
        """Number of directions with variance."""
        return self.whitening.shape[0]

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the covariance, ascending, and its eigenvectors as columns."""
        variances, vectors = torch.linalg.eigh(self.covariance)
        return variances, vectors

    @cached_property
    def principal(self) -> Principal:
        """The eigenvectors whose variance is above rounding and above RANK_TOLERANCE."""
        variances, vectors = self.spectrum
        kept = variances > self._floor(float(variances[-1]))
        return Principal(vectors[:, kept].flip(1), variances[kept].flip(0))

    @cached_property
    def whitening(self) -> Tensor:
        """`(rank, units)` map W with W C Wᵀ = 1."""
        inverse = self._inverse_of_cholesky() if self.n > self.units else None
        if inverse is not None:
            return inverse
        vectors, variances = self.principal
        return (vectors / variances.sqrt()).T

    def _inverse_of_cholesky(self) -> Tensor | None:
        """Return L⁻¹ of C = L Lᵀ, a fraction of the work of eigenvectors, or None unless surely full rank.

        tr C⁻¹ = ‖L⁻¹‖² bounds 1 / smallest eigenvalue from above, and ‖C‖ the largest eigenvalue.
        """
        factor, failed = torch.linalg.cholesky_ex(self.covariance)
        if failed:
            return None
        identity = torch.eye(self.units, dtype=factor.dtype, device=factor.device)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        is_full = float(inverse.square().sum()) * self._floor(float(self.covariance.norm())) < 1
        return inverse if is_full else None

    def _floor(self, largest_variance: float) -> float:
        return max(RANK_TOLERANCE * largest_variance, rounding_variance(self.mean))


def rounding_variance(mean: Tensor) -> float:
    """Bound the variance that rounding leaves in units that are constant at `mean`."""
    return float((1e-14 * mean.abs().max()) ** 2) * mean.numel()
