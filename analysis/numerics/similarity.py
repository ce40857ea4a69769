"""How alike two sets of units respond: mean CCA, SVCCA, PWCCA, linear CKA and Procrustes, from their moments.

All are 0 … 1 and larger means more alike; none is 0 for unrelated units of finite samples, so every
result carries its noise floor: what the measure gives, with as many samples and directions, when there is
nothing in common. All ignore shifts, isotropic scaling and the order of units; what else, each one tells.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from analysis.numerics.moments import IncomparableError, Moments
from analysis.numerics.noise_floors import noise_floor, procrustes_floor
from analysis.numerics.side import RANK_TOLERANCE, Principal, Side

__all__ = [
    "MEASURES", "RANK_TOLERANCE", "Similarity", "linear_cka", "mean_cca", "noise_floor", "procrustes",
    "pwcca", "svcca",
]  # fmt: skip

Reading = Literal["squares", "singular_values"]
Weighting = Literal["x", "y", "both"]


@dataclass(frozen=True)
class Similarity:
    """One comparison.

    Attributes:
        value: larger is more alike, 1 is the same.
        noise_floor: the same measure without any relation between the two sides.
        directions_x, directions_y: linear directions of each side that took part.
        n_samples: rows that took part.
        settings: what the measure was told, by name.
    """

    value: float
    noise_floor: float
    directions_x: int
    directions_y: int
    n_samples: int
    settings: Mapping[str, str | float] = field(default_factory=dict)


def mean_cca(moments: Moments) -> Similarity:
    """Average the canonical correlations over all min(rank x, rank y) pairs of directions.

    Invariant to every invertible linear map of either side.

    Raises:
        IncomparableError: a side is constant, or there are no more samples than directions.
    """
    x, y = _full_sides(moments, "mean CCA")
    correlations = _singular_values(x.whitening @ moments.cxy @ y.whitening.T).clamp(0, 1)
    floor = noise_floor(moments.n, x.rank, y.rank)
    return Similarity(_unit(correlations.mean()), floor, x.rank, y.rank, moments.n)


def svcca(moments: Moments, *, variance_fraction: float = 0.99, reading: Reading = "squares") -> Similarity:
    """Mean CCA of the leading principal directions of each side (Raghu et al. 2017).

    Invariant to rotations, not to every invertible map.

    Args:
        variance_fraction: share of each side's variance to keep, in (0, 1].
        reading: what is summed up to the fraction: `squares` of singular values, which is variance, or the
            `singular_values` themselves, as google/svcca's tutorial and anatome do, which keeps more
            directions under the same fraction.

    Raises:
        IncomparableError: a side is constant, or the kept directions fill the sample space, where
            correlations of 1 appear whatever the activations.
        ValueError: the fraction is outside (0, 1], or the reading unknown.
    """
    if not 0 < variance_fraction <= 1:
        raise ValueError(f"variance_fraction must be above 0 and at most 1, got {variance_fraction}")
    _check_choice("reading", reading, get_args(Reading))
    full_x, full_y = (side.principal for side in _sides(moments, "SVCCA"))
    x, y = (_leading(full, variance_fraction, reading) for full in (full_x, full_y))
    rank_x, rank_y = x.variances.numel(), y.variances.numel()
    samples_exhausted = moments.n - 1 in (full_x.variances.numel(), full_y.variances.numel())
    if samples_exhausted and rank_x + rank_y > moments.n - 1:
        raise IncomparableError(
            f"SVCCA needs more samples than kept directions, got n_samples={moments.n} and "
            f"{rank_x} + {rank_y} directions; use a larger probe set or keep less variance."
        )
    white_x, white_y = (kept.vectors / kept.variances.sqrt() for kept in (x, y))
    correlations = _singular_values(white_x.T @ moments.cxy @ white_y).clamp(0, 1)
    floor = noise_floor(moments.n, rank_x, rank_y)
    settings = {"variance_fraction": variance_fraction, "reading": reading}
    return Similarity(_unit(correlations.mean()), floor, rank_x, rank_y, moments.n, settings)


def pwcca(moments: Moments, *, weighted_by: Weighting = "both") -> Similarity:
    """Weigh canonical correlations by how much of a side each accounts for (Morcos et al. 2018).

    Correlation i has the weight α_i ∝ Σ_j |⟨h_i, x_j⟩|, h_i its canonical variate, x_j the units of the
    weighing side with their means removed. `both` averages the two directions, so that it does not matter
    which network comes first; the paper takes one. Of the two sides, the one that does not weigh may be
    mapped by any invertible map; the one that does may not even be rotated, since the sum is over units.

    Raises:
        IncomparableError: a side is constant, or there are no more samples than directions.
        ValueError: `weighted_by` is unknown.
    """
    _check_choice("weighted_by", weighted_by, get_args(Weighting))
    x, y = _full_sides(moments, "PWCCA")
    left, correlations, right = torch.linalg.svd(
        x.whitening @ moments.cxy @ y.whitening.T, full_matrices=False
    )
    values = [
        _weighted(correlations.clamp(0, 1), variates @ side.whitening @ side.covariance)
        for name, side, variates in (("x", x, left.T), ("y", y, right))
        if weighted_by in (name, "both")
    ]
    floor = noise_floor(moments.n, x.rank, y.rank)
    value = _unit(sum(values) / len(values))
    return Similarity(value, floor, x.rank, y.rank, moments.n, {"weighted_by": weighted_by})


def linear_cka(moments: Moments) -> Similarity:
    """Return biased linear CKA in its feature form, ‖Cxy‖² / (‖Cxx‖ ‖Cyy‖), Frobenius norms.

    Invariant to rotations. Biased upwards when samples are few: read it against its noise floor, the
    exact mean over all ways to shuffle the rows of one side.

    Raises:
        IncomparableError: a side is constant.
    """
    x, y = _sides(moments, "linear CKA")
    norms = float(x.covariance.norm() * y.covariance.norm())
    value = float(moments.cxy.square().sum()) / norms
    floor = float(x.covariance.trace() * y.covariance.trace()) / (norms * (moments.n - 1))
    return Similarity(_unit(value), _unit(floor), x.rank, y.rank, moments.n)


def procrustes(moments: Moments) -> Similarity:
    """Return s = ‖Cxy‖_* / √(tr Cxx tr Cyy): how well the best rotation maps one side onto the other.

    With both sides centred and of Frobenius norm 1, the squared Procrustes distance (Ding et al. 2021) is
    2 - 2 s. The narrower side counts as filled up with zeros. Invariant to rotations. The noise floor is
    of sides with these variances, turned at random.

    Raises:
        IncomparableError: a side is constant.
    """
    x, y = _sides(moments, "Procrustes")
    scale = float((x.covariance.trace() * y.covariance.trace()).sqrt())
    value = float(_singular_values(moments.cxy).sum()) / scale
    variances_x, variances_y = x.principal.variances, y.principal.variances
    floor = procrustes_floor(moments.n, variances_x, variances_y)
    return Similarity(_unit(value), floor, variances_x.numel(), variances_y.numel(), moments.n)


MEASURES: dict[str, Callable[[Moments, float], Similarity]] = {
    "svcca": lambda moments, fraction: svcca(moments, variance_fraction=fraction),
    "mean_cca": lambda moments, fraction: mean_cca(moments),
    "pwcca": lambda moments, fraction: pwcca(moments),
    "linear_cka": lambda moments, fraction: linear_cka(moments),
    "procrustes": lambda moments, fraction: procrustes(moments),
}
"""Name -> measure of (moments, variance fraction); all are larger for more similar activations."""


def _sides(moments: Moments, measure: str) -> tuple[Side, Side]:
    if moments.n < 2:
        raise IncomparableError(f"{measure} needs at least 2 samples, got n_samples={moments.n}")
    x, y = moments.x, moments.y
    for name, side in (("first", x), ("second", y)):
        if side.rank == 0:
            raise IncomparableError(
                f"{measure} is not defined: the activations of the {name} network are the same for all "
                f"{moments.n} samples; its units are dead or the probe images are equal"
            )
    return x, y


def _full_sides(moments: Moments, measure: str) -> tuple[Side, Side]:
    """Return sides that leave the sample space room: otherwise all correlations are 1."""
    x, y = _sides(moments, measure)
    if moments.n - 1 in (x.rank, y.rank):
        raise IncomparableError(
            f"{measure} needs more samples than units, got n_samples={moments.n} and "
            f"{x.units} and {y.units} units; use a larger probe set, or SVCCA"
        )
    return x, y


def _leading(full: Principal, variance_fraction: float, reading: Reading) -> Principal:
    """Keep the fewest leading directions that hold the fraction of the total."""
    shares = full.variances if reading == "squares" else full.variances.sqrt()
    cumulative = shares.cumsum(0)
    n_kept = int((cumulative >= variance_fraction * cumulative[-1]).int().argmax()) + 1
    return Principal(full.vectors[:, :n_kept], full.variances[:n_kept])


def _singular_values(matrix: Tensor) -> Tensor:
    """Return singular values, to 1e-9 of the largest: as roots of eigenvalues, several times faster."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares = torch.linalg.eigvalsh(matrix @ matrix.T)
    # The root of a square that is wrong by rounding is wrong by much only where it is about 0.
    is_exact = float(squares[0]) > 1e-11 * float(squares[-1])
    return squares.sqrt() if is_exact else torch.linalg.svdvals(matrix)


def _weighted(correlations: Tensor, projections: Tensor) -> float:
    """Average with the sums over units of absolute (directions, units) projections as weights."""
    weights = projections.abs().sum(dim=1)
    return float(weights @ correlations / weights.sum())


def _check_choice(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {given!r}")


def _unit(value: Tensor | float) -> float:
    """Remove rounding beyond 0 … 1; NaN stays NaN."""
    value = float(value)
    return value if math.isnan(value) else min(1.0, max(0.0, value))
