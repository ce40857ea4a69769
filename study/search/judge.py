"""Stops settings of a search at their rungs, while Tune runs them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from study.dispatch import Dispatcher
from study.search.live import LiveSearches, evaluation_of


@dataclass(frozen=True)
class Judge:
    """Decides on each report of a trial whether it ends there.

    Args:
        tell: told the label of a setting that is stopped, its trial and the reason.
    """

    searches: LiveSearches
    dispatcher: Dispatcher
    tell: Callable[[str, str, str], None]

    def ends_early(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Say whether a trial ends with this report."""
        trial_id = self.dispatcher.trial_of(tune_id)
        metric = self.searches.metric_of(trial_id) if trial_id is not None else None
        if trial_id is None or metric is None or result.get("status") != "running":
            return False
        evaluation = evaluation_of(result.get("metrics") or {}, metric)
        if evaluation is None or result["step"] >= result["total_steps"]:
            return False  # at the end it is too late to stop anything
        why = self.searches.reported(trial_id, *evaluation)
        if why is None:
            return False
        self.dispatcher.pruned(trial_id)
        self.tell(self.dispatcher.entries[trial_id].label, trial_id, why)
        return True
