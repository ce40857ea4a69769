"""Which evaluation of a training is the best: its weights are the ones that are tested."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from trainables.architectures.stages import Network
from trainables.errors import SpecError


@dataclass
class Selection:
    """The best evaluation so far."""

    metric: str
    value: float = math.nan
    step: int = 0
    mark: float = math.nan
    evaluations_since: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def consider(self, value: float, step: int, network: Network, *, min_delta: float) -> bool:
        """Keep the weights if `value` is the best so far; say whether it was.

        An improvement of at most `min_delta` is kept too, but does not restart the patience, which counts
        from the last value that was better by more (`mark`).
        """
        if self._gain(value, self.mark) > min_delta:
            self.mark, self.evaluations_since = value, 0
        elif self.weights:
            self.evaluations_since += 1
        is_better = self._gain(value, self.value) > 0
        if is_better or not self.weights:
            self.value, self.step = value, step
            self.weights = {k: v.detach().cpu().clone() for k, v in network.module.state_dict().items()}
        return is_better

    def _gain(self, value: float, reference: float) -> float:
        """By how much `value` is better; infinite against NaN, and NaN is never better."""
        if math.isnan(value):
            return -math.inf
        if math.isnan(reference):
            return math.inf
        return reference - value if self.metric == "val_loss" else value - reference


def check_selectable(metric: str, metrics: Mapping[str, float]) -> None:
    """Refuse a metric by which no evaluation could be chosen: the untrained network would be tested.

    Args:
        metrics: of an evaluation with finite scores.

    Raises:
        SpecError: the metric is not defined on the validation split.
    """
    value = metrics.get(metric)
    if value is None:
        raise SpecError(
            f"training.selection_metric {metric} is not defined for this task; take one of "
            f"{', '.join(sorted(name for name in metrics if not math.isnan(metrics[name])))}"
        )
    if math.isnan(value):
        raise SpecError(
            f"training.selection_metric {metric} must be defined on the validation split, got nan (a class, "
            "or all others, may be missing there); use val_loss, or a larger dataset.validation_fraction"
        )
