"""What the checks of the records look at: all runs, read once, and the files of some."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

from study.doctor.life import Death, death_of
from trainables.errors import SpecError
from trainables.identity import trial_id
from trainables.record import Store, names, persistently
from trainables.record.library import RunLibrary
from trainables.record.runs import StoredRun, canonical
from trainables.record.store import Artifacts
from trainables.spec import SPEC_VERSION, TrialSpec, parse_trial


class OtherVersionError(SpecError):
    """A spec of another version of this program: nothing is wrong with it, but it is not ours to read."""


@dataclass(frozen=True)
class TrialRuns:
    """All runs of one trial.

    Attributes:
        counting: the one that everybody takes.
        others: should not be there.
    """

    trial_id: str
    counting: StoredRun
    others: tuple[StoredRun, ...]


@dataclass(frozen=True)
class Examination:
    """The records of a store at one moment.

    Attributes:
        studies: the runs of studies.
        now_s: seconds since 1970, by the clock of the store where it has one.
        is_deep: look at the files of finished trials too, and at their digests.
        heard: the runs whose processes gave a sign of life after this moment; None if nobody listened
            (`study.doctor.listening`).
    """

    store: Store
    trials: tuple[TrialRuns, ...]
    studies: tuple[StoredRun, ...]
    now_s: float
    is_deep: bool
    heard: frozenset[str] | None = None
    _files: dict[str, Mapping[str, int | None]] = field(default_factory=dict)

    def death_of(self, run: StoredRun) -> Death | None:
        """Say how one knows that the process of a running run is gone; None while it may live."""
        return None if run.run_id in (self.heard or ()) else death_of(run, now_s=self.now_s)

    def is_marked_running(self, run: StoredRun) -> bool:
        """Say whether a run has not been ended by anybody."""
        return names.STATUS_WORDS[run.status] == "running"

    def is_live(self, run: StoredRun) -> bool:
        """Say whether a process may be writing a run."""
        return self.is_marked_running(run) and self.death_of(run) is None

    def is_looked_into(self, run: StoredRun) -> bool:
        """Say whether the files of a run are looked at."""
        return not self.is_live(run) and (self.is_deep or run.status != "FINISHED")

    def artifacts(self, run: StoredRun) -> Artifacts:
        """Return the artifacts of a run."""
        get = partial(self.store.client.get_run, run.run_id)
        return self.store.artifacts(persistently(f"reading run {run.run_id}", get))

    def files(self, run: StoredRun) -> Mapping[str, int | None]:
        """Return the weights and states of a run: bytes by path; None where the store does not tell."""
        if run.run_id not in self._files:
            artifacts = self.artifacts(run)

            def look() -> dict[str, int | None]:
                return artifacts.sizes(names.CHECKPOINTS) | artifacts.sizes(names.STATES)

            self._files[run.run_id] = persistently(f"listing the artifacts of run {run.run_id}", look)
        return self._files[run.run_id]

    @cached_property
    def users(self) -> Mapping[str, list[str]]:
        """The labels of the trials that start from a trial, by its id."""
        users: dict[str, list[str]] = {}
        for trial in self.trials:
            try:
                spec = spec_of(trial.counting)
            except SpecError:
                continue  # a finding of its own
            for parent in spec.parents if spec else ():
                users.setdefault(trial_id(parent), []).append(label(trial.counting))
        return users


def examine(store: Store, *, is_deep: bool = False, now_s: float | None = None) -> Examination:
    """Read all runs of trials and studies.

    A few finished runs are read from the archive of this machine (see `trainables.record.library`), which
    does not see what was edited by hand; with `is_deep` all are read from the store.

    Raises:
        TrackingError: the store cannot be used.
    """
    library = RunLibrary(store)
    if is_deep:
        runs = [StoredRun.of(run) for run in store.search(names.KIND, names.TRIAL_KIND)]
    else:
        runs = library.runs(None)
        library.save()
    by_trial: dict[str, list[StoredRun]] = {}
    for run in runs:
        by_trial.setdefault(run.tags.get(names.TRIAL_ID, run.run_id), []).append(run)
    trials = []
    for identity, of_trial in by_trial.items():
        counting = canonical(of_trial)
        trials.append(TrialRuns(identity, counting, tuple(run for run in of_trial if run is not counting)))
    studies = tuple(StoredRun.of(run) for run in store.search(names.KIND, names.STUDY_KIND))
    return Examination(store, tuple(trials), studies, time.time() if now_s is None else now_s, is_deep)


def label(run: StoredRun) -> str:
    """Name a run for people."""
    return f"{run.tags.get(names.RUN_NAME) or 'a run'} (run {run.run_id})"


def spec_of(run: StoredRun) -> TrialSpec | None:
    """Read the spec of a run; None if it lies in an artifact, since it fits no tag.

    Raises:
        OtherVersionError: another version of this program wrote it.
        SpecError: it is not the spec of a trial.
    """
    text = run.tags.get(names.SPEC)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise SpecError(f"expected the fields of a trial, got {text[:40]!r}")
    if content.get("spec_version", SPEC_VERSION) != SPEC_VERSION:
        raise OtherVersionError(f"version {content['spec_version']}, this program has {SPEC_VERSION}")
    return parse_trial(content)
