"""Logistic regression against scikit-learn's, and the choice of a penalty."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from trainables.datasets.table import UNKNOWN
from trainables.logistic_regression import L2_GRID, fit_logistic_regression, select_l2

N_SAMPLES, N_FEATURES = 200, 8


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(n_classes: int) -> tuple[Tensor, Tensor]:
    """Features as a network has them, of several scales and not centred, and labels that overlap."""
    x = (
        torch.relu(torch.randn(N_SAMPLES, N_FEATURES, generator=noise())) * torch.linspace(0.5, 4, N_FEATURES)
        + 1
    )
    slopes = torch.randn(N_FEATURES, n_classes, generator=noise(1))
    logits = (x - x.mean(0)) @ slopes + 3 * torch.randn(N_SAMPLES, n_classes, generator=noise(2))
    return x, logits.argmax(1)


def marks(n_labels: int) -> tuple[Tensor, Tensor]:
    x, _ = samples(2)
    logits = (x - x.mean(0)) @ torch.randn(N_FEATURES, n_labels, generator=noise(3))
    return x, (logits + 2 * torch.randn(logits.shape, generator=noise(4)) > 0).to(torch.uint8)


def reference(x: Tensor, y: Tensor, *, c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x.double().numpy(), y.numpy())


def centred(values: np.ndarray | Tensor) -> np.ndarray:
    return np.asarray(values) - np.asarray(values).mean(0)


@pytest.mark.parametrize("c", [1e-4, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("task", ["multiclass", "ordinal"])
def test_softmax_regression_equals_scikit_learns_with_c_the_inverse_of_l2(task, c):
    x, y = samples(4)
    fit, expected = (
        fit_logistic_regression(x, y, l2=1 / c, task=task, n_classes=4),
        reference(x, y, c=c),
    )
    assert fit.is_converged
    assert fit.weight.dtype == fit.bias.dtype == torch.float64
    np.testing.assert_allclose(fit.weight, expected.coef_, rtol=2e-3, atol=1e-5)
    # A softmax does not change when all biases do by the same amount.
    np.testing.assert_allclose(centred(fit.bias), centred(expected.intercept_), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_softmax_over_two_classes_equals_scikit_learns_with_c_two_over_l2(c):
    x, y = samples(2)
    fit = fit_logistic_regression(x, y, l2=2 / c, task="multiclass", n_classes=2)
    expected = reference(x, y, c=c)
    np.testing.assert_allclose(fit.weight[1] - fit.weight[0], expected.coef_[0], rtol=2e-3, atol=1e-5)
    assert float(fit.bias[1] - fit.bias[0]) == pytest.approx(expected.intercept_[0], rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_each_label_is_a_regression_on_its_known_marks(c):
    x, y = marks(3)
    hidden = torch.rand(y.shape, generator=noise(5)) < 0.3
    y = torch.where(hidden, UNKNOWN, y.int()).to(torch.uint8)
    fit = fit_logistic_regression(x, y, l2=1 / c, task="multilabel", n_classes=3)
    for k in range(3):
        known = ~hidden[:, k]
        expected = reference(x[known], y[known, k], c=c)
        np.testing.assert_allclose(fit.weight[k], expected.coef_[0], rtol=5e-3, atol=1e-4)
        assert float(fit.bias[k]) == pytest.approx(expected.intercept_[0], rel=5e-3, abs=1e-3)


def test_label_without_a_known_mark_gets_no_weights():
    x, y = marks(2)
    y[:, 1] = UNKNOWN
    fit = fit_logistic_regression(x, y, l2=1.0, task="multilabel", n_classes=2)
    assert fit.weight[0].norm() > 0.1
    assert not fit.weight[1].any()
    assert fit.bias[1] == 0


def test_solution_does_not_depend_on_where_the_descent_starts():
    x, y = samples(3)
    options = {"task": "multiclass", "n_classes": 3}
    far = fit_logistic_regression(x, y, l2=1e-3, **options)
    cold = fit_logistic_regression(x, y, l2=5.0, **options)
    warm = fit_logistic_regression(x, y, l2=5.0, start=far, **options)
    torch.testing.assert_close(warm.weight, cold.weight, rtol=1e-3, atol=1e-4)
    again = fit_logistic_regression(x, y, l2=5.0, start=cold, **options)
    torch.testing.assert_close(again.logits(x), cold.logits(x), rtol=1e-9, atol=1e-9)


def test_shifted_features_give_the_same_predictions():
    x, y = samples(3)
    options = {"l2": 0.5, "task": "multiclass", "n_classes": 3}
    fit, shifted = fit_logistic_regression(x, y, **options), fit_logistic_regression(x + 50, y, **options)
    torch.testing.assert_close(fit.weight, shifted.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fit.logits(x), shifted.logits(x + 50), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scaled_features_and_penalty_give_the_same_predictions(factor):
    x, y = samples(3)
    options = {"task": "multiclass", "n_classes": 3}
    fit = fit_logistic_regression(x, y, l2=0.5, **options)
    scaled = fit_logistic_regression(x.double() * factor, y, l2=0.5 * factor**2, **options)
    torch.testing.assert_close(fit.logits(x), scaled.logits(x.double() * factor), rtol=1e-4, atol=1e-4)


def test_equal_features_leave_the_frequencies_of_the_classes():
    y = torch.tensor([0] * 6 + [1] * 3 + [2])
    fit = fit_logistic_regression(torch.full((10, 4), 7.0), y, l2=1.0, task="multiclass", n_classes=3)
    probabilities = torch.softmax(fit.logits(torch.full((1, 4), 7.0)), 1)[0]
    torch.testing.assert_close(probabilities, torch.tensor([0.6, 0.3, 0.1]).double(), rtol=0, atol=1e-4)


def test_class_that_does_not_occur_and_classes_without_error_stay_finite():
    x = torch.cat([torch.eye(4), torch.eye(4) + 0.1])
    y = torch.tensor([0, 0, 2, 2] * 2)
    fit = fit_logistic_regression(x, y, l2=1e-6, task="multiclass", n_classes=3)
    assert fit.logits(x).isfinite().all()
    assert fit.logits(x).argmax(1).equal(y)


def test_grid_is_the_papers_from_strong_to_weak():
    assert len(L2_GRID) == 45
    assert (L2_GRID[0], L2_GRID[-1]) == pytest.approx((1e5, 1e-6))
    np.testing.assert_allclose(np.diff(np.log10(L2_GRID)), -0.25)


def test_selected_penalty_is_the_one_that_fits_unseen_samples_best():
    x, y = samples(3)
    train, val = slice(0, 60), slice(60, None)

    def minus_loss(logits: Tensor) -> float:
        return -float(torch.nn.functional.cross_entropy(logits, y[val]))

    options = {"task": "multiclass", "n_classes": 3}
    grid = (1e3, 10.0, 0.1, 1e-4)
    selected = select_l2(x[train], y[train], x[val], score=minus_loss, grid=grid, **options)
    fits = [fit_logistic_regression(x[train], y[train], l2=l2, **options) for l2 in grid]
    values = [minus_loss(fit.logits(x[val])) for fit in fits]
    assert 0 < int(np.argmax(values)) < 3  # neither end of the grid
    assert selected is not None
    assert selected.l2 == grid[int(np.argmax(values))]
    assert selected.value == pytest.approx(max(values), abs=1e-3)
    torch.testing.assert_close(selected.fit.weight, fits[int(np.argmax(values))].weight, rtol=1e-2, atol=1e-3)


def test_first_of_equal_penalties_is_selected_and_nan_never():
    x, y = samples(3)

    def select(values: list[float]) -> float | None:
        scores = iter(values)
        selected = select_l2(
            x, y, x, task="multiclass", n_classes=3, score=lambda _: next(scores), grid=(9.0, 3.0, 1.0)
        )
        return selected.l2 if selected else None

    assert select([0.5, 0.5, 0.4]) == 9.0
    assert select([math.nan, 0.2, 0.2]) == 3.0
    assert select([math.nan, math.nan, -5.0]) == 1.0
    assert select([math.nan] * 3) is None
