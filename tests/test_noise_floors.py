"""Noise floors against drawn and shuffled data, and against a table measured with another implementation."""

import numpy as np
import pytest
import torch

from analysis.numerics.moments import Moments
from analysis.numerics.noise_floors import noise_floor
from analysis.numerics.similarity import linear_cka, mean_cca


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    moments = Moments()
    moments.update(torch.from_numpy(x), torch.from_numpy(y))
    return moments


def drawn_correlation(rng: np.random.Generator, n: int, directions_x: int, directions_y: int) -> float:
    """Return the mean canonical correlation of independent Gaussians."""
    bases = []
    for directions in (directions_x, directions_y):
        side = rng.normal(size=(n, directions))
        bases.append(np.linalg.svd(side - side.mean(0), full_matrices=False)[0])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())


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


def test_noise_floor_of_cka_is_the_mean_over_shuffled_rows():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(60, 12)) * np.linspace(0.2, 2, 12)
    y = x[:, :8] + rng.normal(size=(60, 8))
    x, y = x - x.mean(0), y - y.mean(0)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    shuffled = [np.linalg.norm(x[rng.permutation(60)].T @ y) ** 2 / norms for _ in range(5000)]
    assert linear_cka(moments_of(x, y)).noise_floor == pytest.approx(np.mean(shuffled), rel=0.03)


@pytest.mark.parametrize(("directions_x", "directions_y"), [(1, 1), (3, 40), (40, 3)])
def test_noise_floor_of_unequal_ranks_matches_drawn_data(directions_x, directions_y):
    rng = np.random.default_rng(8)
    drawn = [drawn_correlation(rng, 150, directions_x, directions_y) for _ in range(300)]
    assert noise_floor(150, directions_x, directions_y) == pytest.approx(np.mean(drawn), rel=0.1)


@pytest.mark.parametrize(
    ("n", "directions_x", "directions_y"),
    [(71, 70, 70), (101, 100, 30), (101, 60, 70), (40, 30, 35), (5, 2, 2)],
)
def test_noise_floor_where_the_sides_hardly_fit_into_the_sample_space(n, directions_x, directions_y):
    rng = np.random.default_rng(8)
    drawn = [drawn_correlation(rng, n, directions_x, directions_y) for _ in range(100)]
    assert noise_floor(n, directions_x, directions_y) == pytest.approx(np.mean(drawn), rel=0.05)


def test_noise_floor_of_many_directions_is_drawn_in_proportion():
    small, large = noise_floor(2001, 500, 500), noise_floor(8001, 2000, 2000)
    assert small != large
    assert small == pytest.approx(large, rel=0.002)


def test_noise_floor_is_reproducible():
    assert noise_floor(300, 10, 20, seed=1) == noise_floor(300, 20, 10, seed=1)
    noise_floor.cache_clear()
    assert noise_floor(300, 10, 20, seed=1) == noise_floor(300, 10, 20, seed=1)
    assert noise_floor(300, 10, 20, seed=1) != noise_floor(300, 10, 20, seed=2)
