"""Which evaluation of a training is the best: its weights are the ones that are tested."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from trainables.architectures.stages import Network


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
