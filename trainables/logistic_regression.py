"""L2-regularized logistic regression by L-BFGS, and the choice of its penalty."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from trainables.datasets.table import UNKNOWN

# From strong to weak, so that every fit starts from a solution that is near its own.
L2_GRID = tuple(np.logspace(5, -6, 45).tolist())
# Greatest entry of the gradient of the mean loss, for features of root mean square 1.
GRADIENT_TOLERANCE = 1e-6
MOST_ITERATIONS = 2000


@dataclass(frozen=True)
class LogisticFit:
    """A logistic regression; both tensors are float64.

    Attributes:
        weight: (n_classes, n_features).
        bias: (n_classes,).
        is_converged: whether the gradient came below the tolerance. Under the weakest penalties, classes
            that can be told apart without error leave it little to descend; then the fit is the last point.
    """

    weight: Tensor
    bias: Tensor
    is_converged: bool

    def logits(self, x: Tensor) -> Tensor:
        """Return (n_samples, n_classes) float64 logits of features (n_samples, n_features)."""
        return x.to(self.weight) @ self.weight.T + self.bias


@dataclass(frozen=True)
class Selected:
    """The best of several penalties.

    Attributes:
        l2: the penalty.
        value: the score it got on validation.
        fit: on the training samples alone.
    """

    l2: float
    value: float
    fit: LogisticFit


def fit_logistic_regression(
    x: Tensor, y: Tensor, *, l2: float, task: str, n_classes: int, start: LogisticFit | None = None
) -> LogisticFit:
    """Minimize the sum of the losses plus l2 / 2 times the squared weights, by L-BFGS in float64.

    The loss is the cross-entropy of a softmax over the classes, or for `multilabel` the binary cross-entropy
    of each label on its known marks: the labels do not influence each other. Biases are not penalized.

    Whether Kornblith et al. take the sum or the mean of the losses, and whether they standardize features, is
    not known. Here losses are summed and features left as they are, as scikit-learn does and a public port of
    the protocol (linusericsson/ssl-transfer): l2 is scikit-learn's 1 / C (2 / C for the softmax over two
    classes, which has two weight vectors where scikit-learn has one).

    Within, features are centred and divided by one number, and the penalty is scaled along. That leaves the
    minimum where it is and makes it quicker to find. The features are copied: 8 bytes each, on their device.

    Args:
        x: (n_samples, n_features), on any device.
        y: labels as in `trainables.datasets.loading.Split`, on the same device.
        start: where the descent begins; zero without it.
    """
    features = x.double()
    centre = features.mean(0)
    features = features - centre
    size = float(features.square().mean().sqrt()) or 1.0
    features /= size
    targets, known = _targets(y, task, n_classes)
    shape = (n_classes, features.shape[1] + 1)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).to(features.device).view(shape)
        weight, bias = parameters[:, :-1], parameters[:, -1]
        losses, residuals = _losses(features @ weight.T + bias, targets, task)
        residuals = residuals * known
        scaled_l2 = l2 / size**2
        loss = (losses * known).sum() + scaled_l2 / 2 * weight.square().sum()
        gradient = torch.cat([residuals.T @ features + scaled_l2 * weight, residuals.sum(0)[:, None]], dim=1)
        return float(loss) / len(x), (gradient / len(x)).flatten().cpu().numpy()

    first = torch.zeros(shape, dtype=torch.float64)
    if start is not None:
        first = torch.cat([start.weight * size, start.logits(centre[None]).T], dim=1).cpu()
    found = minimize(
        loss_and_gradient,
        first.flatten().numpy(),
        method="L-BFGS-B",
        jac=True,
        options={
            "maxiter": MOST_ITERATIONS,
            "maxfun": 2 * MOST_ITERATIONS,
            "gtol": GRADIENT_TOLERANCE,
            "ftol": 0,
        },
    )
    solution = torch.from_numpy(found.x).to(features.device).view(shape)
    weight = solution[:, :-1] / size
    return LogisticFit(
        weight, solution[:, -1] - weight @ centre, bool(np.abs(found.jac).max() <= GRADIENT_TOLERANCE)
    )


def _targets(y: Tensor, task: str, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return marks 0 and 1, (n_samples, n_classes), and of each whether it counts (or a column for all)."""
    if task == "multilabel":
        known = (y != UNKNOWN).double()
        return y.double() * known, known
    one_hot = nn.functional.one_hot(y.long(), n_classes).double()
    return one_hot, torch.ones_like(one_hot[:, :1])


def _losses(logits: Tensor, targets: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Return the loss, one column for the softmax or one per label, and its derivative by the logits."""
    if task == "multilabel":
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses, torch.sigmoid(logits) - targets
    log_probabilities = torch.log_softmax(logits, dim=1)
    return -(targets * log_probabilities).sum(1, keepdim=True), log_probabilities.exp() - targets


def select_l2(
    x: Tensor,
    y: Tensor,
    x_val: Tensor,
    *,
    task: str,
    n_classes: int,
    score: Callable[[Tensor], float],
    grid: Iterable[float] = L2_GRID,
) -> Selected | None:
    """Fit every penalty of a grid and return the one whose validation logits score best.

    Of equals the first is taken, with the default grid the strongest penalty.

    Args:
        x, y: training samples, as in `fit_logistic_regression`.
        score: of (n_val, n_classes) float64 logits; more is better, NaN is never the best.

    Returns:
        None if every score is NaN.
    """
    best, fit = None, None
    for l2 in grid:
        fit = fit_logistic_regression(x, y, l2=l2, task=task, n_classes=n_classes, start=fit)
        value = score(fit.logits(x_val))
        if value > (best.value if best else -np.inf):
            best = Selected(l2, value, fit)
    return best
