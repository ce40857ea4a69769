"""One run of Ray Tune over what a searcher hands out."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune import tune as tune_module
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController

from study.config import Study
from study.dispatch import Dispatcher
from study.extent import published_sizes, training_images
from study.local_ray import replaced
from study.plan import PlanEntry
from study.search.pruning import Rungs
from study.stopping import StopRequest
from trainables.record import Store
from trainables.spec import RunOptions
from trainables.tune_trainable import TransfusionTrainable

# As long as a trial itself waits for MLflow when it is told to leave (`trainables.record.writer`).
LEAVE_WITHIN_S = 60.0
# Of a training whose length only the data tell.
MOST_IMAGES = 10**12

# Tune would hand AWS's keys to its workers in a way that Ray writes to its logs. Workers of this machine
# inherit them, other nodes have their own.
class_cache.ENV_VARS_TO_PROPAGATE = frozenset(
    name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
)


def worker_config(
    entries: Sequence[PlanEntry],
    study: Study,
    store: Store,
    marks: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Return what a worker is told of the trials it trains together, plain data.

    Args:
        entries: at least one; all ask for the same resources.
        marks: by trial, tags that say what it is to its study.
    """
    resources = entries[0].trial.resources
    return {
        "trials": [
            {
                "trial_id": entry.trial_id,
                "spec": entry.trial.spec.model_dump_json(),
                "options": _options(entry, study).model_dump_json(),
                "marks": dict((marks or {}).get(entry.trial_id, {})),
            }
            for entry in entries
        ],
        "tracking_uri": store.display_uri,  # Ray writes it to its logs
        "experiment": store.experiment,
        "study": study.name,
        "cpu": resources.cpu,
        "gpu": resources.gpu,
    }


def _options(entry: PlanEntry, study: Study) -> RunOptions:
    resources = entry.trial.resources
    return study.options.model_copy(
        update={
            "threads": resources.threads,
            "processes": resources.processes,
            "gpu_share": resources.gpu_share,
            "is_compiled": resources.is_compiled,
            "is_deterministic": resources.is_deterministic,
            **_kept(entry, study),
            "rungs": _rungs(entry, study),
            # Ray does not hide the GPUs of a machine from a trial that asked for none.
            "device": "auto" if resources.gpu else "cpu",
        }
    )


def _kept(entry: PlanEntry, study: Study) -> dict[str, Any]:
    """Return which weights are kept: none of a setting of a search."""
    if entry.trial.setting is not None:
        return {"keep": (), "series_points": 0}
    # Another study may start from any trial of this one, so these two are always there.
    return {"keep": tuple(sorted({*study.options.keep, "best", "final"}))}


def _rungs(entry: PlanEntry, study: Study) -> tuple[int, ...]:
    """Return where a setting of a search is looked at, in images seen."""
    if study.search is None or entry.trial.setting is None:
        return ()
    rungs, spec = Rungs(study.search.pruning, rises=True), entry.trial.spec
    return tuple(rungs.up_to(training_images(spec, published_sizes(spec.dataset)) or MOST_IMAGES))


def fit(
    searcher: Dispatcher,
    *,
    slots: int | None,
    request: StopRequest,
    callbacks: Sequence[tune.Callback],
    note: Callable[[list[str]], None],
    ends_early: Callable[[str, dict[str, Any]], bool] = lambda tune_id, result: False,
) -> None:
    """Run Tune to the end, or until a stop is asked for.

    Args:
        ends_early: asked of every report, by Tune's id of the trial, whether to stop the trial there.
    """
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
                stop=_Stopper(request, note, ends_early),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=list(callbacks),
            ),
        )
        with replaced(tune_module, "TuneController", _PatientController):
            tuner.fit()


class _PatientController(TuneController):
    """Ends once all trials in flight have left, and gives them longer than Tune's ten seconds to commit.

    Tune has no public setting for it; a test sees to it that the private one still means that.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._actor_force_cleanup_timeout = int(LEAVE_WITHIN_S)


def _n_pending() -> int:
    # For a custom searcher Tune keeps one trial pending unless told otherwise, and slots run dry.
    return max(8, 2 * int(ray.cluster_resources().get("CPU", 1)))


class _Stopper(tune.Stopper):
    """Ends the run when a stop was asked for, or a trial that does not go on; both commit their states."""

    def __init__(
        self,
        request: StopRequest,
        note: Callable[[list[str]], None],
        ends_early: Callable[[str, dict[str, Any]], bool],
    ) -> None:
        self._request, self._note, self._is_told = request, note, False
        self._ends_early = ends_early

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that never comes

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._ends_early(trial_id, result)

    def stop_all(self) -> bool:
        if self._request.is_made and not self._is_told:
            self._is_told = True
            self._note(["stopping: trials in flight commit their states; once more leaves at once"])
        return self._request.is_made
