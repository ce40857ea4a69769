"""Fixed features (Kornblith et al. 2019): a logistic regression in place of a training.

The features are what enters the network's last linear layer, in evaluation mode and without augmentation. The
solution is written into that layer, so that afterwards the network itself predicts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from trainables.architectures.architecture import HEAD
from trainables.architectures.stages import Network
from trainables.datasets.loading import Split
from trainables.errors import SpecError
from trainables.logistic_regression import LogisticFit, fit_logistic_regression, select_l2
from trainables.scores import score
from trainables.training import Training


@dataclass(frozen=True)
class LinearProbe:
    """What a probe came to. The network holds the fit on training and validation samples together.

    Attributes:
        l2: the penalty that was selected.
        val_metrics: of the fit on the training samples alone, `val_auroc` and so on; the final one has seen
            the validation samples.
        val_scores: (n_val, n_classes) probabilities, of the fit on the training samples alone.
        is_converged: of the final fit.
    """

    l2: float
    val_metrics: dict[str, float]
    val_scores: np.ndarray
    is_converged: bool


def fit_linear_probe(training: Training, *, metric: str) -> LinearProbe:
    """Fit the head of a network on the features of its backbone, which stays as it is.

    45 penalties, spaced evenly in the logarithm from 1e-6 to 1e5, are compared by `metric` on the
    validation split; the best is fitted again on training and validation samples together.

    Args:
        training: holds the initialized network and the data; no step of it is taken.
        metric: a `selection_metric` of the spec.

    Raises:
        SpecError: the head is not one linear layer, or the metric is not defined on the validation split.
    """
    dataset, head = training.dataset, _linear_head(training.network)
    x, y = _features(training, head, dataset.train)
    x_val, y_val = _features(training, head, dataset.val)
    task, n_classes = dataset.task, dataset.n_outputs

    def value(logits: Tensor) -> float:
        if metric == "val_loss":
            return -float(training.objective.loss(logits, y_val))
        scores = training.objective.scores(logits).cpu().numpy()
        found = score(task, scores, dataset.val.labels, referable_grade=dataset.referable_grade)
        return found.get(metric.removeprefix("val_"), np.nan)  # kappa is of grades alone

    selected = select_l2(x, y, x_val, task=task, n_classes=n_classes, score=value)
    if selected is None:
        raise SpecError(
            f"training.selection_metric {metric} must be defined on the validation split, got nan for every "
            "penalty (a class may be missing there); use val_loss, or a larger dataset.validation_fraction"
        )
    _write(head, selected.fit)
    on_val = training.measure(dataset.val)
    final = fit_logistic_regression(
        torch.cat([x, x_val]),
        torch.cat([y, y_val]),
        l2=selected.l2,
        task=task,
        n_classes=n_classes,
        start=selected.fit,
    )
    _write(head, final)
    return LinearProbe(
        l2=selected.l2,
        val_metrics={f"val_{name}": number for name, number in on_val.metrics.items()},
        val_scores=on_val.scores,
        is_converged=final.is_converged,
    )


def _linear_head(network: Network) -> nn.Linear:
    stage = network.stage(HEAD)
    layers = [
        module
        for name, module in network.module.named_modules()
        if stage.holds(f"{name}.weight") and any(True for _ in module.parameters(recurse=False))
    ]
    if len(layers) == 1 and isinstance(layers[0], nn.Linear) and layers[0].bias is not None:
        return layers[0]
    # Networks of the catalog are refused before they are built; timm's and those of others come here.
    kinds = ", ".join(type(layer).__name__ for layer in layers)
    raise SpecError(
        f"training.method linear_probe: the head must be one linear layer with a bias, got {len(layers)} "
        f"with weights ({kinds}); use another network"
    )


def _features(training: Training, head: nn.Linear, split: Split) -> tuple[Tensor, Tensor]:
    """Return what enters the head, (n_samples, n_features), and the labels."""
    batches: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    try:
        _, labels = training.logits(split)
    finally:
        handle.remove()
    # Tensors made in inference mode cannot take part in anything else; a concatenation outside of it can.
    return torch.cat(batches), labels.clone()


def _write(head: nn.Linear, fit: LogisticFit) -> None:
    with torch.no_grad():
        head.weight.copy_(fit.weight)
        head.bias.copy_(fit.bias)
