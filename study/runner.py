"""Runs the open trials of a plan as one Ray Tune run, on this machine or on the cluster it belongs to."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property

# First, because it sets what Ray reads when it is imported.
from study.cluster import ray_session  # isort: split

from study.config import Study
from study.dispatch import Dispatcher
from study.failures import LossCallback
from study.handout import Handout
from study.lease import Lease, holding
from study.patience import Patience, within
from study.plan import Plan, State, make_plan, plan_rows, read_plan
from study.preflight import check_data, check_resources, check_store_is_shared, unused_gpus
from study.progress import StudyDisplay
from study.reach import store_study_file
from study.stopping import StopRequest
from study.tracking import StudyRun, adopt_finished, mark_failed, open_study_run
from study.tuning import fit
from study.until import Until
from trainables.errors import TrackingError
from trainables.record import RecordReader, Store

# A lost worker is told in one line by the display; Ray would add its traceback.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

END_WITHIN_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What a run of a study ended with.

    Attributes:
        failed: label and cause of every failed trial.
        not_run: label and reason of every trial that could not start.
        n_ran: trials finished by this run.
        n_reused: trials that were finished before.
        warnings: what makes the trials incomparable.
        was_interrupted: stopped by a signal, or by another driver.
        taken_over_by: that other driver, in words; what became of the trials is for it to say.
    """

    failed: tuple[tuple[str, str], ...]
    not_run: tuple[tuple[str, str], ...]
    n_ran: int
    n_reused: int
    warnings: tuple[str, ...]
    was_interrupted: bool
    taken_over_by: str = ""

    @property
    def is_complete(self) -> bool:
        return not (self.failed or self.not_run or self.was_interrupted)


def run_study(
    study: Study,
    *,
    store: Store,
    display: StudyDisplay,
    keep_failed: bool = False,
    take_over: bool = False,
    until: Until | None = None,
    request: StopRequest | None = None,
) -> Outcome:
    """Run what a study still needs, and leave true statuses behind.

    Args:
        take_over: take the study from the driver that runs it.
        until: cells get more seeds until this holds.
        request: to stop; the caller lets it watch for signals.

    Raises:
        UserError: another driver holds the study, no node can hold a trial's resources, or some node cannot
            use the store.
        KeyboardInterrupt: a signal asked to leave at once.
    """
    request = request or StopRequest()
    run = open_study_run(store, study.name)
    with holding(run, take_over=take_over, note=display.note, on_loss=request.make) as lease:
        drive = _Drive(study, store, display, keep_failed, until, request, lease)
        status = "FAILED"
        try:
            outcome = drive.run(run)
            status = "KILLED" if outcome.was_interrupted else "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            if not request.is_deferring:
                display.note(["left before any trial began"])
            raise
        finally:
            if not lease.taken_over_by:
                drive.end(run, status)
        return outcome


@dataclass(frozen=True)
class _Drive:
    """One run of a study under its lease."""

    study: Study
    store: Store
    display: StudyDisplay
    keep_failed: bool
    until: Until | None
    request: StopRequest
    lease: Lease

    @cached_property
    def reader(self) -> RecordReader:
        return RecordReader(self.store)

    @cached_property
    def patience(self) -> Patience:
        """For what is asked after the trials: until then MLflow is expected to be there."""
        minutes = self.study.failures.wait_for_mlflow_min
        return Patience(minutes, self.display.note, is_over=lambda: self.request.is_made)

    def run(self, run: StudyRun) -> Outcome:
        """Run the open trials, and store what became of each."""
        run.begin()
        store_study_file(run, self.study.text)
        records = self.reader.trials()
        plan = make_plan(self.study, records, histories=self.reader.histories)
        self.display.note(self.reader.notices)
        adopt_finished(self.store, plan)
        handout = Handout.of(
            plan,
            self.study,
            run,
            self.reader,
            records=records,
            keep_failed=self.keep_failed,
            until=self.until,
            note=self.display.note,
        )
        self._run_open_trials(handout)
        self.request.defer()
        searcher = handout.dispatcher
        was_interrupted = self.request.is_made
        if winner := self.lease.taken_over_by:
            return _outcome(plan, plan, searcher, was_interrupted=True, taken_over_by=str(winner))
        after = self._keep_books(run, searcher)
        outcome = _outcome(plan, after, searcher, was_interrupted=was_interrupted)
        return replace(outcome, warnings=(*outcome.warnings, *handout.warnings()))

    def _keep_books(self, run: StudyRun, searcher: Dispatcher) -> Plan:
        """Store what became of the trials.

        Raises:
            KeyboardInterrupt: somebody wants to leave, and MLflow is away.
        """

        def store_outcome() -> Plan:
            for trial_id, cause in searcher.given_up.items():
                mark_failed(self.store, trial_id, cause)
            after = read_plan(self.study, self.reader)
            run.log_outcome(plan_rows(after, searcher.not_run))
            return after

        try:
            after = self.patience.ask("storing the outcome of the study", store_outcome)
        except TrackingError as error:
            if not self.request.is_made:
                raise
            self.display.note([f"the outcome was not stored: {error}"])
            raise KeyboardInterrupt from None
        _share_records(self.reader, self.study.name, self.display)
        return after

    def end(self, run: StudyRun, status: str) -> None:
        """Mark the study's run; who wants to leave does not wait for MLflow, who has an error keeps it."""
        if status == "FINISHED":
            self.patience.ask("marking the study finished", lambda: run.end(status))
        elif not within(END_WITHIN_S, lambda: run.end(status)):
            self.display.note([f"the run of the study could not be marked {status} in MLflow"])

    def _run_open_trials(self, handout: Handout) -> None:
        """Run what is not done."""
        plan = handout.plan
        if handout.is_empty:
            return
        check_data(plan)
        with ray_session(), self.display.showing(plan, handout.dispatcher):
            check_resources(plan)
            check_store_is_shared(self.store)
            self.display.note(unused_gpus(plan))
            self.request.defer()
            if self.request.is_made:
                return  # taken over while Ray started
            try:
                self._train(handout)
            finally:
                if not self.lease.taken_over_by:
                    handout.end()

    def _train(self, handout: Handout) -> None:
        searcher = handout.dispatcher
        try:
            fit(
                searcher,
                slots=self.study.slots,
                request=self.request,
                callbacks=[
                    LossCallback(searcher, self.display),
                    self.display.tune_callback(),
                    *handout.callbacks,
                ],
                note=self.display.note,
                ends_early=handout.ends_early,
            )
        except KeyboardInterrupt:
            note = (
                "left at once: trials in flight were cut off; they go on from their last states when it "
                f"is run again: transfusion resume {self.study.name}"
            )
            self.display.note([note])
            raise


def _share_records(reader: RecordReader, study: str, display: StudyDisplay) -> None:
    """Store the records with the study, so that other machines need not read them run by run."""
    try:
        reader.share(study)
    except TrackingError as error:
        display.note([f"the records were not shared, so reading them will take longer: {error}"])


def _outcome(
    plan: Plan, after: Plan, searcher: Dispatcher, *, was_interrupted: bool, taken_over_by: str = ""
) -> Outcome:
    labels = {entry.trial_id: entry.label for entry in after.entries}
    labels |= {search.cell.key: search.label for search in after.searches}
    labels |= {trial_id: entry.label for trial_id, entry in searcher.entries.items()}
    n_reused = plan.counts().get(State.DONE, 0)
    return Outcome(
        failed=tuple((labels[trial_id], cause) for trial_id, cause in searcher.failed.items()),
        not_run=tuple((labels[trial_id], reason) for trial_id, reason in searcher.not_run.items()),
        n_ran=after.counts().get(State.DONE, 0) - n_reused,
        n_reused=n_reused,
        warnings=tuple(after.warnings()),
        was_interrupted=was_interrupted,
        taken_over_by=taken_over_by,
    )
