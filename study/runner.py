"""Runs the open trials of a plan as one Ray Tune run, on this machine or on the cluster it belongs to."""

import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

# Ray reads these when it is imported. People see the study's own display, not Ray's.
for _name, _value in {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's snapshots are never restored from.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_THRESHOLD_S": "60",
    # Tune's own handler ends the run without waiting for the trials to commit.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402

from study.config import Study  # noqa: E402
from study.plan import Plan, PlanEntry, State, make_plan, plan_rows  # noqa: E402
from study.progress import StudyDisplay  # noqa: E402
from study.search import DagSearcher  # noqa: E402
from study.tracking import adopt_finished, mark_failed, open_study_run  # noqa: E402
from trainables.errors import UserError  # noqa: E402
from trainables.record import RecordReader, Store  # noqa: E402
from trainables.spec import RunOptions  # noqa: E402
from trainables.tune_trainable import TransfusionTrainable  # noqa: E402

LEAVE_WITHIN_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """What a run of a study ended with.

    Attributes:
        failed: label and cause of every failed trial.
        not_run: label and reason of every trial that could not start.
        n_ran: trials finished by this run.
        n_reused: trials that were finished before.
        was_interrupted: stopped by a signal.
    """

    failed: tuple[tuple[str, str], ...]
    not_run: tuple[tuple[str, str], ...]
    n_ran: int
    n_reused: int
    was_interrupted: bool

    @property
    def is_complete(self) -> bool:
        return not (self.failed or self.not_run or self.was_interrupted)


def run_study(study: Study, *, store: Store, display: StudyDisplay, keep_failed: bool = False) -> Outcome:
    """Run what a study still needs, and leave true statuses behind.

    Raises:
        UserError: no node can hold a trial's resources.
    """
    run = open_study_run(store, study.name)
    run.log_study_file(study.text)
    plan = make_plan(study, RecordReader(store).trials())
    adopt_finished(store, plan)
    searcher = DagSearcher(
        plan,
        lambda entry: _config(entry, study, plan, store),
        mark_failed=lambda trial_id, cause: mark_failed(store, trial_id, cause),
        keep_failed=keep_failed,
    )
    was_interrupted = False
    if any(entry.state != State.DONE for entry in plan.entries):
        with _ray(), display.showing(plan, searcher):
            _check_resources(plan)
            was_interrupted = _fit(searcher, study, store, display)
    after = make_plan(study, RecordReader(store).trials())
    run.log_outcome(plan_rows(after, searcher.not_run), status="KILLED" if was_interrupted else "FINISHED")
    labels = {entry.trial_id: entry.label for entry in after.entries}
    n_reused = plan.counts().get(State.DONE, 0)
    return Outcome(
        failed=tuple((labels[trial_id], cause) for trial_id, cause in searcher.failed.items()),
        not_run=tuple((labels[trial_id], reason) for trial_id, reason in searcher.not_run.items()),
        n_ran=after.counts().get(State.DONE, 0) - n_reused,
        n_reused=n_reused,
        was_interrupted=was_interrupted,
    )


def _config(entry: PlanEntry, study: Study, plan: Plan, store: Store) -> dict[str, Any]:
    is_parent = entry.trial_id in plan.children()
    keep = {*study.options.keep, *(("best", "final") if is_parent else ())}
    options = study.options.model_copy(
        update={"threads": max(1, int(entry.trial.resources.cpu)), "keep": tuple(sorted(keep))}
    )
    return {
        "trial_id": entry.trial_id,
        "spec": entry.trial.spec.model_dump_json(),
        "options": RunOptions.model_dump_json(options),
        "tracking_uri": store.uri,
        "study": study.name,
        "cpu": entry.trial.resources.cpu,
        "gpu": entry.trial.resources.gpu,
    }


def _fit(searcher: DagSearcher, study: Study, store: Store, display: StudyDisplay) -> bool:
    """Run Tune to the end; return whether a signal stopped it."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(_n_pending())
    with (
        tempfile.TemporaryDirectory(prefix="transfusion-tune-") as folder,
        _StopOnSignal().watching() as stopper,
    ):
        tuner = tune.Tuner(
            tune.with_resources(
                TransfusionTrainable, lambda config: {"cpu": config["cpu"], "gpu": config["gpu"]}
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, reuse_actors=True, max_concurrent_trials=study.slots
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                verbose=0,
                stop=stopper,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=[display.tune_callback()],
            ),
        )
        tuner.fit()
        if stopper.is_stopping:
            _wait_until_left(searcher, store)
        return stopper.is_stopping


def _wait_until_left(searcher: DagSearcher, store: Store) -> None:
    """Wait for the trials in flight to commit their states: shutting Ray down would kill them in it."""
    reader = RecordReader(store)
    deadline = time.monotonic() + LEAVE_WITHIN_S
    for trial_id in searcher.stopped:
        while time.monotonic() < deadline:
            record = reader.trial(trial_id)
            if record is None or record.status != "running":
                break
            time.sleep(0.2)


def _n_pending() -> int:
    # For a custom searcher Tune keeps one trial pending unless told otherwise, and slots run dry.
    return max(8, 2 * int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def _ray() -> Iterator[None]:
    """Join the cluster named by RAY_ADDRESS, or start Ray here for the time of the run."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"include_dashboard": False}
    ray.init(
        address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **local
    )
    try:
        yield
    finally:
        ray.shutdown()


class _StopOnSignal(tune.Stopper):
    """Ends the run at the first SIGINT or SIGTERM, when trials commit a state; a second leaves at once."""

    def __init__(self) -> None:
        self.is_stopping = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.is_stopping

    @contextmanager
    def watching(self) -> Iterator["_StopOnSignal"]:
        """Handle both signals until the block ends."""

        def stop(signum: int, frame: FrameType | None) -> None:
            if self.is_stopping:
                raise KeyboardInterrupt
            self.is_stopping = True

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _check_resources(plan: Plan) -> None:
    if os.environ.get("RAY_ADDRESS"):
        return  # an autoscaling cluster may grow the node that is missing
    here = ray.cluster_resources()
    for entry in plan.entries:
        wanted = entry.trial.resources
        for name, amount in (("CPU", wanted.cpu), ("GPU", wanted.gpu)):
            if amount > here.get(name, 0):
                raise UserError(
                    f"resources.{name.lower()}: {entry.label} asks for {amount:g}, this machine has "
                    f"{here.get(name, 0):g}; lower it, or join a cluster (RAY_ADDRESS)"
                )
