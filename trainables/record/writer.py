"""Writes a trial's record: one writer at a time, every point once, checkpoints whole or absent."""

import json
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from torch import Tensor

from trainables.checkpoints import Contents, read_checkpoint, write_checkpoint
from trainables.errors import CheckpointError, DataError, StaleAttemptError
from trainables.record import names
from trainables.record.environment import Environment
from trainables.record.reader import CheckpointRef, checkpoint_refs, state_ref
from trainables.record.store import Artifacts, Store
from trainables.spec import TrialSpec, cell_id, flatten, trial_id

FLUSH_EVERY_S = 5.0


@dataclass
class TrialWriter:
    """Writes the run of one trial. Made by `TrialWriter.open`.

    Attributes:
        is_finished: the trial is already done; nothing may be written.
        checkpoints: those committed so far, by name.
        notices: what went wrong without stopping the trial, for people.
    """

    store: Store
    run_id: str
    artifacts: Artifacts
    attempt: str
    is_finished: bool
    checkpoints: dict[str, CheckpointRef]
    notices: list[str] = field(default_factory=list)
    _state: CheckpointRef | None = None
    _dataset_digest: str | None = None
    _replaced: list[str] = field(default_factory=list)
    _metrics: list[Metric] = field(default_factory=list)
    _tags: dict[str, str] = field(default_factory=dict)
    _known_points: set[tuple[str, int]] = field(default_factory=set)
    _last_flush: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls, store: Store, spec: TrialSpec, *, study: str | None, environment: Environment
    ) -> "TrialWriter":
        """Find the run of a resolved spec or create it, and take it over.

        A finished run is only tagged with the study; any other gets a new attempt, after which the
        writer of an older attempt stops at its next write.
        """
        study_tag = {names.STUDY_PREFIX + study: "yes"} if study else {}
        identity = trial_id(spec)
        run = store.find_or_create(names.TRIAL_ID, identity, tags={**_identity_tags(spec), **study_tag})
        run_id, tags = run.info.run_id, run.data.tags
        artifacts = store.artifacts(run)
        is_finished = run.info.status == "FINISHED"
        is_new = names.ATTEMPT not in tags
        if is_finished:
            if missing := {k: v for k, v in study_tag.items() if k not in tags}:
                store.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in missing.items()])
            return cls(store, run_id, artifacts, tags.get(names.ATTEMPT, ""), True, checkpoint_refs(tags))
        number = int(tags.get(names.ATTEMPT, "0-").split("-")[0]) + 1
        attempt = f"{number}-{uuid.uuid4().hex[:8]}"
        writer = cls(store, run_id, artifacts, attempt, False, checkpoint_refs(tags))
        writer._state = state_ref(tags)
        writer._dataset_digest = tags.get(names.DATASET_DIGEST)
        fresh_tags = {names.ATTEMPT: attempt, names.CAUSE: "", **study_tag, **environment.tags}
        params = [Param(k, str(v)) for k, v in _params(spec).items()] if is_new else []
        store.client.log_batch(run_id, params=params, tags=[RunTag(k, v) for k, v in fresh_tags.items()])
        if run.info.status != "RUNNING":
            store.client.update_run(run_id, status="RUNNING")
        if is_new:
            artifacts.write_text(names.SPEC_FILE, spec.model_dump_json(indent=2))
        else:
            writer._known_points = writer._read_points(run.data.metrics)
        artifacts.write_text(names.ENVIRONMENT_FILE, json.dumps(environment.details, indent=2))
        return writer

    def log_dataset(self, *, name: str, digest: str) -> None:
        """Log the digest of the images and labels as an MLflow dataset input, once.

        Raises:
            DataError: an earlier attempt at this trial trained on other data.
        """
        if self._dataset_digest == digest:
            return
        if self._dataset_digest is not None:
            raise DataError(
                f"{name}: the images or labels changed since this trial began (digest {digest[:12]}…, "
                f"was {self._dataset_digest[:12]}…); restore them, or delete run {self.run_id} in MLflow"
            )
        dataset = MetaDataset(CodeDatasetSource(tags={}), name=name, digest=digest[:36])
        entry = DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])
        try:
            self.store.client.log_inputs(self.run_id, [entry])
        except MlflowException:
            # MLflow looks for the dataset, then inserts it: of two processes that are the first to name
            # it at the same moment, one violates its uniqueness. Now it is there to be found.
            self.store.client.log_inputs(self.run_id, [entry])
        self._tags[names.DATASET_DIGEST] = digest

    def log_metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Buffer metrics; a point of a name and step that the run already holds is not logged again."""
        now = int(time.time() * 1000)
        for name, value in values.items():
            if (name, step) not in self._known_points:
                self._known_points.add((name, step))
                self._metrics.append(Metric(name, float(value), now, step))
        if time.monotonic() - self._last_flush > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Send what is buffered.

        Raises:
            StaleAttemptError: another process has taken the trial over; nothing was sent.
        """
        self._check_attempt()
        if self._metrics or self._tags:
            # Sorted keys keep concurrent writers of a database from locking rows in different orders.
            self.store.client.log_batch(
                self.run_id,
                metrics=sorted(self._metrics, key=lambda metric: (metric.key, metric.step)),
                tags=[RunTag(k, v) for k, v in sorted(self._tags.items())],
            )
            self._metrics, self._tags = [], {}
        while self._replaced:
            self.artifacts.delete(self._replaced.pop())
        self._last_flush = time.monotonic()

    def commit_checkpoint(self, name: str, tensors: Mapping[str, Tensor], *, step: int) -> None:
        """Upload weights under a new name, then point the run at them (at the next flush)."""
        ref = self._upload(name, Contents(dict(tensors), {"step": step}), folder=names.CHECKPOINTS)
        self._replace(self.checkpoints.get(name), ref)
        self.checkpoints[name] = ref
        self._tags[names.CHECKPOINT_PREFIX + name] = _pointer(ref)

    def commit_state(self, state: Contents) -> None:
        """Upload a resumable state, point the run at it, then delete the one it replaces."""
        ref = self._upload("state", state, folder=names.STATES)
        self._replace(self._state, ref)
        self._state = ref
        self._tags[names.STATE] = _pointer(ref)
        self.flush()

    def load_state(self) -> Contents | None:
        """Return the newest committed state, or None to begin anew.

        A damaged state costs the work it stood for, not the trial: it is noted and the trial begins anew.
        """
        if self._state is None:
            return None
        try:
            with self.store.artifact(self.run_id, self._state.path) as file:
                return read_checkpoint(file, sha256=self._state.sha256)
        except CheckpointError as error:
            self.notices.append(f"the resumable state is damaged, beginning anew: {error}")
            return None

    def log_predictions(self, split: str, table: pd.DataFrame) -> None:
        """Log one row per sample: sample_id, group, label(s), scores."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{split}.parquet"
            table.to_parquet(file, index=False)
            self.artifacts.upload(file, folder=names.PREDICTIONS)

    def finish(self) -> None:
        """Flush, drop the resumable state, and mark the trial finished."""
        self.flush()
        self.store.client.set_terminated(self.run_id, "FINISHED")
        if self._state is not None:
            self.store.client.delete_tag(self.run_id, names.STATE)
            self.artifacts.delete(self._state.path)

    def fail(self, cause: str, *, details: str | None = None) -> None:
        """Flush and mark the trial failed with its cause; `details` (a traceback) become an artifact."""
        if details is not None:
            self.artifacts.write_text(names.TRACEBACK_FILE, details)
        self._tags[names.CAUSE] = cause[: names.MAX_TAG_CHARACTERS]
        self.flush()
        self.store.client.set_terminated(self.run_id, "FAILED")

    def interrupt(self) -> None:
        """Flush and mark the trial killed: it goes on when it is run again."""
        self.flush()
        self.store.client.set_terminated(self.run_id, "KILLED")

    def _replace(self, previous: CheckpointRef | None, ref: CheckpointRef) -> None:
        # Deleted by `flush`, after the run points to the new file.
        if previous is not None and previous.path != ref.path:
            self._replaced.append(previous.path)

    def _check_attempt(self) -> None:
        present = self.store.client.get_run(self.run_id).data.tags.get(names.ATTEMPT)
        if present != self.attempt:
            raise StaleAttemptError(
                f"run {self.run_id}: attempt {present} has taken over from attempt {self.attempt}"
            )

    def _read_points(self, metrics: Mapping[str, float]) -> set[tuple[str, int]]:
        histories = (self.store.client.get_metric_history(self.run_id, name) for name in metrics)
        return {(metric.key, metric.step) for history in histories for metric in history}

    def _upload(self, name: str, contents: Contents, *, folder: str) -> CheckpointRef:
        step = int(contents.facts["step"])
        with tempfile.TemporaryDirectory() as local:
            # The attempt is part of the name, so that no upload ever touches a committed file.
            file = Path(local) / f"{name}-{step:07d}-{self.attempt}.safetensors"
            sha256 = write_checkpoint(file, contents.tensors, facts=contents.facts)
            path = self.artifacts.upload(file, folder=folder)
            return CheckpointRef(name, path, sha256, step, file.stat().st_size)


def _identity_tags(spec: TrialSpec) -> dict[str, str]:
    text = json.dumps(spec.model_dump(mode="json"))
    identity = cell_id(spec)
    return {
        names.KIND: names.TRIAL_KIND,
        names.CELL: f"{spec.cell_label} · {identity[:6]}",
        names.CELL_ID: identity,
        names.RUN_NAME: spec.label,
        # A chain of many pretrainings may not fit a tag; then the artifact alone holds it.
        **({names.SPEC: text} if len(text) <= names.MAX_TAG_CHARACTERS else {}),
    }


def _params(spec: TrialSpec) -> dict[str, object]:
    """Every axis a person filters by, then every field of the spec."""
    flat = flatten(spec)
    axes = {
        "architecture": spec.architecture.name,
        "init": spec.init.kind,
        "transfusion_depth": spec.transfused_stages,
        "dataset": spec.dataset.label,
        "source": spec.init.source.label if spec.init.source else "none",
    }
    return {**axes, **flat}


def _pointer(ref: CheckpointRef) -> str:
    return json.dumps(asdict(ref))
