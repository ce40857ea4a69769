"""The reading side: what MLflow holds of a study's trials, as plain data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from mlflow.entities import Run
from torch import Tensor

from trainables.checkpoints import read_checkpoint
from trainables.errors import CheckpointError, SpecError, TrackingError
from trainables.record import names
from trainables.record.store import Store, open_store
from trainables.spec import TrialSpec, parse_trial


@dataclass(frozen=True)
class CheckpointRef:
    """Where weights lie, and how to know that they are whole.

    Attributes:
        name: `initial`, `best`, `final`, or `step-000100` of a series.
        path: the artifact path within the run.
        sha256: of the file, in hex.
        step: optimizer steps taken.
    """

    name: str
    path: str
    sha256: str
    step: int
    n_bytes: int


@dataclass(frozen=True)
class TrialRecord:
    """What MLflow holds of one trial.

    Attributes:
        status: finished, failed, killed or running (a run whose process died stays running until it is
            run again).
        cause: why it failed.
        metrics: the latest value of each.
        state: the resumable state, if any.
        studies: the names of the studies it is part of.
        seconds: from the first start to the last end; NaN while it runs.
    """

    run_id: str
    trial_id: str
    cell_id: str
    spec: TrialSpec
    status: str
    cause: str | None
    metrics: Mapping[str, float]
    checkpoints: Mapping[str, CheckpointRef]
    state: CheckpointRef | None
    studies: frozenset[str]
    seconds: float

    @property
    def resumes_at_step(self) -> int:
        """The optimizer step at which the trial would go on."""
        return self.state.step if self.state else 0


class RecordReader:
    """Reads trials from a store."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or open_store()

    def trials(self, study: str | None = None) -> list[TrialRecord]:
        """Return the trials of a study, or of all studies, oldest first."""
        query = f"tags.`{names.KIND}` = '{names.TRIAL_KIND}'"
        if study is not None:
            query += f" and tags.`{names.STUDY_PREFIX}{study}` = 'yes'"
        return [self._record(run) for run in self.store.search(query)]

    def trial(self, trial_id: str) -> TrialRecord | None:
        """Return one trial by its id, or None."""
        found = self.store.search(f"tags.`{names.TRIAL_ID}` = '{trial_id}'")
        return self._record(found[0]) if found else None

    def history(self, record: TrialRecord, metric: str) -> pd.DataFrame:
        """Return a metric over training: columns `step` and `value`, one row a step, ascending."""
        points = self.store.client.get_metric_history(record.run_id, metric)
        by_step = {point.step: point.value for point in points}
        steps = sorted(by_step)
        return pd.DataFrame({"step": steps, "value": [by_step[step] for step in steps]}).astype(
            {"step": int, "value": float}
        )

    def weights(self, record: TrialRecord, checkpoint: str) -> dict[str, Tensor]:
        """Return the weights of a checkpoint, its digest checked.

        Raises:
            CheckpointError: the trial has no such checkpoint, or it is missing, truncated or altered.
        """
        ref = record.checkpoints.get(checkpoint)
        if ref is None:
            known = ", ".join(record.checkpoints) or "none"
            raise CheckpointError(f"{record.spec.label}: no checkpoint {checkpoint!r}; it has {known}")
        try:
            with self.store.artifact(record.run_id, ref.path) as file:
                return read_checkpoint(file, sha256=ref.sha256).tensors
        except CheckpointError as error:
            raise CheckpointError(
                f"{record.spec.label}: checkpoint {checkpoint!r} cannot be used: {error}; "
                f"delete run {record.run_id} in MLflow and run the study again to train it anew"
            ) from None

    def predictions(self, record: TrialRecord, split: str = "test") -> pd.DataFrame:
        """Return one row per sample: sample_id, group, label(s) and scores.

        Raises:
            CheckpointError: the trial has no predictions of that split.
        """
        with self.store.artifact(record.run_id, f"{names.PREDICTIONS}/{split}.parquet") as file:
            return pd.read_parquet(file)

    def _record(self, run: Run) -> TrialRecord:
        tags, info = run.data.tags, run.info
        return TrialRecord(
            run_id=info.run_id,
            trial_id=tags[names.TRIAL_ID],
            cell_id=tags.get(names.CELL_ID, ""),
            spec=self._spec(run),
            status=names.STATUS_WORDS[info.status],
            cause=tags.get(names.CAUSE) or None,
            metrics=run.data.metrics,
            checkpoints=checkpoint_refs(tags),
            state=state_ref(tags),
            studies=frozenset(
                tag.removeprefix(names.STUDY_PREFIX) for tag in tags if tag.startswith(names.STUDY_PREFIX)
            ),
            seconds=(info.end_time - info.start_time) / 1000 if info.end_time else float("nan"),
        )

    def _spec(self, run: Run) -> TrialSpec:
        text = run.data.tags.get(names.SPEC)
        if text is None:
            with self.store.artifact(run.info.run_id, names.SPEC_FILE) as file:
                text = file.read_text()
        try:
            return parse_trial(json.loads(text))
        except (SpecError, ValueError) as error:
            mistakes = "; ".join(str(error).splitlines())
            raise TrackingError(
                f"run {run.info.run_id}: its tag {names.SPEC!r} is not the spec of a trial ({mistakes}): "
                "it was edited by hand or written by another version; restore the tag, or delete the run"
            ) from None


def checkpoint_refs(tags: Mapping[str, str]) -> dict[str, CheckpointRef]:
    """Return the committed checkpoints that a run's tags point to, by name."""
    prefix = names.CHECKPOINT_PREFIX
    refs = [_parse_ref(value) for tag, value in tags.items() if tag.startswith(prefix)]
    return {ref.name: ref for ref in sorted(refs, key=lambda ref: ref.step)}


def state_ref(tags: Mapping[str, str]) -> CheckpointRef | None:
    """Return the committed resumable state that a run's tags point to."""
    return _parse_ref(tags[names.STATE]) if names.STATE in tags else None


def _parse_ref(text: str) -> CheckpointRef:
    try:
        content: dict[str, Any] = json.loads(text)
        return CheckpointRef(**content)
    except (ValueError, TypeError) as error:
        raise TrackingError(f"a checkpoint tag is not readable ({error}): {text[:80]!r}") from None
