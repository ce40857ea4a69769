"""A study as a DAG of trials, each with what MLflow knows of it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from study.config import Study
from study.grid import Excluded, PlannedTrial, expand
from trainables.identity import cell_id, flatten
from trainables.labels import distinct_labels
from trainables.record import TrialRecord, changed_datasets


class State(StrEnum):
    """What will happen to a trial when the study is run."""

    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    TO_RUN = "to run"
    WAITING = "waiting"


@dataclass(frozen=True)
class PlanEntry:
    """One trial of a plan.

    Attributes:
        cell_label: what people call its cell; another cell of the study has another.
        record: what MLflow holds of it, or None.
        reason: in words: why it failed, where it continues, what it waits for, who else ran it.
    """

    trial: PlannedTrial
    cell_label: str
    state: State
    record: TrialRecord | None
    reason: str

    @property
    def trial_id(self) -> str:
        return self.trial.trial_id

    @property
    def label(self) -> str:
        return f"{self.cell_label} · seed {self.trial.spec.seed}"


@dataclass(frozen=True)
class Plan:
    """All trials of a study, parents before children.

    Attributes:
        excluded: combinations the study file drops, with its reasons.
        n_merged: combinations that are the same training as another and are trained once.
    """

    study: str
    entries: tuple[PlanEntry, ...]
    excluded: tuple[Excluded, ...]
    n_merged: int

    def counts(self) -> dict[State, int]:
        """Return how many trials are in each state; states without trials are left out."""
        found = Counter(entry.state for entry in self.entries)
        return {state: found[state] for state in State if found[state]}

    def warnings(self) -> list[str]:
        """Say what makes the finished trials incomparable."""
        return changed_datasets(entry.record for entry in self.entries if entry.record is not None)

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """Return the ids of the trials that need each parent."""
        children: dict[str, list[str]] = {}
        for entry in self.entries:
            for parent_id in entry.trial.parent_ids:
                children.setdefault(parent_id, []).append(entry.trial_id)
        return children


def make_plan(study: Study, records: Iterable[TrialRecord]) -> Plan:
    """Expand a study file and hold it against the records of a store.

    Args:
        records: of this study or any other; those the study does not name are ignored.
    """
    expansion = expand(study)
    known = {record.trial_id: record for record in records}
    labels = _cell_labels(expansion.trials)
    entries = tuple(
        PlanEntry(trial, labels[cell_id(trial.spec)], *_state(trial, known, study.name))
        for trial in expansion.trials
    )
    return Plan(study.name, entries, tuple(expansion.excluded), expansion.merged)


def _cell_labels(trials: Iterable[PlannedTrial]) -> dict[str, str]:
    """Return a label for every cell, by its id; cells of one name are told apart by what they differ in."""
    specs = {cell_id(trial.spec): trial.spec for trial in trials}
    contents = {cell: flatten(spec) for cell, spec in specs.items()}
    for content in contents.values():
        del content["seed"]
    return distinct_labels({cell: spec.cell_label for cell, spec in specs.items()}, contents)


def _state(
    trial: PlannedTrial, known: Mapping[str, TrialRecord], study: str
) -> tuple[State, TrialRecord | None, str]:
    """Return the state of a trial, its record, and the reason."""
    record = known.get(trial.trial_id)
    if record is not None and record.status == "finished":
        others = sorted(record.studies - {study})
        from_other = f"from study {', '.join(others)}" if others and study not in record.studies else ""
        return State.DONE, record, from_other
    if record is not None and record.status == "failed":
        return State.FAILED, record, record.cause or "no cause was recorded"
    for parent_id, parent in zip(trial.parent_ids, trial.spec.parents, strict=True):
        of_parent = known.get(parent_id)
        if of_parent is None or of_parent.status != "finished":
            has_failed = of_parent is not None and of_parent.status == "failed"
            failure = f", which failed: {of_parent.cause}" if of_parent and has_failed else ""
            return State.WAITING, record, f"for {parent.label}{failure}"
    if record is not None:
        step = record.resumes_at_step
        return State.PARTIAL, record, f"continues at step {step}" if step else "begun, no state yet"
    return State.TO_RUN, None, ""


def plan_rows(plan: Plan, not_run: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Return the plan as plain rows: what is stored with the study, and what `plan --json` prints."""
    not_run = not_run or {}
    return [
        {
            "trial_id": entry.trial_id,
            "label": entry.label,
            "state": "not run" if entry.trial_id in not_run else str(entry.state),
            "reason": not_run.get(entry.trial_id, entry.reason),
            "source_of": str(len(plan.children.get(entry.trial_id, []))),
        }
        for entry in plan.entries
    ]
