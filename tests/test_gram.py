"""Measures of sampled rows: what they ignore, what they equal, and what they refuse."""

import numpy as np
import pytest
import torch

from analysis.numerics import gram
from analysis.numerics.gram import ROW_MEASURES, debiased_cka, knn_jaccard
from analysis.numerics.moments import IncomparableError

ALL = sorted(ROW_MEASURES)


def value(measure: str, x: np.ndarray, y: np.ndarray) -> float:
    return ROW_MEASURES[measure](torch.from_numpy(x), torch.from_numpy(y)).value


@pytest.fixture(params=[0, 1, 2], ids="seed {}".format)
def related(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(request.param)
    shared = rng.normal(size=(80, 4))
    x = shared @ rng.normal(size=(4, 9)) + 0.5 * rng.normal(size=(80, 9))
    y = shared @ rng.normal(size=(4, 6)) + 0.5 * rng.normal(size=(80, 6)) + 3
    return x, y


# Székely & Rizzo's U-centred inner product: the same estimator in another form.
def u_centred(x: np.ndarray) -> np.ndarray:
    n = len(x)
    kernel = x @ x.T
    np.fill_diagonal(kernel, 0)
    rows = kernel.sum(0) / (n - 2)
    kernel = kernel - rows[:, None] - rows + kernel.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(kernel, 0)
    return kernel


def neighbours(x: np.ndarray, k: int) -> list[set[int]]:
    x = x - x.mean(0)
    cosines = (x @ x.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1))
    np.fill_diagonal(cosines, -2)
    return [set(row[-k:]) for row in cosines.argsort(axis=1).tolist()]


def reference(measure: str, x: np.ndarray, y: np.ndarray) -> float:
    if measure == "debiased_cka":
        k, l = u_centred(x), u_centred(y)  # noqa: E741
        return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))
    both = zip(neighbours(x, 10), neighbours(y, 10), strict=True)
    return float(np.mean([len(a & b) / len(a | b) for a, b in both]))


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("n", [30, 80])
def test_equals_another_form_of_the_definition(measure, n, related):
    x, y = (side[:n] for side in related)
    assert value(measure, x, y) == pytest.approx(reference(measure, x, y), abs=1e-8)
    assert 0.1 < value(measure, x, y) < 0.99


@pytest.mark.parametrize("measure", ALL)
def test_more_units_than_rows(measure, related):
    rng = np.random.default_rng(3)
    x, y = (side[:40] @ rng.normal(size=(side.shape[1], 300)) for side in related)
    assert value(measure, x, y) == pytest.approx(reference(measure, x, y), abs=1e-8)


@pytest.mark.parametrize("measure", ALL)
def test_a_network_is_identical_to_itself(measure, related):
    assert value(measure, related[0], related[0]) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("measure", ALL)
def test_both_orders_agree(measure, related):
    assert value(measure, *related) == pytest.approx(value(measure, *related[::-1]), abs=1e-12)


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize(
    "change", ["rotation", "shift", "scale", "permutation", "dead unit", "order of rows"]
)
def test_ignores_what_does_not_change_a_representation(measure, change, related):
    x, y = related
    rng = np.random.default_rng(1)
    rows = rng.permutation(len(x)) if change == "order of rows" else np.arange(len(x))
    changed = {
        "rotation": x @ np.linalg.qr(rng.normal(size=(9, 9)))[0],
        "shift": x + 100 * rng.normal(size=9),
        "scale": 1e-3 * x,
        "permutation": x[:, rng.permutation(9)],
        "dead unit": np.hstack([x, np.full((len(x), 1), 7.3)]),
        "order of rows": x[rows],
    }[change]
    assert value(measure, changed, y[rows]) == pytest.approx(value(measure, x, y), abs=1e-8)


@pytest.mark.parametrize("measure", ALL)
def test_an_invertible_map_is_not_ignored(measure, related):
    x, y = related
    assert abs(value(measure, x * np.geomspace(0.02, 5, 9), y) - value(measure, x, y)) > 0.01


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.1, 0.019), (2, 0), (5, -0.002), (10, 0), (20, 0), (50, 0)]
)
def test_debiased_cka_of_independent_gaussians_is_zero(ratio, expected):
    """64 units a side, against a table measured with another implementation, within the noise of one draw."""
    x, y = np.random.default_rng(5).normal(size=(2, round(64 * ratio), 64))
    result = debiased_cka(torch.from_numpy(x), torch.from_numpy(y))
    assert result.value == pytest.approx(expected, abs=0.04 / ratio)
    assert result.noise_floor == 0


def test_the_mean_over_shuffled_rows_is_the_noise_floor(related):
    x, y = (torch.from_numpy(side[:40]) for side in related)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(40, generator=generator) for _ in range(1500)]
    for measure, tolerance in ((debiased_cka, 0.006), (knn_jaccard, 0.003)):
        shuffled = [measure(x[order], y).value for order in orders]
        assert np.mean(shuffled) == pytest.approx(measure(x, y).noise_floor, abs=tolerance)


def test_the_noise_floor_of_neighbours_is_exact_for_one():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert knn_jaccard(x, x.flip(0), k=1).noise_floor == pytest.approx(1 / 49)


def test_equal_rows_cost_no_overlap(related):
    x = np.repeat(related[0][:16], 5, axis=0)
    turned = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(9, 9)))[0]
    assert value("knn_jaccard", x, turned) == 1


def test_blocks_of_rows_change_nothing(related, monkeypatch):
    whole = value("knn_jaccard", *related)
    monkeypatch.setattr(gram, "ROWS_AT_ONCE", 7)
    assert value("knn_jaccard", *related) == pytest.approx(whole, abs=1e-14)


def test_single_precision_is_computed_in_double(related):
    x, y = (torch.from_numpy(side).float() for side in related)
    assert debiased_cka(x, y).value == pytest.approx(debiased_cka(x.double(), y.double()).value, abs=1e-12)


def test_settings_and_directions_are_reported(related):
    x, y = (torch.from_numpy(side) for side in related)
    x[:, 0] = 5
    result = knn_jaccard(x, y, k=3)
    assert result.settings == {"k": 3}
    assert (result.directions_x, result.directions_y, result.n_samples) == (8, 6, 80)


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize(("side", "word"), [(0, "first"), (1, "second")])
def test_constant_activations_are_an_error_and_never_zero(measure, side, word, related):
    sides = list(related)
    sides[side] = np.full_like(sides[side], 1234.567)
    with pytest.raises(IncomparableError, match=f"activations of the {word} network are the same for all 80"):
        value(measure, *sides)


def test_rows_that_are_equally_far_apart_have_no_debiased_cka(related):
    with pytest.raises(IncomparableError, match="12 rows of the second network are all equally far apart"):
        debiased_cka(torch.from_numpy(related[0][:12]), torch.eye(12))


@pytest.mark.parametrize(
    ("measure", "name", "least"), [(debiased_cka, "debiased CKA", 4), (knn_jaccard, "kNN-Jaccard", 12)]
)
def test_too_few_and_too_many_rows_are_refused(measure, name, least, monkeypatch):
    rows = torch.randn(least, 3, generator=torch.Generator().manual_seed(0))
    measure(rows, rows)
    with pytest.raises(
        IncomparableError, match=f"{name} needs at least {least} rows, got n_samples={least - 1}"
    ):
        measure(rows[1:], rows[1:])
    monkeypatch.setattr(gram, "MOST_ROWS", least - 1)
    with pytest.raises(
        IncomparableError,
        match=f"at most {least - 1} of them, got n_samples={least}; pass a sample of the rows",
    ):
        measure(rows, rows)


@pytest.mark.parametrize("measure", ALL)
def test_unpaired_rows_and_values_that_are_not_finite_are_refused(measure, related):
    x, y = related
    with pytest.raises(ValueError, match=r"equal n_samples, got \(79, 9\) and \(80, 6\)"):
        value(measure, x[1:], y)
    y[3, 2] = np.nan
    with pytest.raises(IncomparableError, match="must be finite, got NaN or infinity in the second network"):
        value(measure, x, y)


def test_no_neighbours_are_refused(related):
    x = torch.from_numpy(related[0])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        knn_jaccard(x, x, k=0)
