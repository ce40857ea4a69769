"""Which trials of a study are trained together (`trainables.stack`), and how many at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from study.cost.places import expected_place
from study.cost.setting import setting_label
from study.cost.speed import Measurements
from study.plan import PlanEntry
from study.sections import Study
from trainables.stacking import stacking_key

# Of `auto`: the time of a probe, and the work that is lost with a worker, grow with the stack.
LARGEST = 64
# What a larger stack has to gain over a smaller one, or over none, to be worth it.
WORTH = 1.05


@dataclass(frozen=True)
class StackLimits:
    """Which trials may be trained together: those of equal limits.

    Attributes:
        key: what they have in common.
        most: of them in one stack.
        label: of their setting.
        is_auto: fewer go together, or none, where that was measured to be faster.
        gains: the measured images/s of a stack, by those of its members one by one, by their number.
        why_not: why a stack that was tried could not be.
    """

    key: str
    most: int
    label: str = field(default="", compare=False)
    is_auto: bool = field(default=False, compare=False)
    gains: Mapping[int, float] = field(default_factory=dict, compare=False)
    why_not: str | None = field(default=None, compare=False)

    def size(self, n_trials: int) -> int:
        """Return how many of so many trials go together; 1 is none."""
        most = min(self.most, n_trials)
        return self.best_size(most) if self.is_auto else most

    def best_size(self, n_trials: int) -> int:
        """Return how many of so many trials go together best, as far as that was measured."""
        return best_size({size: gain for size, gain in self.gains.items() if size <= n_trials})

    def gain(self, size: int) -> float | None:
        """Return the gain of a stack, of the next smaller one that was measured; None if there is none."""
        known = [known for known in self.gains if known <= size]
        return self.gains[max(known)] if size > 1 and known else None


@dataclass(frozen=True)
class StackUse:
    """How trials that could be trained together will be.

    Attributes:
        label: of their setting.
        n_trials: how many they are.
        members: of a stack; 1 if they go one by one.
        gain: the images/s of such a stack by those of its members one by one; None if that is not known.
        best_size: that `auto` takes for as many trials.
        best_gain: of the fastest stack that was measured.
        why_not: why a stack that was tried could not be.
    """

    label: str
    is_auto: bool
    n_trials: int
    members: int
    gain: float | None
    best_size: int
    best_gain: float | None
    why_not: str | None

    @property
    def speed_up(self) -> float:
        """How much faster than alone a trial is counted."""
        return self.gain or 1.0


def stack_limits(entry: PlanEntry, study: Study, measured: Measurements) -> StackLimits | None:
    """Return with what a trial may be trained; None if it has its worker for itself.

    Settings of a search go alone: each is decided on by what is known when a slot is free, and a worker is
    stopped as a whole.
    """
    resources, wanted = entry.trial.resources, study.resources.stack
    is_alone = wanted == 1 or entry.trial.setting is not None or resources.gpu > 1
    key = None if is_alone else stacking_key(entry.trial.spec)
    if key is None:
        return None
    place = expected_place(measured, resources)
    stacks = measured.stacks(entry.trial.spec, place) if place is not None else ()
    return StackLimits(
        f"{key}, cpu {resources.cpu}, gpu {resources.gpu}",
        LARGEST if wanted == "auto" else wanted,
        setting_label(entry.trial.spec),
        wanted == "auto",
        {stack.members: stack.gain for stack in stacks if stack.gain is not None},
        next((stack.why_not for stack in stacks if stack.gain is None), None),
    )


class Companions:
    """With which of the ready trials one goes to a worker.

    Args:
        stack_of: as `stack_limits`; asked once for each trial.
    """

    def __init__(self, stack_of: Callable[[PlanEntry], StackLimits | None]) -> None:
        self._stack_of = stack_of
        self._known: dict[str, StackLimits | None] = {}

    def refuse(self, trial_id: str) -> None:
        """Let a trial go alone from now on: it has lost its worker, and others must not with it."""
        self._known[trial_id] = None

    def may_have_any(self, entry: PlanEntry) -> bool:
        """Say whether a trial is ever trained together with others."""
        limits = self._limits(entry)
        return limits is not None and limits.size(limits.most) > 1

    def of(self, chosen: PlanEntry, ready: Sequence[PlanEntry], *, n_free: float) -> list[str]:
        """Return the ids of those that join one, so many that no free slot is left idle.

        Args:
            ready: without the chosen one, the first first.
            n_free: slots, the one that is now filled included; infinite if that is not known.
        """
        limits = self._limits(chosen)
        if limits is None:
            return []
        alike = [entry.trial_id for entry in ready if self._limits(entry) == limits]
        n = 1 + len(alike)
        share = math.ceil(n / max(1.0, n_free)) if math.isfinite(n_free) else n
        return alike[: limits.size(share) - 1]

    def _limits(self, entry: PlanEntry) -> StackLimits | None:
        if entry.trial_id not in self._known:
            self._known[entry.trial_id] = self._stack_of(entry)
        return self._known[entry.trial_id]


def best_size(gains: Mapping[int, float]) -> int:
    """Return the smallest stack that is nearly as fast as the fastest; 1 if none is faster than none."""
    gains = {1: 1.0, **gains}
    return min(size for size, gain in gains.items() if gain * WORTH >= max(gains.values()))


def stack_uses(limits: Mapping[str, StackLimits], *, n_slots: int | None) -> dict[str, StackUse]:
    """Say of trials that may be trained together how they will be, if all are ready at once.

    Args:
        limits: by trial id.
        n_slots: none of which is left idle for the sake of a larger stack.
    """
    groups: dict[str, list[str]] = {}
    for trial_id, limit in limits.items():
        groups.setdefault(limit.key, []).append(trial_id)
    uses: dict[str, StackUse] = {}
    for alike in groups.values():
        limit = limits[alike[0]]
        share = math.ceil(len(alike) / (n_slots or 1))
        members = limit.size(share)
        use = StackUse(
            limit.label,
            limit.is_auto,
            len(alike),
            members,
            limit.gain(members),
            limit.best_size(share),
            max(limit.gains.values(), default=None),
            limit.why_not,
        )
        uses |= dict.fromkeys(alike, use)
    return uses


def sizes_to_measure(study: Study, n_alike: int, *, n_slots: int) -> tuple[int, ...]:
    """Return the sizes of stacks that a study may use for trials that can be trained together."""
    wanted, most = study.resources.stack, math.ceil(n_alike / n_slots)
    if wanted != "auto":
        return (min(wanted, most),) if min(wanted, most) > 1 else ()
    most = min(most, LARGEST)
    doubled = (2**power for power in range(1, most.bit_length()))
    return tuple(sorted({*doubled, most} - {1})) if most > 1 else ()
