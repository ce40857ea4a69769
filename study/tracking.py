"""The MLflow run of a study: its file, its plan, its analysis. Trials have `trainables.record`."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow.entities import Run, RunTag

from study.plan import Plan, State
from trainables.errors import TrackingError, suggestion
from trainables.record import Store, names, persistently
from trainables.record.runs import canonical

STUDY_FILE = "study.yaml"
PLAN_FILE = "plan.json"
ANALYSIS = "analysis"


@dataclass(frozen=True)
class StudyRun:
    """The run that holds a study. Made by `open_study_run`."""

    store: Store
    run_id: str
    name: str

    @property
    def artifact_uri(self) -> str:
        """Where its files lie, for whoever writes them."""
        return str(self._read().info.artifact_uri)

    def tag(self, name: str) -> str:
        """Return a tag of the run that counts, which is this one, or one that was begun at the same moment.

        Empty if there is none.
        """
        return str(self._counting().data.tags.get(name, ""))

    def leave_to_the_one_that_counts(self) -> None:
        """Delete this run if everybody takes another for the run of the study."""
        if self._counting().info.run_id != self.run_id:
            delete = partial(self.store.client.delete_run, self.run_id)
            persistently(f"deleting a second run of study {self.name}", delete)

    def set_tag(self, name: str, value: str) -> None:
        """Write a tag."""
        write = partial(self.store.client.set_tag, self.run_id, name, value)
        persistently(f"writing to the run of study {self.name}", write)

    def begin(self) -> None:
        """Mark the run running."""
        begin = partial(self.store.client.update_run, self.run_id, status="RUNNING")
        persistently(f"beginning the run of study {self.name}", begin)

    def log_study_file(self, text: str) -> None:
        """Store the study file, from which `resume` and `analyze` start."""
        self._write(STUDY_FILE, text)

    def log_outcome(self, rows: list[dict[str, str]]) -> None:
        """Store what became of every trial."""
        self._write(PLAN_FILE, json.dumps(rows, indent=2, ensure_ascii=False))

    def end(self, status: str) -> None:
        """Mark the run FINISHED, KILLED or FAILED."""
        end = partial(self.store.client.set_terminated, self.run_id, status)
        persistently(f"ending the run of study {self.name}", end)

    def log_analysis(self, folder: Path) -> None:
        """Store the tables, figures and the report."""
        upload = partial(self.store.client.log_artifacts, self.run_id, str(folder), ANALYSIS)
        persistently(f"storing the analysis of study {self.name}", upload)

    def read_study_file(self) -> str:
        """Return the text of the stored study file."""
        with self.store.artifact(self.run_id, STUDY_FILE) as file:
            return file.read_text()

    def _write(self, name: str, text: str) -> None:
        self.store.artifacts(self._read()).write_text(name, text)

    def _counting(self) -> Run:
        # Somebody may have deleted it.
        found = self.store.search(names.STUDY, self.name)
        return canonical(found) if found else self._read()

    def _read(self) -> Run:
        read = partial(self.store.client.get_run, self.run_id)
        return persistently(f"reading the run of study {self.name}", read)


def open_study_run(store: Store, name: str) -> StudyRun:
    """Find the run of a study or create it.

    Raises:
        TrackingError: it cannot be created.
    """
    tags = {names.KIND: names.STUDY_KIND, names.RUN_NAME: f"study {name}"}
    run = store.find_or_create(names.STUDY, name, tags=tags)
    # Two drivers that begin a study at the same moment may create a run each.
    counting = canonical(store.search(names.STUDY, name))
    if counting.info.run_id != run.info.run_id:
        store.client.delete_run(run.info.run_id)
    return StudyRun(store, counting.info.run_id, name)


def find_study_run(store: Store, name: str) -> StudyRun:
    """Find the run of a study.

    Raises:
        TrackingError: the store holds no study of that name.
    """
    if found := store.search(names.STUDY, name):
        return StudyRun(store, canonical(found).info.run_id, name)
    known = sorted(run.data.tags[names.STUDY] for run in store.search(names.KIND, names.STUDY_KIND))
    listed = ", ".join(known) or "none yet"
    raise TrackingError(
        f"no study {name!r} in {store.display_uri}; it holds: {listed}{suggestion(name, known)}"
    )


def adopt_finished(store: Store, plan: Plan) -> None:
    """Tag the finished trials that this study shares with others, so that they are found as its own."""
    tag = names.STUDY_PREFIX + plan.study
    for entry in plan.entries:
        if entry.state == State.DONE and entry.record is not None and plan.study not in entry.record.studies:
            mark = partial(store.client.log_batch, entry.record.run_id, tags=[RunTag(tag, "yes")])
            persistently(f"marking {entry.label} as part of the study", mark)


def mark_pruned(store: Store, trial_id: str, reason: str) -> None:
    """Say of a trial why its search has stopped it."""
    for run in store.search(names.TRIAL_ID, trial_id):
        tags = [RunTag(names.PRUNED, reason)]
        persistently(
            "noting that a trial was stopped", partial(store.client.log_batch, run.info.run_id, tags=tags)
        )


def mark_failed(store: Store, trial_id: str, cause: str) -> None:
    """Mark a trial failed whose own process could not; one that is finished stays so."""
    for run in store.search(names.TRIAL_ID, trial_id):
        if run.info.status != "FINISHED":
            tags = [RunTag(names.CAUSE, cause)]
            persistently("noting a cause", partial(store.client.log_batch, run.info.run_id, tags=tags))
            persistently(
                "marking a trial failed", partial(store.client.set_terminated, run.info.run_id, "FAILED")
            )
