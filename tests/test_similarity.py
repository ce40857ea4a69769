"""Similarity measures: what they ignore, what they equal, and what they refuse."""

import numpy as np
import pytest
import torch

from analysis.numerics.moments import IncomparableError, Moments
from analysis.numerics.similarity import (
    MEASURES,
    mean_cca,
    procrustes,
    pwcca,
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


@pytest.fixture(params=[7, 8, 9], ids="seed {}".format)
def related(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Two related sides of unequal width, with unequal variances and an offset."""
    rng = np.random.default_rng(request.param)
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
    if measure == "procrustes":
        return float(np.linalg.norm(x.T @ y, "nuc") / (np.linalg.norm(x) * np.linalg.norm(y)))
    bases = []
    for side in (x, y):
        u, s, _ = np.linalg.svd(side, full_matrices=False)
        rank = int((s > 1e-5 * s[0]).sum())
        if measure.startswith("svcca"):
            kept = s[:rank] ** (1 if measure == "svcca of singular values" else 2)
            rank = int(np.searchsorted(np.cumsum(kept) / kept.sum(), fraction)) + 1
        bases.append(u[:, :rank])
    left, correlations, right = np.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    if not measure.startswith("pwcca"):
        return float(correlations.clip(0, 1).mean())
    weighted = {}
    for name, side, variates in (("x", x, bases[0] @ left), ("y", y, bases[1] @ right.T)):
        weights = np.abs(variates.T @ side).sum(1)
        weighted[name] = float(weights @ correlations / weights.sum())
    return weighted[measure[-1]] if measure != "pwcca" else (weighted["x"] + weighted["y"]) / 2


@pytest.mark.parametrize("measure", ALL)
def test_equals_an_svd_of_the_activations(measure, related):
    x, y = related
    assert value(measure, x, y) == pytest.approx(reference(measure, x, y, 0.9), abs=1e-8)
    assert 0.1 < value(measure, x, y) < 0.99


@pytest.mark.parametrize("side", ["x", "y"])
def test_either_side_can_weigh_the_correlations(side, related):
    result = pwcca(moments_of(*related), weighted_by=side)
    assert result.value == pytest.approx(reference(f"pwcca by {side}", *related, 1.0), abs=1e-8)
    assert result.value != pytest.approx(mean_cca(moments_of(*related)).value, abs=1e-3)
    assert result.settings == {"weighted_by": side}


@pytest.mark.parametrize("fraction", [0.6, 0.9, 1.0])
def test_the_sum_of_singular_values_is_a_named_reading(fraction, related):
    result = svcca(moments_of(*related), variance_fraction=fraction, reading="singular_values")
    expected = reference("svcca of singular values", *related, fraction - 1e-12)
    assert result.value == pytest.approx(expected, abs=1e-8)
    assert result.settings == {"variance_fraction": fraction, "reading": "singular_values"}


def test_the_procrustes_distance_is_that_of_the_best_rotation():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 300, 2))
    y += x
    unit_x, unit_y = ((side - side.mean(0)) / np.linalg.norm(side - side.mean(0)) for side in (x, y))
    distances = []
    for angle in np.linspace(0, 2 * np.pi, 20_001):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        distances += [
            np.sum((unit_x @ turn @ mirror - unit_y) ** 2) for mirror in (np.eye(2), np.diag([1, -1]))
        ]
    assert 2 - 2 * procrustes(moments_of(x, y)).value == pytest.approx(min(distances), abs=1e-6)


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
    if measure == "pwcca" and change == "rotation":
        assert abs(value(measure, changed, y) - value(measure, x, y)) > 1e-5  # its weights are of units
        return
    assert value(measure, changed, y) == pytest.approx(value(measure, x, y), abs=1e-8)


def test_only_cca_ignores_every_invertible_map(related):
    x, y = related
    rng = np.random.default_rng(2)
    stretch = rotation(rng, 12) @ np.diag(np.geomspace(0.02, 5, 12)) @ rotation(rng, 12)
    assert value("mean_cca", x @ stretch, y) == pytest.approx(value("mean_cca", x, y), abs=1e-7)
    for measure in ("svcca", "linear_cka", "procrustes"):
        assert abs(value(measure, x @ stretch, y) - value(measure, x, y)) > 0.01


def test_pwcca_ignores_every_invertible_map_of_the_side_that_does_not_weigh(related):
    x, y = related
    rng = np.random.default_rng(2)
    stretch = rotation(rng, 12) @ np.diag(np.geomspace(0.02, 5, 12)) @ rotation(rng, 12)
    plain, mapped = moments_of(x, y), moments_of(x @ stretch, y)
    assert pwcca(mapped, weighted_by="y").value == pytest.approx(
        pwcca(plain, weighted_by="y").value, abs=1e-7
    )
    assert abs(pwcca(mapped, weighted_by="x").value - pwcca(plain, weighted_by="x").value) > 1e-3


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


@pytest.mark.parametrize("measure", ["linear_cka", "procrustes", "pwcca"])
def test_a_dead_unit_changes_nothing(measure, related):
    x, y = related
    padded = np.hstack([x, np.full((len(x), 1), -2.0)])
    for sides, plain in (((padded, y), (x, y)), ((y, padded), (y, x))):
        assert value(measure, *sides) == pytest.approx(value(measure, *plain), abs=1e-8)


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


@pytest.mark.parametrize(("measure", "name"), [(mean_cca, "mean CCA"), (pwcca, "PWCCA")])
@pytest.mark.parametrize("order", [1, -1])
def test_cca_refuses_more_units_than_samples(measure, name, order):
    x = np.random.default_rng(0).normal(size=(100, 128))
    sides = (x, x[:, :4])[::order]
    with pytest.raises(
        IncomparableError,
        match=rf"{name} needs more samples than units, got n_samples=100 and (128 and 4|4 and 128) units; "
        "use a larger probe set, or SVCCA",
    ):
        measure(moments_of(*sides))


@pytest.mark.parametrize("measure", ["linear_cka", "procrustes"])
def test_the_others_need_no_more_samples_than_units(measure):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 50)), rng.normal(size=(30, 4))
    result = MEASURES[measure](moments_of(x, y), 0.9)
    assert (result.directions_x, result.directions_y) == (29, 4)
    assert result.value == pytest.approx(reference(measure, x, y, 0.9), abs=1e-8)
    assert result.value == pytest.approx(result.noise_floor, abs=0.1)


@pytest.mark.parametrize("measure", ALL)
def test_unrelated_data_is_at_the_noise_floor(measure):
    rng = np.random.default_rng(11)
    x = rng.normal(size=(400, 30)) @ np.diag(np.geomspace(1, 0.1, 30)) @ rotation(rng, 30)
    y = rng.normal(size=(400, 20)) @ np.diag(np.geomspace(1, 0.3, 20)) @ rotation(rng, 20)
    results = [MEASURES[measure](moments_of(x[rng.permutation(400)], y), 0.99) for _ in range(10)]
    assert np.mean([result.value for result in results]) == pytest.approx(results[0].noise_floor, rel=0.04)


@pytest.mark.parametrize("measure", ALL)
def test_correlations_of_exactly_zero_are_not_rounded_up(measure):
    # Columns of a Hadamard matrix: centred, orthogonal, and half of them are on both sides.
    columns = np.ones((1, 1))
    for _ in range(6):
        columns = np.block([[columns, columns], [columns, -columns]])
    x, y = columns[:, 1:9], columns[:, 5:13]
    if measure != "pwcca":  # whose weights are of units
        x = x @ rotation(np.random.default_rng(0), 8)
    assert value(measure, x, y, 1.0) == pytest.approx(0.5, abs=1e-11)


def test_an_unknown_reading_or_weighting_is_refused(related):
    moments = moments_of(*related)
    with pytest.raises(ValueError, match="reading must be one of 'squares', 'singular_values', got 'sum'"):
        svcca(moments, reading="sum")
    with pytest.raises(ValueError, match="weighted_by must be one of 'x', 'y', 'both', got 'z'"):
        pwcca(moments, weighted_by="z")


def test_ill_conditioned_units_are_of_full_rank_or_not_by_the_tolerance():
    rng = np.random.default_rng(12)
    basis = np.linalg.qr(rng.normal(size=(500, 20)))[0]
    for least, rank in ((1e-4, 20), (1e-6, 19)):
        scale = np.ones(20)
        scale[-1] = least
        x = (basis * scale) @ rotation(rng, 20)
        y = x[:, :3] + 0.01 * rng.normal(size=(500, 3))
        result = mean_cca(moments_of(x, y))
        assert result.directions_x == rank
        assert result.value == pytest.approx(reference("mean_cca", x, y, 1.0), abs=1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("measure", ALL)
def test_a_gpu_gives_the_same(measure, related):
    on_gpu = Moments()
    on_gpu.update(*(torch.from_numpy(side).cuda() for side in related))
    result, expected = MEASURES[measure](on_gpu, 0.9), MEASURES[measure](moments_of(*related), 0.9)
    assert result.value == pytest.approx(expected.value, abs=1e-9)
    assert result.noise_floor == pytest.approx(expected.noise_floor, abs=1e-9)


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
