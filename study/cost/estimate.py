"""What the trials of a plan will take: work, seconds where they were measured, and the wall time on slots."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from study.axes import Scalar
from study.cost.counts import OperationCounts
from study.cost.places import expected_place
from study.cost.slots import Capacity, count_slots
from study.cost.speed import Measurements, Place
from study.cost.workload import Workload, workload
from study.grid import Resources
from study.plan import Plan, PlanEntry, State
from study.stacks import StackLimits, StackUse, stack_uses
from study.timetable import Timetable, schedule
from trainables.spec import TrialSpec

ANNOUNCED = "announced"
# Nothing of these is trained any more, unless a search wants a pruned trial back.
CLOSED = (State.DONE, State.PRUNED)


@dataclass(frozen=True)
class Announced:
    """Trials that will come but are not known yet: of a search, or further seeds.

    Attributes:
        spec: one that takes as long as each of them.
        axes: the values of the study's axes they stand for.
        after: ids of the trials that have to be finished before, those of earlier groups included
            (`announced_ids`).
    """

    spec: TrialSpec
    resources: Resources
    axes: Mapping[str, Scalar]
    count: int
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialCost:
    """Of one trial.

    Attributes:
        axes: as in the plan; of a mere source, those values that all trials it is there for share.
        whole, whole_s: from its first step on.
        left, left_s: what is still to be done; nothing of one that is done.
        gpu_memory_gb: of the GPU it will get, as far as known.
        did_not_fit: a probe of such a trial ran out of GPU memory.
    """

    label: str
    axes: Mapping[str, Scalar]
    resources: Resources
    is_open: bool
    whole: Workload
    whole_s: float | None
    left: Workload
    left_s: float | None
    gpu_memory_gb: float | None = None
    did_not_fit: bool = False

    @property
    def fits(self) -> bool:
        """Whether its GPU has the memory it needs, as far as both are known."""
        need, memory = self.whole.memory_bytes, self.gpu_memory_gb
        if not self.resources.gpu or self.did_not_fit:
            return not self.did_not_fit
        return need is None or memory is None or need <= memory * 1e9 * min(1.0, self.resources.gpu)


@dataclass(frozen=True)
class Estimate:
    """Of all trials of a plan, and of those that are announced.

    Attributes:
        trials: by id, parents before children; announced trials have ids of their own.
        parents: the ids each waits for.
        hardware: on which the speeds were measured.
        n_slots: trials at once, or stacks of them; None if nothing tells.
        stacks: how the open trials that could be trained together will be.
        start_s: until the workers are ready; 0 if that was never probed.
    """

    trials: Mapping[str, TrialCost]
    parents: Mapping[str, Sequence[str]]
    hardware: tuple[str, ...]
    n_slots: int | None
    start_s: float
    stacks: tuple[StackUse, ...] = ()

    @cached_property
    def open_trials(self) -> dict[str, TrialCost]:
        """Those that are not done."""
        return {key: cost for key, cost in self.trials.items() if cost.is_open}

    @property
    def n_unknown(self) -> int:
        """How many open trials take nobody knows how long."""
        return sum(cost.left_s is None for cost in self.open_trials.values())

    @cached_property
    def timetable(self) -> Timetable | None:
        """When the open trials would run; None if their seconds or the slots are not known."""
        if self.n_slots is None or self.n_unknown:
            return None
        seconds = {key: cost.left_s or 0.0 for key, cost in self.open_trials.items()}
        return schedule(seconds, self.parents, n_slots=self.n_slots)

    @property
    def wall_s(self) -> float | None:
        """Seconds until the last trial ends, the start of the workers included; None if not known."""
        table = self.timetable
        return None if table is None else table.makespan + (self.start_s if table.starts else 0.0)


def estimate(
    plan: Plan,
    *,
    measured: Measurements,
    counts: OperationCounts | None = None,
    at_most: int | None = None,
    capacity: Capacity | None = None,
    announced: Sequence[Announced] = (),
    stack_of: Callable[[PlanEntry], StackLimits | None] = lambda entry: None,
) -> Estimate:
    """Estimate the cost of a plan.

    A trial that is trained together with others counts with its share of the seconds of their stack.

    Args:
        counts: of operations; None leaves FLOPs and memory unknown, which saves the counting.
        at_most: trials at once, of the study file or the command line.
        capacity: of the machines; None if not known.
        stack_of: with which trials one may be trained together.
    """
    open_entries = [entry for entry in plan.entries if entry.state not in CLOSED]
    wanted = [entry.trial.resources for entry in open_entries]
    wanted += [group.resources for group in announced for _ in range(group.count)]
    n_slots = count_slots(wanted, at_most=at_most, capacity=capacity)
    limits = {e.trial_id: limit for e in open_entries if (limit := stack_of(e)) is not None}
    stacks = stack_uses(limits, n_slots=n_slots)
    estimator = _Estimator(measured, counts, {trial: use.speed_up for trial, use in stacks.items()})
    trials, parents = dict(estimator.planned(plan)), {e.trial_id: e.trial.parent_ids for e in plan.entries}
    for number, group in enumerate(announced):
        for key, cost in estimator.announced(group, number):
            trials[key], parents[key] = cost, group.after
    found = tuple({id(use): use for use in stacks.values()}.values())
    return Estimate(trials, parents, tuple(estimator.used), n_slots, estimator.start_s, found)


def announced_ids(number: int, count: int) -> tuple[str, ...]:
    """Return the ids that the trials of an announced group get, by its place in the list."""
    return tuple(f"{ANNOUNCED} {number}.{index}" for index in range(count))


class _Estimator:
    """Computes what trials of one spec have in common once."""

    def __init__(
        self, measured: Measurements, counts: OperationCounts | None, speed_ups: Mapping[str, float]
    ) -> None:
        self._measured, self._counts, self._speed_ups = measured, counts, speed_ups
        self._work: dict[tuple[object, ...], Workload] = {}
        self._places: dict[Resources, Place | None] = {}
        self.used: dict[str, None] = {}
        self.start_s = 0.0

    def planned(self, plan: Plan) -> Iterator[tuple[str, TrialCost]]:
        inherited = _axes_of_sources(plan)
        for entry in plan.entries:
            trial, record = entry.trial, entry.record
            axes = inherited.get(entry.trial_id, {}) if trial.is_source else trial.axes
            yield (
                entry.trial_id,
                self._cost(
                    entry.label,
                    trial.spec,
                    trial.resources,
                    axes,
                    is_open=entry.state not in CLOSED,
                    from_step=record.resumes_at_step if record is not None else 0,
                    speed_up=self._speed_ups.get(entry.trial_id, 1.0),
                ),
            )

    def announced(self, group: Announced, number: int) -> Iterator[tuple[str, TrialCost]]:
        cost = self._cost(
            f"{group.spec.cell_label} (to come)", group.spec, group.resources, group.axes, is_open=True
        )
        for key in announced_ids(number, group.count):
            yield key, cost

    def _cost(
        self,
        label: str,
        spec: TrialSpec,
        resources: Resources,
        axes: Mapping[str, Scalar],
        *,
        is_open: bool,
        from_step: int = 0,
        speed_up: float = 1.0,
    ) -> TrialCost:
        place = self._place(resources)
        whole, whole_s = self._of(spec, place, 0, speed_up)
        left, left_s = self._of(spec, place, from_step, speed_up) if is_open else (Workload(0, 0, 0, 0), 0.0)
        return TrialCost(
            label,
            axes,
            resources,
            is_open,
            whole,
            whole_s,
            left,
            left_s,
            self._measured.gpu_memory_gb.get(place.hardware) if place and resources.gpu else None,
            place is not None and self._measured.did_not_fit(spec, place),
        )

    def _of(
        self, spec: TrialSpec, place: Place | None, from_step: int, speed_up: float
    ) -> tuple[Workload, float | None]:
        # Trials of a cell share these objects, and a plan keeps them alive.
        key = (*map(id, (spec.architecture, spec.dataset, spec.training)), spec.purpose, from_step)
        if key not in self._work:
            operations = self._counts.of(spec) if self._counts is not None else None
            sizes = self._measured.sizes.of(spec.dataset)
            self._work[key] = workload(spec, sizes, operations, from_step=from_step)
        work = self._work[key]
        return work, None if place is None else self._seconds(spec, place, work, speed_up)

    def _seconds(self, spec: TrialSpec, place: Place, work: Workload, speed_up: float) -> float | None:
        speed = self._measured.speed(spec, place).trained_faster(speed_up)
        seconds = speed.seconds(images_trained=work.images_trained, images_scored=work.images_scored)
        if seconds is not None:
            self.used.setdefault(place.hardware)
            self.start_s = self._measured.start_s(place) or self.start_s
        return seconds

    def _place(self, resources: Resources) -> Place | None:
        if resources not in self._places:
            self._places[resources] = expected_place(self._measured, resources)
        return self._places[resources]


def _axes_of_sources(plan: Plan) -> dict[str, dict[str, Scalar]]:
    """Return for each mere source the axis values that all trials which need it share."""
    found: dict[str, dict[str, Scalar]] = {}
    for entry in reversed(plan.entries):
        own = found.get(entry.trial_id, {}) if entry.trial.is_source else dict(entry.trial.axes)
        for parent in entry.trial.parent_ids:
            before = found.get(parent)
            shared = own if before is None else {k: v for k, v in before.items() if own.get(k) == v}
            found[parent] = dict(shared)
    return found
