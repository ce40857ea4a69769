"""Which trials of a study are trained together (`trainables.stack`)."""

from study.dispatch import StackLimits
from study.plan import PlanEntry
from study.sections import Study
from trainables.stacking import stacking_key


def stack_limits(entry: PlanEntry, study: Study) -> StackLimits | None:
    """Return with what a trial may be trained; None if it has its worker for itself.

    Settings of a search go alone: each is decided on by what is known when a slot is free, and a worker is
    stopped as a whole.
    """
    resources = entry.trial.resources
    is_alone = study.resources.stack == 1 or entry.trial.setting is not None or resources.gpu > 1
    key = None if is_alone else stacking_key(entry.trial.spec)
    if key is None:
        return None
    return StackLimits(f"{key}, cpu {resources.cpu}, gpu {resources.gpu}", study.resources.stack)
