"""Which trial should go first: the one with the longest chain behind it."""

from collections.abc import Callable, Mapping
from statistics import median

from study.cost.estimate import Estimate, TrialCost
from study.plan import PlanEntry
from study.timetable import remaining_seconds


class Priorities:
    """The length of the longest chain that starts with a trial, itself included.

    In seconds; if those of any open trial are unknown, in FLOPs for all; else in images trained; else 1 for
    each.

    Args:
        expected: of all that is open, what is announced included.
        cost_of: estimates a trial that is decided on later; no other waits for such a one.
    """

    def __init__(self, expected: Estimate, cost_of: Callable[[PlanEntry], TrialCost]) -> None:
        self._measure, lengths = _lengths(expected.open_trials)
        self._found = remaining_seconds(lengths, expected.parents)
        self._middle = median(self._found.values()) if self._found else 0.0
        self._cost_of = cost_of

    def of(self, entry: PlanEntry) -> float:
        """Return the length; the median of the others for one that was decided on later and is not known."""
        if entry.trial_id not in self._found:
            length = self._measure(self._cost_of(entry))
            # One that nobody knows is neither held back nor preferred.
            self._found[entry.trial_id] = self._middle if length is None else length
        return self._found[entry.trial_id]


Measure = Callable[[TrialCost], float | None]


def _lengths(costs: Mapping[str, TrialCost]) -> tuple[Measure, dict[str, float]]:
    for measure in (_seconds, _flops, _images):
        known = {trial_id: length for trial_id, c in costs.items() if (length := measure(c)) is not None}
        if len(known) == len(costs):
            return measure, known
    return _one, dict.fromkeys(costs, 1.0)


def _seconds(cost: TrialCost) -> float | None:
    return cost.left_s


def _flops(cost: TrialCost) -> float | None:
    return cost.left.flops


def _images(cost: TrialCost) -> float | None:
    return cost.left.images_trained


def _one(cost: TrialCost) -> float:
    return 1.0
