"""One run of Ray Tune over what a searcher hands out."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache

from study.config import Study
from study.dispatch import Dispatcher
from study.plan import PlanEntry
from study.stopping import StopRequest
from trainables.errors import TrackingError
from trainables.record import RecordReader, Store
from trainables.spec import RunOptions
from trainables.tune_trainable import TransfusionTrainable

LEAVE_WITHIN_S = 30.0

# Tune would hand AWS's keys to its workers in a way that Ray writes to its logs. Workers of this machine
# inherit them, other nodes have their own.
class_cache.ENV_VARS_TO_PROPAGATE = frozenset(
    name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
)


def trial_config(entry: PlanEntry, study: Study, store: Store) -> dict[str, Any]:
    """Return what a worker is told of its trial, plain data."""
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
        "tracking_uri": store.display_uri,  # Ray writes it to its logs
        "experiment": store.experiment,
        "study": study.name,
        "cpu": resources.cpu,
        "gpu": resources.gpu,
    }


def fit(
    searcher: Dispatcher,
    *,
    slots: int | None,
    request: StopRequest,
    callbacks: Sequence[tune.Callback],
    note: Callable[[list[str]], None],
) -> None:
    """Run Tune to the end, or until a stop is asked for."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(_n_pending())
    with tempfile.TemporaryDirectory(prefix="transfusion-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(
                TransfusionTrainable, lambda config: {"cpu": config["cpu"], "gpu": config["gpu"]}
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, reuse_actors=True, max_concurrent_trials=slots
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                verbose=0,
                stop=_Stopper(request, note),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=list(callbacks),
            ),
        )
        tuner.fit()


def wait_until_left(searcher: Dispatcher, reader: RecordReader) -> None:
    """Wait for the trials in flight to commit their states: shutting Ray down would kill them in it."""
    deadline = time.monotonic() + LEAVE_WITHIN_S
    for trial_id in searcher.stopped:
        while time.monotonic() < deadline and _is_running(trial_id, reader):
            time.sleep(0.2)


def _is_running(trial_id: str, reader: RecordReader) -> bool:
    try:
        record = reader.trial(trial_id)
    except TrackingError:
        return True  # for all one knows
    return record is not None and record.status == "running"


def _n_pending() -> int:
    # For a custom searcher Tune keeps one trial pending unless told otherwise, and slots run dry.
    return max(8, 2 * int(ray.cluster_resources().get("CPU", 1)))


class _Stopper(tune.Stopper):
    """Ends the run when a stop was asked for: trials in flight commit a state and leave."""

    def __init__(self, request: StopRequest, note: Callable[[list[str]], None]) -> None:
        self._request, self._note, self._is_told = request, note, False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that never comes

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._request.is_made and not self._is_told:
            self._is_told = True
            self._note(["stopping: trials in flight commit their states; once more leaves at once"])
        return self._request.is_made
