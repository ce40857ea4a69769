"""Everything that decides which trial goes next in one run of a study, put together."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray import tune

from study.budget import Budget, BudgetCallback, Use
from study.config import Study
from study.cost.counts import OperationCounts
from study.cost.estimate import TrialCost
from study.cost.foresight import expect, measurements_of
from study.cost.priorities import Priorities
from study.cost.slots import Capacity, count_slots
from study.cost.speed import Measurements
from study.dispatch import Dispatcher, Supply, has_diverged
from study.grid import Resources
from study.patience import within
from study.plan import Plan, PlanEntry, State
from study.search.judge import Judge
from study.search.live import LiveSearches
from study.stacks import stack_limits
from study.tracking import StudyRun, mark_pruned
from study.tuning import worker_config
from study.until import MoreSeeds, Until
from trainables.record import RecordReader, Store, TrialRecord, names

T = TypeVar("T")

# What is asked while Tune's loop waits.
ASK_WITHIN_S = 5.0
TELL_WITHIN_S = 2.0


@dataclass(frozen=True)
class _Archive:
    """Short questions to MLflow, and notes for it, from inside Tune's loop: all trials wait for them."""

    store: Store
    reader: RecordReader

    def resume_step(self, trial_id: str) -> int | None:
        """Return where a trial would go on; None if MLflow does not say at once."""
        return self._ask(trial_id, lambda record: record.resumes_at_step if record else 0)

    def metrics(self, trial_id: str) -> Mapping[str, float]:
        """Return the metrics in a trial's record; none if MLflow does not say at once."""
        return self._ask(trial_id, lambda record: record.metrics if record else {}) or {}

    def _ask(self, trial_id: str, what: Callable[[TrialRecord | None], T]) -> T | None:
        answers: list[T] = []
        is_told = within(ASK_WITHIN_S, lambda: answers.append(what(self.reader.trial(trial_id))))
        return answers[0] if is_told else None

    def note_pruned(self, trial_id: str, why: str) -> None:
        """Mark a trial for people; whether it goes on is decided from the records anew each time."""
        within(TELL_WITHIN_S, lambda: mark_pruned(self.store, trial_id, why))


@dataclass(frozen=True)
class Handout:
    """What one run of a study hands out. Made by `Handout.of`.

    Attributes:
        dispatcher: for Tune.
        callbacks: for Tune, too.
        ends_early: says of every report, by Tune's id of the trial, whether the trial ends there.
    """

    plan: Plan
    dispatcher: Dispatcher
    callbacks: tuple[tune.Callback, ...]
    ends_early: Callable[[str, dict[str, Any]], bool]
    _searches: LiveSearches
    _more_seeds: MoreSeeds | None
    _budget: Budget

    @classmethod
    def of(
        cls,
        plan: Plan,
        study: Study,
        run: StudyRun,
        reader: RecordReader,
        *,
        records: Sequence[TrialRecord],
        keep_failed: bool,
        until: Until | None,
        note: Callable[[list[str]], None],
    ) -> "Handout":
        """Put together what decides on the trials of a plan.

        Args:
            records: all of the store, as the plan was made of them.
            until: the condition under which cells get more seeds.
            note: shows a line to people.

        Raises:
            TrackingError: what was used before cannot be read.
        """
        archive = _Archive(run.store, reader)
        searches = LiveSearches(plan, archive.metrics, keep_failed=keep_failed)
        more_seeds = (
            MoreSeeds(plan, until, archive.metrics, keep_failed=keep_failed) if until is not None else None
        )
        supplies: list[LiveSearches | MoreSeeds] = [*([searches] if plan.searches else [])]
        supplies += [more_seeds] if more_seeds else []
        used = Use.parse(run.tag(names.USED))
        budget = Budget(study.budget, used, lambda now: _keep(run, now))

        is_done = all(entry.state == State.DONE for entry in plan.entries) and not supplies
        measured = Measurements() if is_done else measurements_of(run.store, records)

        def config_of(entries: Sequence[PlanEntry]) -> dict[str, Any]:
            ids = [entry.trial_id for entry in entries]
            marks = {one: {k: v for s in supplies for k, v in s.marks(one).items()} for one in ids}
            return worker_config(entries, study, run.store, marks)

        told: list[Supply] = [*supplies]
        wanted = [entry.trial.resources for entry in plan.entries]
        wanted += [search.cell.as_written().resources for search in plan.searches]
        dispatcher = Dispatcher(
            plan,
            config_of,
            resume_step=archive.resume_step,
            lost_workers=study.failures.lost_workers,
            keep_failed=keep_failed,
            length_of=_priorities(plan, study, measured).of,
            supplies=told,
            why_not=budget.why_not,
            n_fit=lambda: _n_fit(wanted, study),
            is_strict=study.budget.is_given,
            stack_of=lambda entry: stack_limits(entry, study, measured),
        )

        def tell(label: str, trial_id: str, why: str) -> None:
            note([f"{label} is stopped: {why}"])
            archive.note_pruned(trial_id, why)

        judge = Judge(searches, dispatcher, tell)
        callbacks = (BudgetCallback(budget),)
        return cls(plan, dispatcher, callbacks, judge.ends_early, searches, more_seeds, budget)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to run."""
        is_settled = all(
            entry.state in (State.DONE, State.PRUNED) or has_diverged(entry) for entry in self.plan.entries
        )
        return is_settled and self._searches.is_over and not (self._more_seeds and self._more_seeds.is_wanted)

    def end(self) -> None:
        """Store what was used."""
        self._budget.keep(self._budget.now())

    def warnings(self) -> list[str]:
        """Say what could not be reached."""
        return self._more_seeds.still_wide() if self._more_seeds else []


def _n_fit(wanted: Sequence[Resources], study: Study) -> float:
    """Return how many trials the machines that Ray has joined hold at once."""
    have = ray.cluster_resources()
    capacity = Capacity(have.get("CPU", 0), have.get("GPU", 0))
    n_slots = count_slots(wanted, at_most=study.slots, capacity=capacity) or 1
    # A cluster grows only for trials that wait.
    return n_slots + 1 if os.environ.get("RAY_ADDRESS") else n_slots


def _priorities(plan: Plan, study: Study, measured: Measurements) -> Priorities:
    """Return how long each trial and those that wait for it take, in seconds where these are known."""

    counts: OperationCounts | None = None
    expected = expect(plan, study, measured)
    if expected.n_unknown:  # only then operations count, and counting them takes a while
        counts = OperationCounts()
        expected = expect(plan, study, measured, counts=counts)

    def cost_of(entry: PlanEntry) -> TrialCost:
        alone = Plan(plan.study, (entry,), excluded=(), n_merged=0)
        return expect(alone, study, measured, counts=counts).trials[entry.trial_id]

    return Priorities(expected, cost_of)


def _keep(run: StudyRun, used: Use) -> None:
    within(TELL_WITHIN_S, lambda: run.set_tag(names.USED, used.text()))
