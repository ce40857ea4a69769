"""Known defects of public implementations of similarity, each beside the value that is right.

The formula at fault is stated where that makes the difference visible. Sides are (n_samples, n_units).
"""

import numpy as np
import pytest
import torch

from analysis.numerics.gram import debiased_cka
from analysis.numerics.moments import IncomparableError, Moments
from analysis.numerics.similarity import linear_cka, mean_cca, pwcca, svcca


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    moments = Moments()
    moments.update(torch.from_numpy(x), torch.from_numpy(y))
    return moments


def related(seed: int = 0, *, units_x: int = 6, units_y: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Sides that share some directions, of very unequal variances."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(400, 4))
    x, y = (
        (shared @ rng.normal(size=(4, units)) + rng.normal(size=(400, units))) * np.geomspace(10, 0.1, units)
        for units in (units_x, units_y)
    )
    return x, y


def inverse_root(covariance: np.ndarray) -> np.ndarray:
    variances, vectors = np.linalg.eigh(covariance)
    return (vectors / np.sqrt(variances)) @ vectors.T


def whitened_cross(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    units = x.shape[1]
    covariance = np.cov(x, y, rowvar=False)
    return (
        inverse_root(covariance[:units, :units]),
        covariance[:units, units:],
        inverse_root(covariance[units:, units:]),
    )


def right_pwcca(x: np.ndarray, y: np.ndarray) -> float:
    """Morcos et al. 2018, weighted by x: orthonormal canonical variates projected on centred units."""
    root_x, cross, root_y = whitened_cross(x, y)
    left, correlations, _ = np.linalg.svd(root_x @ cross @ root_y, full_matrices=False)
    centred = x - x.mean(0)
    weights = np.abs((centred @ root_x @ left).T @ centred).sum(1)
    return float(weights @ correlations / weights.sum())


def google_pwcca(x: np.ndarray, y: np.ndarray) -> float:
    """google/svcca, pwcca.py: coefficients without the whitening, and the mean added back before QR."""
    root_x, cross, root_y = whitened_cross(x, y)
    left, correlations, _ = np.linalg.svd(root_x @ cross @ root_y)
    directions = (x - x.mean(0)) @ left + x.mean(0)
    weights = np.abs(np.linalg.qr(directions)[0].T @ x).sum(1)
    return float(weights @ correlations / weights.sum())


def test_google_pwcca_fails_when_the_first_network_is_wider():
    # pwcca.py indexes the first network with the mask of the second's units (pull request 9).
    x, y = related(units_x=10, units_y=6)
    mask_of_y = np.ones(6, dtype=bool)
    with pytest.raises(IndexError):
        x.T[mask_of_y]
    for sides in ((x, y), (y, x)):
        assert pwcca(moments_of(*sides), weighted_by="x").value == pytest.approx(
            right_pwcca(*sides), abs=1e-8
        )


def test_google_pwcca_weighs_by_directions_that_are_no_canonical_variates():
    x, y = related()
    assert abs(google_pwcca(x - x.mean(0), y) - right_pwcca(x, y)) > 1e-3
    assert pwcca(moments_of(x, y), weighted_by="x").value == pytest.approx(right_pwcca(x, y), abs=1e-8)


def test_google_pwcca_changes_when_a_constant_is_added():
    x, y = related()
    shifted = x + np.linspace(-20, 20, 6)
    assert abs(google_pwcca(shifted, y) - google_pwcca(x, y)) > 1e-3
    plain, moved = (pwcca(moments_of(side, y), weighted_by="x").value for side in (x, shifted))
    assert moved == pytest.approx(plain, abs=1e-8)


def test_anatome_pwcca_makes_the_coefficients_orthonormal_instead_of_the_variates():
    # anatome issue 30.
    x, y = related()
    root_x, cross, root_y = whitened_cross(x, y)
    left, correlations, _ = np.linalg.svd(root_x @ cross @ root_y, full_matrices=False)
    weights = np.abs((x - x.mean(0)) @ np.linalg.qr(root_x @ left)[0]).sum(0)
    assert abs(weights @ correlations / weights.sum() - right_pwcca(x, y)) > 1e-3
    assert pwcca(moments_of(x, y), weighted_by="x").value == pytest.approx(right_pwcca(x, y), abs=1e-8)


@pytest.mark.parametrize("measure", [mean_cca, svcca, pwcca, linear_cka])
def test_settings_cannot_take_each_others_place(measure):
    # google/svcca: robust_cca_similarity passes a threshold into epsilon (self-similarity 0.504, mean NaN),
    # and dft_ccas a boolean.
    x, _ = related()
    with pytest.raises(TypeError, match="positional argument"):
        measure(moments_of(x, x), 0.98)
    assert measure(moments_of(x, x)).value == pytest.approx(1, abs=1e-8)


def test_an_epsilon_of_the_size_of_a_threshold_halves_the_similarity_to_oneself():
    x = np.random.default_rng(0).normal(size=(400, 6))
    covariance = np.cov(x, rowvar=False)
    root = inverse_root(covariance / covariance.max() + 0.98 * np.eye(6))
    correlations = np.linalg.svd(root @ (covariance / covariance.max()) @ root, compute_uv=False)
    assert correlations.mean() < 0.55
    assert mean_cca(moments_of(x, x)).value == pytest.approx(1, abs=1e-8)


def test_duplicated_units_neither_halve_the_mean_nor_exceed_one():
    # google/svcca, epsilon 1e-6: coefficients beyond 1, half of them 0. With epsilon 0 the SVD fails.
    x, _ = related()
    doubled = np.hstack([x, x])
    covariance = np.cov(doubled, rowvar=False)
    covariance /= np.abs(covariance).max()
    root = inverse_root(covariance + 1e-6 * np.eye(12))
    correlations = np.linalg.svd(root @ covariance @ root, compute_uv=False)
    assert correlations.mean() < 0.51
    for measure in (mean_cca, svcca, pwcca):
        result = measure(moments_of(doubled, doubled))
        assert result.value == pytest.approx(1, abs=1e-8)
        assert result.directions_x <= 6


@pytest.mark.parametrize("side", [0, 1])
def test_one_dead_unit_is_no_failure(side):
    # google/svcca with its default epsilon of 0 inverts a singular matrix: LinAlgError, NaN or a worse value.
    sides = list(related())
    plain = [measure(moments_of(*sides)).value for measure in (mean_cca, pwcca, linear_cka)]
    sides[side] = np.hstack([sides[side], np.zeros((400, 1))])
    dead = [measure(moments_of(*sides)).value for measure in (mean_cca, pwcca, linear_cka)]
    assert dead == pytest.approx(plain, abs=1e-8)


@pytest.mark.parametrize("measure", [mean_cca, svcca, pwcca, linear_cka])
def test_units_that_are_all_dead_are_an_error_and_not_zero(measure):
    # google/svcca returns a dictionary of zeros.
    with pytest.raises(IncomparableError, match="of the second network are the same for all 400 samples"):
        measure(moments_of(related()[0], np.zeros((400, 10))))


def test_the_mean_is_over_all_correlations_and_not_over_the_first_98_percent_of_their_sum():
    # google/svcca's "mean" stops there: with 1 direction in common of 40 it is well above the mean over all.
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(5000, 1))
    x, y = (np.hstack([shared, rng.normal(size=(5000, 39))]) for _ in range(2))
    root_x, cross, root_y = whitened_cross(x, y)
    correlations = np.linalg.svd(root_x @ cross @ root_y, compute_uv=False)
    n_first = int((np.cumsum(correlations) / correlations.sum() >= 0.98).argmax()) + 1
    assert correlations[:n_first].mean() > 1.1 * correlations.mean()
    assert mean_cca(moments_of(x, y)).value == pytest.approx(correlations.mean(), abs=1e-8)


def test_resi_keeps_one_direction_of_isotropic_data():
    # The cumulative *fraction* is compared with 0.99 x the *total*: argmax of nothing is 0.
    x = 10 * np.random.default_rng(0).normal(size=(4000, 50))
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    kept_there = (np.cumsum(variances) / variances.sum() >= 0.99 * variances.sum()).argmax() + 1
    assert kept_there == 1
    assert svcca(moments_of(x, x), variance_fraction=0.99).directions_x == 50


def test_the_sum_of_singular_values_keeps_more_than_99_percent_of_the_variance():
    # anatome and google/svcca's tutorial call it variance.
    x, y = related(units_x=60, units_y=60)
    squares, plain = (
        svcca(moments_of(x, y), variance_fraction=0.99, reading=reading)
        for reading in ("squares", "singular_values")
    )
    assert plain.directions_x > squares.directions_x + 5
    assert plain.value != pytest.approx(squares.value, abs=1e-3)


def test_an_average_over_minibatches_of_biased_cka_is_far_from_zero_for_unrelated_data():
    x, y = np.random.default_rng(0).normal(size=(2, 1024, 64))
    batches = [linear_cka(moments_of(x[at : at + 64], y[at : at + 64])).value for at in range(0, 1024, 64)]
    assert np.mean(batches) > 0.45
    whole = linear_cka(moments_of(x, y))
    assert whole.value == pytest.approx(whole.noise_floor, rel=0.05)
    assert debiased_cka(torch.from_numpy(x), torch.from_numpy(y)).value == pytest.approx(0, abs=0.005)


def test_an_average_of_ratios_of_minibatches_depends_on_their_size():
    # Heavy tails, as activations have them: a ratio over 8 rows is about other rows than one over all.
    rng = np.random.default_rng(1)
    strength = np.exp(1.5 * rng.normal(size=(1024, 1)))
    shared = strength * rng.normal(size=(1024, 8))
    x, y = (torch.from_numpy(shared + rng.normal(size=(1024, 8))) for _ in range(2))

    def averaged(rows: int) -> float:
        return float(
            np.mean([debiased_cka(a, b).value for a, b in zip(x.split(rows), y.split(rows), strict=True)])
        )

    whole = debiased_cka(x, y).value
    assert averaged(1024) == whole
    assert abs(averaged(8) - whole) > 0.05
