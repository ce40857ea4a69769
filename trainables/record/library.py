"""The runs of trials: those that are finished from an archive, the others from the store.

A server takes 5 ms to hand out one run, and 13 s for 2,000. What is finished does not change, so it is kept
in an archive below `TRANSFUSION_CACHE`, and in one that belongs to the run of its study, with which a
machine that never saw the study begins. No archive is believed: before each use the store is asked, in a
few small questions, whether all of these runs are still there, finished, part of the study and ended no
later than the archive says, and then for every run that the archive lacks. What the store cannot be asked
is whether somebody edited a tag or a metric of a finished run by hand: to see that, delete the archive.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import overload

import pandas as pd
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.utils.search_utils import SearchUtils

from trainables.errors import DataError, TrackingError
from trainables.record import archive_places, names
from trainables.record.archive import Archive, points_table, read_archive
from trainables.record.histories import read_points
from trainables.record.runs import StoredRun, tag_query
from trainables.record.store import Store, persistently

# Up to this many runs reading them all takes half a second.
WORTH_AN_ARCHIVE = 100
# MLflow refuses a filter of more than 10,000 words; of what a question denies, so many are read again.
RUNS_A_FILTER = 3000
RUNS_A_DOUBT = 250


class RunLibrary:
    """Reads runs of trials, and their metrics.

    Attributes:
        notices: what went wrong without stopping the reading, for people.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.notices: list[str] = []
        self._is_saved = True

    @cached_property
    def archive(self) -> Archive:
        """The archive of this machine."""
        return read_archive(archive_places.local_file(self.store)) or Archive()

    def runs(self, study: str | None) -> list[StoredRun]:
        """Return the active runs of the trials of a study, or of all trials, the oldest first.

        Raises:
            TrackingError: the store cannot be used.
        """
        query = _query(study)
        if query is None:
            return []
        try:
            if self.archive.runs or self._page(query, start=WORTH_AN_ARCHIVE):
                return self._caught_up(query, study)
        except TrackingError as error:
            if not _is_refusal(error):
                raise
            # An older or another server does not understand such questions.
        return [StoredRun.of(run) for run in self.store.runs(query)]

    def points(
        self, run_ids: Sequence[str], metrics: Sequence[str], *, live: Collection[str]
    ) -> pd.DataFrame:
        """Return the points of metrics, one row for a step of a run and metric.

        Args:
            live: those of the runs that may still change.

        Raises:
            TrackingError: the store cannot be used.
        """
        settled = [run_id for run_id in run_ids if run_id in self.archive.runs and run_id not in live]
        others = sorted(set(run_ids).difference(settled))
        tables = []
        for metric in metrics:
            unknown = [key for key in settled if metric not in self.archive.known.get(key, ())]
            if unknown:
                points = read_points(self.store, unknown, metric)
                self.archive.add_points(points, run_ids=unknown, metric=metric)
                self._is_saved = False
            if others:
                tables.append(read_points(self.store, others, metric))
        archived = self.archive.points
        is_asked = archived["run_id"].isin(settled) & archived["metric"].isin(metrics)
        return points_table(archived[is_asked], *tables) if tables else archived[is_asked]

    def complete(self, run_id: str, tag: str, value: str) -> None:
        """Add to an archived run what lies beside its tags."""
        if (run := self.archive.runs.get(run_id)) is not None:
            self.archive.runs[run_id] = replace(run, tags={**run.tags, tag: value})
            self._is_saved = False

    def forget(self, run_id: str) -> None:
        """Read a run from the store the next time."""
        if run_id in self.archive.runs:
            self.archive.keep(self.archive.runs.keys() - {run_id})
            self._is_saved = False

    def save(self) -> None:
        """Write the archive of this machine, if it has changed and is worth it."""
        if self._is_saved or len(self.archive.runs) < WORTH_AN_ARCHIVE:
            return
        try:
            archive_places.save_locally(self.archive, self.store)
        except DataError as error:
            self.notices.append(f"{error}; until then all trials are read from MLflow each time")
        self._is_saved = True

    def share(self, study: str) -> None:
        """Store the archived runs of a study with the run of the study.

        Raises:
            TrackingError: the store cannot be used.
        """
        of_study = Archive()
        of_study.update(self.archive, only=self._archived(study))
        if len(of_study.runs) >= WORTH_AN_ARCHIVE:
            archive_places.share(of_study, self.store, study)

    def _caught_up(self, query: str, study: str | None) -> list[StoredRun]:
        fresh = self._lacking(query, study, at_most=WORTH_AN_ARCHIVE) if self.archive.runs else None
        if fresh is None:
            self._add_shared(study)
            fresh = self._lacking(query, study)
        if not self._is_complete(query, study, fresh):
            self._drop_stale(query, study)
            fresh = self._lacking(query, study)
        settled = {key: run for key, run in fresh.items() if run.is_settled}
        if settled:
            self.archive.replace_runs(settled)
            self._is_saved = False
        current = {key: self.archive.runs[key] for key in self._archived(study)} | fresh
        return sorted(current.values(), key=lambda run: (run.start_time, run.run_id))

    def _archived(self, study: str | None) -> list[str]:
        runs = self.archive.runs
        return [key for key in runs if study is None or names.STUDY_PREFIX + study in runs[key].tags]

    def _studies(self) -> list[str]:
        runs = self.store.search(names.KIND, names.STUDY_KIND)
        return sorted({run.data.tags[names.STUDY] for run in runs if names.STUDY in run.data.tags})

    def _add_shared(self, study: str | None) -> None:
        for name in [study] if study is not None else self._studies():
            self.archive.update(archive_places.shared_archive(self.store, name))
            self._is_saved = False

    @overload
    def _lacking(self, query: str, study: str | None) -> dict[str, StoredRun]: ...
    @overload
    def _lacking(self, query: str, study: str | None, *, at_most: int) -> dict[str, StoredRun] | None: ...
    def _lacking(
        self, query: str, study: str | None, *, at_most: int | None = None
    ) -> dict[str, StoredRun] | None:
        """Read the runs that the archive lacks, also as part of this study or of one of all.

        None if a question has more than `at_most` answers.
        """
        found: dict[str, StoredRun] = {}
        scopes = [(query, study)]
        if study is None:
            scopes += [(of_study, name) for name in self._studies() if (of_study := _query(name))]
        for scope, name in scopes:
            for question in _without(scope, [*self._archived(name), *found]):
                page = self._page(question, n=at_most) if at_most else None
                if page is not None and page.token:
                    return None
                runs = self.store.runs(question) if page is None else page
                found |= {run.info.run_id: StoredRun.of(run) for run in runs}
        return found

    def _is_complete(self, query: str, study: str | None, fresh: Mapping[str, StoredRun]) -> bool:
        """Ask whether the store still has all archived runs of a study, by counting.

        It has `fresh` besides, and no others.
        """
        ours = [run for key in self._archived(study) if (run := self.archive.runs[key]) and key not in fresh]
        if not ours:
            return True
        last_end = max(run.end_time or 0 for run in ours)
        n_others = sum(run.is_settled and (run.end_time or 0) <= last_end for run in fresh.values())
        return self._are(len(ours) + n_others, _settled(query, last_end))

    def _drop_stale(self, query: str, study: str | None) -> None:
        """Forget the runs that were deleted, begun again or taken out of the study, with their neighbours."""
        stale: set[str] = set()
        for run_ids in _parts(self._archived(study), RUNS_A_DOUBT):
            last_end = max(self.archive.runs[run_id].end_time or 0 for run_id in run_ids)
            question = f"{_settled(query, last_end)} and attributes.run_id IN ({_listed(run_ids)})"
            if not self._are(len(run_ids), question):
                stale.update(run_ids)
        if stale:
            self.archive.keep(self.archive.runs.keys() - stale)
            self._is_saved = False

    def _are(self, n: int, query: str) -> bool:
        """Ask whether exactly so many runs (one at least) fit a query, without reading them."""
        page = self._page(query, start=n - 1)
        # A store that cannot begin in the middle sends more than the one that is left.
        return len(page) == 1 and not page.token

    def _page(self, query: str, *, start: int = 0, n: int = 1) -> PagedList[Run]:
        token = SearchUtils.create_page_token(start) if start else None

        def ask() -> PagedList[Run]:
            return self.store.client.search_runs(
                [self.store.experiment_id],
                query,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=n,
                order_by=["attributes.start_time ASC"],
                page_token=token.decode() if isinstance(token, bytes) else token,
            )

        return persistently("searching MLflow", ask)


def _settled(query: str, last_end: int) -> str:
    return f"{query} and attributes.status = 'FINISHED' and attributes.end_time <= {last_end}"


def _query(study: str | None) -> str | None:
    of_study = [(names.STUDY_PREFIX + study, "yes")] if study is not None else []
    return tag_query((names.KIND, names.TRIAL_KIND), *of_study)


def _without(query: str, run_ids: Sequence[str]) -> list[str]:
    """Return filters that together give all runs but these."""
    if not run_ids:
        return [query]
    if len(run_ids) <= RUNS_A_FILTER:
        return [f"{query} and attributes.run_id NOT IN ({_listed(run_ids)})"]
    # Run ids are hexadecimal: a filter of its own for each first digit, or first two.
    n_digits = 1 + (len(run_ids) > 8 * RUNS_A_FILTER)
    starts = [f"{number:0{n_digits}x}" for number in range(16**n_digits)]
    return [
        question
        for start in starts
        for question in _without(
            f"{query} and attributes.run_id LIKE '{start}%'",
            [run_id for run_id in run_ids if run_id.startswith(start)],
        )
    ]


def _listed(run_ids: Iterable[str]) -> str:
    return ",".join(f"'{run_id}'" for run_id in run_ids)


def _parts(run_ids: Sequence[str], size: int) -> list[Sequence[str]]:
    return [run_ids[start : start + size] for start in range(0, len(run_ids), size)]


def _is_refusal(error: TrackingError) -> bool:
    cause = error.__cause__
    return isinstance(cause, MlflowException) and cause.get_http_status_code() in (400, 404, 501)
