"""The reading side: what MLflow holds of a study's trials, as plain data."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from mlflow.entities import Run
from torch import Tensor

from trainables.checkpoints import read_checkpoint
from trainables.errors import CheckpointError, SpecError, TrackingError
from trainables.record import names
from trainables.record.store import Store, canonical, open_store
from trainables.spec import SPEC_VERSION, DatasetSpec, TrialSpec, parse_trial


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
        dataset_digest: of the images and labels it was trained on.
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
    dataset_digest: str | None
    studies: frozenset[str]
    seconds: float

    @property
    def resumes_at_step(self) -> int:
        """The optimizer step at which the trial would go on."""
        return self.state.step if self.state else 0


class _OtherVersionError(TrackingError):
    """A run whose spec is of another version: nothing is wrong with it, but it is not ours to read."""


class RecordReader:
    """Reads trials from a store."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or open_store()
        self.notices: list[str] = []

    def trials(self, study: str | None = None) -> list[TrialRecord]:
        """Return the trials of a study, or of all studies, oldest first.

        A run whose spec cannot be read is left out and noted in `notices`, so that one damaged run does
        not hide the others; running its trial mends it.
        """
        of_study = [(names.STUDY_PREFIX + study, "yes")] if study is not None else []
        by_trial: dict[str, list[Run]] = {}
        for run in self.store.search(names.KIND, names.TRIAL_KIND, *of_study):
            by_trial.setdefault(run.data.tags.get(names.TRIAL_ID, run.info.run_id), []).append(run)
        records, n_other_versions = [], 0
        for runs in by_trial.values():
            try:
                records.append(self._record(canonical(runs)))
            except _OtherVersionError:
                n_other_versions += 1
            except (TrackingError, CheckpointError) as error:
                self.notices.append(str(error))
        if n_other_versions:
            self.notices.append(
                f"{n_other_versions} runs were written by another version of this program, which described "
                f"trials differently (this is version {SPEC_VERSION} of the description); they are left out"
            )
        return records

    def trial(self, trial_id: str) -> TrialRecord | None:
        """Return one trial by its id, or None."""
        found = self.store.search(names.TRIAL_ID, trial_id)
        return self._record(canonical(found)) if found else None

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
            state=state_ref(tags) if info.status != "FINISHED" else None,
            dataset_digest=tags.get(names.DATASET_DIGEST),
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
            content = json.loads(text)
            if isinstance(content, dict) and content.get("spec_version", SPEC_VERSION) != SPEC_VERSION:
                raise _OtherVersionError(
                    f"run {run.info.run_id}: its spec has version {content['spec_version']}, this program "
                    f"has {SPEC_VERSION}; use the program that wrote it, or delete the run"
                )
            return parse_trial(content)
        except (SpecError, ValueError) as error:
            mistakes = "; ".join(str(error).splitlines())
            raise TrackingError(
                f"run {run.info.run_id}: its tag {names.SPEC!r} is not the spec of a trial ({mistakes}): "
                "it was edited by hand or written by another version; restore the tag, or delete the run"
            ) from None


def changed_datasets(records: Iterable[TrialRecord]) -> list[str]:
    """Name the datasets whose images or labels differ between trials that should have seen the same."""
    digests: dict[DatasetSpec, dict[str, list[str]]] = {}
    for record in records:
        if record.dataset_digest is not None:
            of_dataset = digests.setdefault(record.spec.dataset, {})
            of_dataset.setdefault(record.dataset_digest, []).append(record.spec.label)
    return [
        f"{dataset.label}: the images or labels changed between trials, so they are not comparable: "
        + "; ".join(
            f"{len(labels)} trial(s) such as {labels[0]} saw digest {digest[:12]}…"
            for digest, labels in found.items()
        )
        for dataset, found in digests.items()
        if len(found) > 1
    ]


def checkpoint_refs(tags: Mapping[str, str]) -> dict[str, CheckpointRef]:
    """Return the committed checkpoints that a run's tags point to, by name; an unreadable tag is none."""
    pointers = [
        parse_pointer(value) for tag, value in tags.items() if tag.startswith(names.CHECKPOINT_PREFIX)
    ]
    refs = [ref for ref in pointers if ref is not None]
    return {ref.name: ref for ref in sorted(refs, key=lambda ref: ref.step)}


def state_ref(tags: Mapping[str, str]) -> CheckpointRef | None:
    """Return the committed resumable state that a run's tags point to."""
    return parse_pointer(tags.get(names.STATE, ""))


def parse_pointer(text: str) -> CheckpointRef | None:
    """Read a pointer tag; None if somebody has edited it into something else."""
    try:
        content: dict[str, Any] = json.loads(text)
        ref = CheckpointRef(**content)
    except (ValueError, TypeError):
        return None
    return ref if isinstance(ref.step, int) and isinstance(ref.path, str) else None
