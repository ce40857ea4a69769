"""Similarity measures: what they ignore, what they equal, and what other implementations get wrong."""

import numpy as np
import pytest
import torch

from analysis.numerics.moments import IncomparableError, Moments
from analysis.numerics.similarity import (
    MEASURES,
    linear_cka,
    mean_cca,
    noise_floor,
    svcca,
)

ALL = sorted(MEASURES)


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    moments = Moments()
    for start in range(0, len(x), 97):
        moments.update(torch.from_numpy(x[start : start + 97]), torch.from_numpy(y[start : start + 97]))
    return moments


def value(measure: str, x: np.ndarray, y: np.ndarray, fraction: float = 0.9) -> float:
    return MEASURES[measure](moments_of(x, y), fraction).value


def rotation(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


@pytest.fixture
def related() -> tuple[np.ndarray, np.ndarray]:
    """Two related sides of unequal width, with unequal variances and an offset."""
    rng = np.random.default_rng(7)
    shared = rng.normal(size=(600, 6))
    x = shared @ rng.normal(size=(6, 12)) + 0.5 * rng.normal(size=(600, 12)) * np.linspace(0.2, 2, 12)
    y = shared @ rng.normal(size=(6, 8)) + 0.5 * rng.normal(size=(600, 8)) + 3
    return x, y


# An independent reference: SVD of the activations themselves, in numpy.
def reference(measure: str, x: np.ndarray, y: np.ndarray, fraction: float) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    if measure == "linear_cka":
        gram_x, gram_y = x @ x.T, y @ y.T
        return float((gram_x * gram_y).sum() / np.sqrt((gram_x**2).sum() * (gram_y**2).sum()))
    bases = []
    for side in (x, y):
        u, s, _ = np.linalg.svd(side, full_matrices=False)
        rank = int((s > 1e-5 * s[0]).sum())
        if measure == "svcca":
            shares = np.cumsum(s[:rank] ** 2) / (s[:rank] ** 2).sum()
            rank = int(np.searchsorted(shares, fraction)) + 1
        bases.append(u[:, :rank])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).clip(0, 1).mean())


@pytest.mark.parametrize("measure", ALL)
def test_equals_an_svd_of_the_activations(measure, related):
    x, y = related
    assert value(measure, x, y) == pytest.approx(reference(measure, x, y, 0.9), abs=1e-8)
    assert 0.1 < value(measure, x, y) < 0.99


@pytest.mark.parametrize("measure", ALL)
def test_a_network_is_identical_to_itself(measure, related):
    assert value(measure, related[0], related[0]) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("measure", ALL)
def test_both_orders_agree(measure, related):
    x, y = related
    forth, back = (MEASURES[measure](moments_of(*sides), 0.9) for sides in ((x, y), (y, x)))
    assert forth.value == pytest.approx(back.value, abs=1e-10)
    assert forth.noise_floor == pytest.approx(back.noise_floor, abs=1e-10)
    assert (forth.directions_x, forth.directions_y) == (back.directions_y, back.directions_x)


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("change", ["rotation", "shift", "scale", "permutation"])
def test_ignores_what_does_not_change_a_representation(measure, change, related):
    x, y = related
    rng = np.random.default_rng(1)
    changed = {
        "rotation": x @ rotation(rng, 12),
        "shift": x + 100 * rng.normal(size=12),
        "scale": 1e-3 * x,
        "permutation": x[:, rng.permutation(12)],
    }[change]
    assert value(measure, changed, y) == pytest.approx(value(measure, x, y), abs=1e-8)


def test_only_cca_ignores_every_invertible_map(related):
    x, y = related
    rng = np.random.default_rng(2)
    stretch = rotation(rng, 12) @ np.diag(np.geomspace(0.02, 5, 12)) @ rotation(rng, 12)
    assert value("mean_cca", x @ stretch, y) == pytest.approx(value("mean_cca", x, y), abs=1e-7)
    for measure in ("svcca", "linear_cka"):
        assert abs(value(measure, x @ stretch, y) - value(measure, x, y)) > 0.01


@pytest.mark.parametrize("measure", ["mean_cca", "svcca"])
@pytest.mark.parametrize("side", ["x", "y"])
def test_dead_and_duplicated_units_change_no_correlation(measure, side, related):
    x, y = related
    fraction = 1.0
    plain = value(measure, x, y, fraction)

    def padded(units: np.ndarray) -> np.ndarray:
        constant = np.full((len(units), 2), 7.3)
        return np.hstack([units, np.zeros((len(units), 1)), constant, units[:, :3]])

    sides = (padded(x), y) if side == "x" else (x, padded(y))
    assert value(measure, *sides, fraction) == pytest.approx(plain, abs=1e-7)


def test_a_dead_unit_does_not_change_cka(related):
    x, y = related
    padded = np.hstack([x, np.full((len(x), 1), -2.0)])
    assert value("linear_cka", padded, y) == pytest.approx(value("linear_cka", x, y), abs=1e-10)


def test_averages_over_the_narrower_side(related):
    x, y = related
    for sides in ((x, y), (y, x)):
        assert value("mean_cca", *sides) == pytest.approx(reference("mean_cca", *sides, 1.0), abs=1e-8)
    contained = x[:, :3]
    assert value("mean_cca", contained, x) == pytest.approx(1, abs=1e-8)


def test_variance_means_squares_of_singular_values():
    # Exactly orthogonal columns with singular values in the ratio 3 : 1 : 1. Squares: 9/11 is above 0.8,
    # so one direction is kept; sums of singular values would give 3/5 and keep two.
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 4)))[0]
    basis -= basis.mean(0)
    x = np.linalg.qr(basis)[0][:, :3] * np.array([3.0, 1.0, 1.0])
    x -= x.mean(0)
    result = svcca(moments_of(x, x), variance_fraction=0.8)
    assert (result.directions_x, result.directions_y) == (1, 1)


def test_isotropic_data_keeps_all_directions():
    # A cumulative sum that is compared with 0.99 x total variance instead of a fraction keeps 1 of 50.
    x = 10 * np.random.default_rng(0).normal(size=(4000, 50))
    assert svcca(moments_of(x, x), variance_fraction=0.99).directions_x == 50


def test_the_mean_is_over_all_correlations_not_over_the_first_98_percent():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(5000, 4))
    x = np.hstack([shared, rng.normal(size=(5000, 4))])
    y = np.hstack([shared, rng.normal(size=(5000, 4))])
    # Four correlations of 1 and four near the floor of about 0.02: the mean over all is just above 1/2.
    assert value("mean_cca", x, y) == pytest.approx(0.51, abs=0.01)


def test_independent_data_of_low_rank_is_not_inflated():
    rng = np.random.default_rng(4)
    x, y = (rng.normal(size=(1000, 5)) @ rng.normal(size=(5, 40)) for _ in range(2))
    result = mean_cca(moments_of(x, y))
    assert (result.directions_x, result.directions_y) == (5, 5)
    assert result.value < 0.08


@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0])
def test_svcca_centres_first(offset, related):
    x, y = related
    assert value("svcca", x + offset, y) == pytest.approx(value("svcca", x, y), abs=1e-8)


@pytest.mark.parametrize(
    ("ratio", "cca", "cka"),
    [
        (1.1, 0.939, 0.487),
        (2, 0.638, 0.328),
        (5, 0.388, 0.166),
        (10, 0.271, 0.091),
        (20, 0.190, 0.048),
        (50, 0.119, 0.020),
    ],
)
def test_noise_floor_is_that_of_independent_gaussians(ratio, cca, cka):
    """Against a table measured with another implementation, 64 units a side."""
    n = round(64 * ratio)
    assert noise_floor(n, 64, 64) == pytest.approx(cca, rel=0.05)
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, n, 64))
    assert mean_cca(moments_of(x, y)).value == pytest.approx(cca, rel=0.05)
    result = linear_cka(moments_of(x, y))
    assert result.noise_floor == pytest.approx(cka, rel=0.05)
    assert result.value == pytest.approx(cka, rel=0.05)


def test_noise_floor_of_cka_is_the_mean_over_shuffled_rows(related):
    x, y = (side[:60] - side[:60].mean(0) for side in related)
    rng = np.random.default_rng(6)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    shuffled = [np.linalg.norm(x[rng.permutation(60)].T @ y) ** 2 / norms for _ in range(5000)]
    assert linear_cka(moments_of(x, y)).noise_floor == pytest.approx(np.mean(shuffled), rel=0.03)


@pytest.mark.parametrize(("directions_x", "directions_y"), [(1, 1), (3, 40), (40, 3)])
def test_noise_floor_of_unequal_ranks_matches_drawn_data(directions_x, directions_y):
    rng = np.random.default_rng(8)
    drawn = [
        reference("mean_cca", rng.normal(size=(150, directions_x)), rng.normal(size=(150, directions_y)), 1.0)
        for _ in range(300)
    ]
    assert noise_floor(150, directions_x, directions_y) == pytest.approx(np.mean(drawn), rel=0.1)


def test_noise_floor_is_reproducible():
    assert noise_floor(300, 10, 20, seed=1) == noise_floor(300, 20, 10, seed=1)
    noise_floor.cache_clear()
    assert noise_floor(300, 10, 20, seed=1) == noise_floor(300, 10, 20, seed=1)
    assert noise_floor(300, 10, 20, seed=1) != noise_floor(300, 10, 20, seed=2)


@pytest.mark.parametrize("fraction", [1.0, 0.99])
def test_svcca_refuses_more_directions_than_samples(fraction):
    x = np.random.default_rng(0).normal(size=(200, 512))
    with pytest.raises(IncomparableError) as caught:
        svcca(moments_of(x, x[::-1].copy()), variance_fraction=fraction)
    message = str(caught.value)
    assert message.startswith("SVCCA needs more samples than kept directions, got n_samples=200 and 1")
    assert message.endswith("directions; use a larger probe set or keep less variance.")


def test_svcca_of_few_samples_is_allowed_where_few_directions_hold_the_variance():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(100, 3)) @ rng.normal(size=(3, 300)) + 1e-3 * rng.normal(size=(100, 300))
    assert svcca(moments_of(signal, signal), variance_fraction=0.99).directions_x == 3


def test_mean_cca_refuses_more_units_than_samples():
    x = np.random.default_rng(0).normal(size=(100, 128))
    with pytest.raises(
        IncomparableError,
        match="mean CCA needs more samples than units, got n_samples=100 and 128 and 4 units",
    ):
        mean_cca(moments_of(x, x[:, :4]))


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize(("side", "word"), [(0, "first"), (1, "second")])
def test_constant_activations_are_an_error_and_never_zero(measure, side, word, related):
    sides = list(related)
    sides[side] = np.full_like(sides[side], 1234.567)
    with pytest.raises(
        IncomparableError, match=f"activations of the {word} network are the same for all 600"
    ):
        value(measure, *sides)


@pytest.mark.parametrize("measure", ALL)
def test_one_sample_is_an_error(measure):
    with pytest.raises(IncomparableError, match="needs at least 2 samples, got n_samples=1"):
        value(measure, np.ones((1, 3)), np.ones((1, 3)))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_an_impossible_variance_fraction_is_refused(fraction, related):
    with pytest.raises(ValueError, match="variance_fraction must be above 0 and at most 1"):
        svcca(moments_of(*related), variance_fraction=fraction)
