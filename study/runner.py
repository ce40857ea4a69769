"""Runs the open trials of a plan as one Ray Tune run, on this machine or on the cluster it belongs to."""

import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First, because it sets what Ray reads when it is imported.
from study.cluster import ray_session  # isort: split

import ray
from ray import tune

from study.config import Study
from study.plan import Plan, PlanEntry, State, make_plan, plan_rows
from study.progress import StudyDisplay
from study.search import DagSearcher
from study.stopping import StopRequest
from study.tracking import adopt_finished, mark_failed, open_study_run
from trainables.datasets.loading import check_dataset_is_there
from trainables.errors import TrackingError, UserError
from trainables.record import RecordReader, Store
from trainables.spec import RunOptions
from trainables.tune_trainable import TransfusionTrainable

# A lost worker is told in one line by the display; Ray would add its traceback.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

LEAVE_WITHIN_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """What a run of a study ended with.

    Attributes:
        failed: label and cause of every failed trial.
        not_run: label and reason of every trial that could not start.
        n_ran: trials finished by this run.
        n_reused: trials that were finished before.
        warnings: what makes the trials incomparable.
        was_interrupted: stopped by a signal.
    """

    failed: tuple[tuple[str, str], ...]
    not_run: tuple[tuple[str, str], ...]
    n_ran: int
    n_reused: int
    warnings: tuple[str, ...]
    was_interrupted: bool

    @property
    def is_complete(self) -> bool:
        return not (self.failed or self.not_run or self.was_interrupted)


def run_study(study: Study, *, store: Store, display: StudyDisplay, keep_failed: bool = False) -> Outcome:
    """Run what a study still needs, and leave true statuses behind.

    Raises:
        UserError: no node can hold a trial's resources, or other nodes cannot see the store.
    """
    reader = RecordReader(store)
    plan = make_plan(study, reader.trials())
    display.note(reader.notices)
    searcher = DagSearcher(
        plan,
        lambda entry: _config(entry, study, store),
        resume_step=lambda trial_id: _resume_step(store, trial_id),
        keep_failed=keep_failed,
    )
    run = open_study_run(store, study.name)
    status = "FAILED"
    try:
        run.log_study_file(study.text)
        adopt_finished(store, plan)
        was_interrupted = _run_open_trials(plan, study, store=store, searcher=searcher, display=display)
        status = "KILLED" if was_interrupted else "FINISHED"
        after = make_plan(study, reader.trials())
        run.log_outcome(plan_rows(after, searcher.not_run))
        _share_records(reader, study.name, display)
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.end(status)
    return _outcome(plan, after, searcher, was_interrupted=was_interrupted)


def _share_records(reader: RecordReader, study: str, display: StudyDisplay) -> None:
    """Store the records with the study, so that other machines need not read them run by run."""
    try:
        reader.share(study)
    except TrackingError as error:
        display.note([f"the records were not shared, so reading them will take longer: {error}"])


def _run_open_trials(
    plan: Plan, study: Study, *, store: Store, searcher: DagSearcher, display: StudyDisplay
) -> bool:
    """Run what is not done, and return whether a signal stopped it."""
    if all(entry.state == State.DONE for entry in plan.entries):
        return False
    _check_data(plan)
    with ray_session(), display.showing(plan, searcher):
        _check_resources(plan)
        _check_store_is_shared(store)
        display.note(_unused_gpus(plan))
        was_interrupted = _fit(searcher, study, store, display)
    for trial_id, cause in searcher.given_up.items():
        mark_failed(store, trial_id, cause)
    return was_interrupted


def _outcome(plan: Plan, after: Plan, searcher: DagSearcher, *, was_interrupted: bool) -> Outcome:
    labels = {entry.trial_id: entry.label for entry in after.entries}
    n_reused = plan.counts().get(State.DONE, 0)
    return Outcome(
        failed=tuple((labels[trial_id], cause) for trial_id, cause in searcher.failed.items()),
        not_run=tuple((labels[trial_id], reason) for trial_id, reason in searcher.not_run.items()),
        n_ran=after.counts().get(State.DONE, 0) - n_reused,
        n_reused=n_reused,
        warnings=tuple(after.warnings()),
        was_interrupted=was_interrupted,
    )


def _resume_step(store: Store, trial_id: str) -> int:
    try:
        record = RecordReader(store).trial(trial_id)
    except TrackingError:
        return 0
    return record.resumes_at_step if record else 0


def _config(entry: PlanEntry, study: Study, store: Store) -> dict[str, Any]:
    # Another study may start from any trial of this one, so these two are always there.
    keep = {*study.options.keep, "best", "final"}
    resources = entry.trial.resources
    options = study.options.model_copy(
        update={
            "threads": max(1, int(resources.cpu)),
            "keep": tuple(sorted(keep)),
            # Ray does not hide the GPUs of a machine from a trial that asked for none.
            "device": "auto" if resources.gpu else "cpu",
        }
    )
    return {
        "trial_id": entry.trial_id,
        "spec": entry.trial.spec.model_dump_json(),
        "options": RunOptions.model_dump_json(options),
        "tracking_uri": store.uri,
        "experiment": store.experiment,
        "study": study.name,
        "cpu": resources.cpu,
        "gpu": resources.gpu,
    }


def _fit(searcher: DagSearcher, study: Study, store: Store, display: StudyDisplay) -> bool:
    """Run Tune to the end; return whether a signal stopped it."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(_n_pending())
    with (
        tempfile.TemporaryDirectory(prefix="transfusion-tune-") as folder,
        StopRequest().watching() as request,
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
                stop=_Stopper(request),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=[display.tune_callback()],
            ),
        )
        tuner.fit()
        if request.is_made:
            _wait_until_left(searcher, store)
        return request.is_made


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


class _Stopper(tune.Stopper):
    """Ends the run when a stop was asked for: trials in flight commit a state and leave."""

    def __init__(self, request: StopRequest) -> None:
        self._request = request

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._request.is_made


def _unused_gpus(plan: Plan) -> list[str]:
    n_gpus = ray.cluster_resources().get("GPU", 0)
    if not n_gpus or any(entry.trial.resources.gpu for entry in plan.entries):
        return []
    return [f"{n_gpus:g} GPU(s) stay idle, since no trial asks for one; set resources.gpu in the study file"]


def _check_data(plan: Plan) -> None:
    """Look for the images before a worker starts; on a cluster they are where the workers are."""
    if os.environ.get("RAY_ADDRESS"):
        return
    root = os.environ.get("TRANSFUSION_DATA")
    for dataset in {entry.trial.spec.dataset for entry in plan.entries if entry.state != State.DONE}:
        check_dataset_is_there(dataset, data_root=Path(root) if root else None)


def _check_store_is_shared(store: Store) -> None:
    n_nodes = sum(node["Alive"] for node in ray.nodes())
    if n_nodes > 1 and store.is_local_file:
        raise UserError(
            f"the cluster has {n_nodes} nodes, which do not share {store.display_uri}; "
            "start `mlflow server` on the head and set MLFLOW_TRACKING_URI to it"
        )


def _check_resources(plan: Plan) -> None:
    if os.environ.get("RAY_ADDRESS"):
        return  # an autoscaling cluster may grow the node that is missing
    here = ray.cluster_resources()
    for entry in (entry for entry in plan.entries if entry.state != State.DONE):
        wanted = entry.trial.resources
        for name, amount in (("CPU", wanted.cpu), ("GPU", wanted.gpu)):
            if amount > here.get(name, 0):
                raise UserError(
                    f"resources.{name.lower()}: {entry.label} asks for {amount:g}, this machine has "
                    f"{here.get(name, 0):g}; lower it, or join a cluster (RAY_ADDRESS)"
                )
