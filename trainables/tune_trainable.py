"""Trials as Ray Tune sees them: a class that outlives them, so that a worker starts once."""

import os
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune

from trainables.progress import Progress
from trainables.record import Store, open_store
from trainables.spec import RunOptions, TrialSpec


class TransfusionTrainable(tune.Trainable):
    """Trains the trials of its config together: plain data, as `study.tuning.worker_config` makes it.

    A failed trial is a result like any other (its cause is in MLflow); an exception here is a bug or a
    lost tracking store, and costs the worker.
    """

    _reports: Generator[dict[str, Progress], None, None]

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trials of this worker."""
        self._node_id = ray.get_runtime_context().get_node_id()
        self._store: Store = open_store(config["tracking_uri"], experiment=config["experiment"])
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trials in the same process; the last ones leave first if they were ended early."""
        self._reports.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until there is something to report."""
        reported = next(self._reports)
        self._open -= {trial_id for trial_id, progress in reported.items() if progress.status != "running"}
        reports = [{"trial_id": trial_id, **asdict(progress)} for trial_id, progress in reported.items()]
        return {"reports": reports, "done": not self._open, "node_id": self._node_id}

    def cleanup(self) -> None:
        """Stop: running trials commit their states and are marked killed."""
        self._reports.close()

    def _begin(self, config: dict[str, Any]) -> None:
        # torch takes seconds to import, and the driver, which knows this class, needs none of it.
        from trainables.together import run_together
        from trainables.trial import trial_to_drive

        root = os.environ.get("TRANSFUSION_DATA")
        self._open = {one["trial_id"] for one in config["trials"]}
        self._reports = run_together(
            {
                one["trial_id"]: trial_to_drive(
                    TrialSpec.model_validate_json(one["spec"]),
                    store=self._store,
                    options=RunOptions.model_validate_json(one["options"]),
                    data_root=Path(root) if root else None,
                    study=config["study"],
                    marks=one["marks"],
                )
                for one in config["trials"]
            }
        )
