"""Which trial should go first: the one with the longest chain behind it."""

from collections.abc import Mapping

from study.cost.estimate import Estimate, TrialCost
from study.plan import Plan
from study.timetable import remaining_seconds


def priorities(plan: Plan, estimate: Estimate) -> Mapping[str, float]:
    """Return the length of the longest chain that starts with each open trial of a plan, itself included.

    In seconds; if any trial's are unknown, in FLOPs for all; else in images trained; else 1 for each.
    """
    costs = {entry.trial_id: estimate.trials[entry.trial_id] for entry in plan.entries}
    lengths = _lengths({trial_id: cost for trial_id, cost in costs.items() if cost.is_open})
    return remaining_seconds(lengths, estimate.parents)


def _lengths(costs: Mapping[str, TrialCost]) -> dict[str, float]:
    for measure in (_seconds, _flops, _images):
        known = {trial_id: length for trial_id, c in costs.items() if (length := measure(c)) is not None}
        if len(known) == len(costs):
            return known
    return dict.fromkeys(costs, 1.0)


def _seconds(cost: TrialCost) -> float | None:
    return cost.left_s


def _flops(cost: TrialCost) -> float | None:
    return cost.left.flops


def _images(cost: TrialCost) -> float | None:
    return cost.left.images_trained
