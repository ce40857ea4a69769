"""The trial as Ray Tune sees it: a class that outlives the trial, so that a worker starts once."""

import os
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune

from trainables.errors import StaleAttemptError
from trainables.progress import Progress
from trainables.record import Store, open_store
from trainables.spec import RunOptions, TrialSpec
from trainables.trial import run_trial


class TransfusionTrainable(tune.Trainable):
    """Runs the trial of its config: plain data with `spec`, `options`, `tracking_uri` and `study`.

    A failed trial is a result like any other (its cause is in MLflow); an exception here is a bug or a
    lost tracking store, and costs the worker.
    """

    _progress: Generator[Progress, None, None]

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial of this worker."""
        self._node_id = ray.get_runtime_context().get_node_id()
        self._store: Store = open_store(config["tracking_uri"], experiment=config["experiment"])
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same process, after the last one has left if it was ended early."""
        with suppress(StaleAttemptError):  # another process may have begun to train that one
            self._progress.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until there is something to report."""
        progress = next(self._progress)
        return {**asdict(progress), "done": progress.status != "running", "node_id": self._node_id}

    def cleanup(self) -> None:
        """Stop: a running trial commits its state and is marked killed."""
        self._progress.close()

    def _begin(self, config: dict[str, Any]) -> None:
        root = os.environ.get("TRANSFUSION_DATA")
        self._progress = run_trial(
            TrialSpec.model_validate_json(config["spec"]),
            store=self._store,
            options=RunOptions.model_validate_json(config["options"]),
            data_root=Path(root) if root else None,
            study=config["study"],
            marks=config["marks"],
        )
