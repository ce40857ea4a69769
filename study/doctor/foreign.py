"""Runs that plain Ray Tune left in an experiment, through its MLflow callback or `setup_mlflow`.

Neither finds its run again when a sweep is resumed: it begins another of the same name, and the run that
was under way stays RUNNING for ever. They are not ours: nothing is deleted, only true statuses are set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from study.doctor import repair
from study.doctor.finding import Finding
from study.doctor.life import LONG_AGO_S, duration
from trainables.errors import TrackingError, suggestion
from trainables.record import Store, names, persistently
from trainables.record.runs import StoredRun

PAGE = 1000
TRIAL_NAME = "trial_name"


@dataclass(frozen=True)
class ForeignRun:
    """A run that is not ours.

    Attributes:
        last_s: its newest metric, or its start, in seconds since 1970.
        last_step: the highest step of any metric.
    """

    run: StoredRun
    name: str
    last_s: float
    last_step: int

    @property
    def is_running(self) -> bool:
        return names.STATUS_WORDS[self.run.status] == "running"

    @property
    def start_s(self) -> float:
        return self.run.start_time / 1000


def check_foreign(store: Store, experiment: str, *, now_s: float) -> Iterator[Finding]:
    """Find the runs of an experiment that Ray Tune forked or left running.

    Raises:
        TrackingError: there is no such experiment, or the store cannot be used.
    """
    by_name: dict[str, list[ForeignRun]] = {}
    for run in _runs(store, experiment):
        by_name.setdefault(run.name, []).append(run)
    for runs in by_name.values():
        ordered = sorted(runs, key=lambda run: run.run.start_time)
        if len(ordered) > 1:
            yield from _of_several(store, experiment, ordered)
        yield from _of_silent(store, experiment, ordered[-1], now_s=now_s)


def _of_several(store: Store, experiment: str, runs: list[ForeignRun]) -> Iterator[Finding]:
    newest, fullest = runs[-1], max(runs, key=lambda run: (run.run.status == "FINISHED", run.last_step))
    counting = f"{newest.run.run_id} is the newest, {fullest.run.run_id} the most complete"
    zombies = [run for run in runs[:-1] if run.is_running]
    for run in zombies:
        where = f"{run.name} (run {run.run.run_id} of {experiment})"
        what = f"one of {len(runs)} runs of this name, still marked running after another began; {counting}"
        if run.last_s > newest.start_s:
            todo = "both were written to after the newer began: give the two sweeps names of their own"
            yield Finding("ray tune", where, what, todo)
            continue
        kill = partial(repair.mark_killed, store, run.run, end_s=run.last_s)
        yield Finding("ray tune", where, what, "mark it killed", kill)


def _of_silent(store: Store, experiment: str, run: ForeignRun, *, now_s: float) -> Iterator[Finding]:
    silent_s = now_s - run.last_s
    if run.is_running and silent_s > LONG_AGO_S:
        yield Finding(
            "ray tune",
            f"{run.name} (run {run.run.run_id} of {experiment})",
            f"marked running, nothing was written for {duration(silent_s)}",
            "mark it killed",
            partial(repair.mark_killed, store, run.run, end_s=run.last_s),
        )


def _runs(store: Store, experiment: str) -> Iterator[ForeignRun]:
    client = store.client
    found = persistently("looking for an experiment", lambda: client.get_experiment_by_name(experiment))
    if found is None:
        known = [each.name for each in client.search_experiments()]
        raise TrackingError(
            f"no experiment {experiment!r} in {store.display_uri}; it holds: {', '.join(known)}"
            f"{suggestion(experiment, known)}"
        )
    token = None
    while True:
        search = partial(client.search_runs, [found.experiment_id], max_results=PAGE, page_token=token)
        page = persistently("searching MLflow", search)
        yield from (_foreign(run) for run in page if names.TRIAL_ID not in run.data.tags)
        token = page.token
        if not token:
            return


def _foreign(run: Any) -> ForeignRun:
    points = run.data.to_proto().metrics
    stored = StoredRun.of(run)
    last_ms = max([stored.start_time, *(point.timestamp for point in points)])
    # `setup_mlflow` names the run after the trial, the callback tags it besides.
    name = stored.tags.get(TRIAL_NAME) or stored.tags.get(names.RUN_NAME) or stored.run_id
    return ForeignRun(stored, name, last_ms / 1000, max((point.step for point in points), default=0))
