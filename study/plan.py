"""A study as a DAG of trials, each with what MLflow knows of it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

from study.config import Study
from study.grid import Excluded, PlannedTrial, expand
from study.search.cell import CellSearch, Tried
from study.search.records import Histories, recorded_searches
from trainables.identity import cell_id, flatten
from trainables.labels import distinct_labels
from trainables.spec import TrialSpec

if TYPE_CHECKING:
    from trainables.record import RecordReader, TrialRecord  # which imports MLflow


class State(StrEnum):
    """What will happen to a trial when the study is run."""

    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    TO_RUN = "to run"
    WAITING = "waiting"
    PRUNED = "pruned"


@dataclass(frozen=True)
class PlanEntry:
    """One trial of a plan.

    Attributes:
        cell_label: what people call its cell, or the setting that it tries; another of the study has another.
        record: what MLflow holds of it, or None.
        reason: in words: why it failed, where it continues, what it waits for, who else ran it.
    """

    trial: PlannedTrial
    cell_label: str
    state: State
    record: "TrialRecord | None"
    reason: str

    @property
    def trial_id(self) -> str:
        return self.trial.trial_id

    @property
    def label(self) -> str:
        is_setting = self.trial.setting is not None
        return self.cell_label if is_setting else f"{self.cell_label} · seed {self.trial.spec.seed}"


@dataclass(frozen=True)
class Plan:
    """All trials of a study, parents before children.

    Attributes:
        excluded: combinations the study file drops, with its reasons.
        n_merged: combinations that are the same training as another and are trained once.
        searches: of the cells whose settings are searched: what will be tried is not known yet, and so in no
            entry.
    """

    study: str
    entries: tuple[PlanEntry, ...]
    excluded: tuple[Excluded, ...]
    n_merged: int
    searches: tuple[CellSearch, ...] = ()

    def counts(self) -> dict[State, int]:
        """Return how many trials are in each state; states without trials are left out."""
        found = Counter(entry.state for entry in self.entries)
        return {state: found[state] for state in State if found[state]}

    def warnings(self) -> list[str]:
        """Say what makes the finished trials incomparable."""
        records = [entry.record for entry in self.entries if entry.record is not None]
        if not records:
            return []
        from trainables.record import changed_datasets

        return changed_datasets(records)

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """Return the ids of the trials that need each parent."""
        children: dict[str, list[str]] = {}
        for entry in self.entries:
            for parent_id in entry.trial.parent_ids:
                children.setdefault(parent_id, []).append(entry.trial_id)
        return children


def read_plan(study: Study, reader: "RecordReader") -> Plan:
    """Expand a study file and hold it against what a store holds."""
    return make_plan(study, reader.trials(), histories=reader.histories)


def make_plan(study: Study, records: "Iterable[TrialRecord]", *, histories: Histories | None = None) -> Plan:
    """Expand a study file and hold it against the records of a store.

    Args:
        records: of this study or any other; those the study does not name are ignored.
        histories: gives metrics over training, by which a search stops settings early.
    """
    expansion = expand(study)
    known = {record.trial_id: record for record in records}
    cells = {cell.key: cell for cell in expansion.searched}
    labels = _cell_labels(
        {
            **{cell_id(trial.spec): trial.spec for trial in expansion.trials},
            **{key: cell.base for key, cell in cells.items()},
        }
    )
    entries = [
        PlanEntry(trial, labels[cell_id(trial.spec)], *_state(trial, known, study.name))
        for trial in expansion.trials
    ]
    searches: list[CellSearch] = []
    if study.search is not None:
        labelled = {labels[key]: cell for key, cell in cells.items()}
        searches = recorded_searches(study.name, study.search, labelled, known.values(), histories=histories)
        for search in searches:
            entries += _entries_of_search(search, known, study.name)
    entries += _added_seeds(entries, known, study.name)
    return Plan(study.name, tuple(entries), tuple(expansion.excluded), expansion.merged, tuple(searches))


def _added_seeds(
    entries: Sequence[PlanEntry], known: "Mapping[str, TrialRecord]", study: str
) -> Iterator[PlanEntry]:
    """Yield the seeds that were added to cells of the study while it ran, and that its file does not name."""
    added = [record for record in known.values() if study in record.added_to]
    planned = {entry.trial_id for entry in entries}
    cells = {
        cell_id(entry.trial.spec): entry for entry in (entries if added else ()) if entry.trial.is_result
    }
    for record in added:
        of_cell = cells.get(record.cell_id)
        if of_cell is not None and record.trial_id not in planned:
            trial = of_cell.trial.reseeded(record.spec)
            yield PlanEntry(trial, of_cell.cell_label, *_state(trial, known, study))


def setting_entry(search: CellSearch, one: Tried) -> PlanEntry:
    """Return the entry of a setting that was just drawn."""
    return PlanEntry(one.trial, search.label_of(one), State.TO_RUN, None, "")


def result_entries(search: CellSearch) -> list[PlanEntry]:
    """Return the entries of the trials that a cell is compared with, once its search is decided."""
    return [PlanEntry(trial, search.label, State.TO_RUN, None, "") for trial in search.results()]


def _entries_of_search(
    search: CellSearch, known: "Mapping[str, TrialRecord]", study: str
) -> Iterator[PlanEntry]:
    pruned = search.pruned()
    for one in search.tried:
        state = _state(one.trial, known, study)
        if one.trial_id in pruned:
            state = (State.PRUNED, state[1], pruned[one.trial_id])
        yield PlanEntry(one.trial, search.label_of(one), *state)
    for trial in search.results():
        yield PlanEntry(trial, search.label, *_state(trial, known, study))


def _cell_labels(specs: Mapping[str, TrialSpec]) -> dict[str, str]:
    """Return a label for every cell, by its id; cells of one name are told apart by what they differ in."""
    contents = {cell: flatten(spec) for cell, spec in specs.items()}
    for content in contents.values():
        del content["seed"]
    return distinct_labels({cell: spec.cell_label for cell, spec in specs.items()}, contents)


def _state(
    trial: PlannedTrial, known: "Mapping[str, TrialRecord]", study: str
) -> "tuple[State, TrialRecord | None, str]":
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
