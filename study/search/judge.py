"""Stops settings of a search at their rungs, while Tune runs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from study.dispatch import Dispatcher
from study.search.live import LiveSearches, evaluation_of
from trainables.progress import reports_of


@dataclass(frozen=True)
class Judge:
    """Decides on each report of a trial whether it ends there; such trials have their worker for themselves.

    Args:
        tell: told the label of a setting that is stopped, its trial and the reason.
    """

    searches: LiveSearches
    dispatcher: Dispatcher
    tell: Callable[[str, str, str], None]

    def ends_early(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Say whether a trial ends with this report."""
        return any(self._ends(report) for report in reports_of(result) if report["status"] == "running")

    def _ends(self, report: Mapping[str, Any]) -> bool:
        trial_id = report["trial_id"]
        metric = self.searches.metric_of(trial_id)
        evaluation = evaluation_of(report["metrics"], metric) if metric is not None else None
        if evaluation is None or report["step"] >= report["total_steps"]:
            return False  # at the end it is too late to stop anything
        why = self.searches.reported(trial_id, *evaluation)
        if why is None:
            return False
        self.dispatcher.pruned(trial_id)
        self.tell(self.dispatcher.entries[trial_id].label, trial_id, why)
        return True
