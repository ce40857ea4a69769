"""Writes a trial's record: one writer at a time, every point once, checkpoints whole or absent.

MLflow has no transactions. What makes the record true after a crash at any moment is the order of writes:
a trial is claimed before anything of it is read, files are uploaded under names of their own before a tag
points to them, one `log_batch` moves metrics and pointers together, and what a pointer has left is deleted
last. The fence between two attempts is a check before each write; a write that is already under way when
another process claims the trial can still arrive.
"""

import json
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from torch import Tensor

from trainables.checkpoints import Contents, read_checkpoint, write_checkpoint
from trainables.errors import CheckpointError, DataError, StaleAttemptError
from trainables.identity import cell_id, flatten, trial_id
from trainables.record import names
from trainables.record.environment import Environment
from trainables.record.pointers import CheckpointRef, checkpoint_refs, state_ref
from trainables.record.runs import canonical
from trainables.record.store import Artifacts, Store, persistently
from trainables.spec import TrialSpec

FLUSH_EVERY_S = 5.0


@dataclass
class TrialWriter:
    """Writes the run of one trial. Made by `TrialWriter.open`.

    Attributes:
        is_finished: the trial is already done; nothing may be written.
        checkpoints: those the run points to, by name.
        state: the resumable state the run points to.
        notices: what went wrong without stopping the trial, for people.
    """

    store: Store
    run_id: str
    artifacts: Artifacts
    attempt: str
    is_finished: bool
    checkpoints: dict[str, CheckpointRef]
    state: CheckpointRef | None = None
    notices: list[str] = field(default_factory=list)
    _dataset_digest: str | None = None
    _uploaded: dict[int, CheckpointRef] = field(default_factory=dict)
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
        identity = trial_id(spec)
        study_tags = {names.STUDY_PREFIX + study: "yes"} if study else {}
        tags = _identity_tags(spec)
        run = store.find_or_create(names.TRIAL_ID, identity, tags={**tags, **study_tags})
        if run.info.status == "FINISHED":
            return cls._of_finished(store, run, study_tags)
        if names.SPEC not in tags and names.SPEC_FILE not in store.artifacts(run).paths():
            store.artifacts(run).write_text(names.SPEC_FILE, spec.model_dump_json(indent=2))
        number = int(run.data.tags.get(names.ATTEMPT, "0-").split("-")[0]) + 1
        attempt = f"{number}-{uuid.uuid4().hex[:8]}"
        _log(
            store,
            run.info.run_id,
            params=_params(spec) if not run.data.params else {},
            tags={**tags, **study_tags, **environment.tags, names.ATTEMPT: attempt, names.CAUSE: ""},
        )
        # Read again after the claim: what an older attempt has written until now, and whether another
        # process has created a run of this trial at the same moment.
        found = canonical(store.search(names.TRIAL_ID, identity))
        if found.info.run_id != run.info.run_id:
            store.client.delete_run(run.info.run_id)
            return cls.open(store, spec, study=study, environment=environment)
        if found.info.status == "FINISHED":
            return cls._of_finished(store, found, study_tags)
        writer = cls._of_claimed(store, found, attempt)
        writer.artifacts.write_text(names.ENVIRONMENT_FILE, json.dumps(environment.details, indent=2))
        return writer

    @classmethod
    def _of_finished(cls, store: Store, run: Run, study_tags: dict[str, str]) -> "TrialWriter":
        if missing := {key: value for key, value in study_tags.items() if key not in run.data.tags}:
            _log(store, run.info.run_id, tags=missing)
        refs = checkpoint_refs(run.data.tags)
        attempt = run.data.tags.get(names.ATTEMPT, "")
        return cls(store, run.info.run_id, store.artifacts(run), attempt, True, refs)

    @classmethod
    def _of_claimed(cls, store: Store, run: Run, attempt: str) -> "TrialWriter":
        run_id, tags = run.info.run_id, run.data.tags
        if run.info.status != "RUNNING":
            persistently(f"marking run {run_id} running", lambda: store.client.update_run(run_id, "RUNNING"))
        writer = cls(store, run_id, store.artifacts(run), attempt, False, checkpoint_refs(tags))
        writer.state = state_ref(tags)
        writer._dataset_digest = tags.get(names.DATASET_DIGEST)
        writer._known_points = writer._read_points(run.data.metrics)
        if run.data.metrics or writer.state or writer.checkpoints:
            writer._discard_uncommitted()
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
            persistently("logging a dataset", lambda: self.store.client.log_inputs(self.run_id, [entry]))
        self._tags[names.DATASET_DIGEST] = self._dataset_digest = digest

    def log_metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Buffer metrics; a point of a name and step that the run already holds is not logged again."""
        now = int(time.time() * 1000)
        for name, value in values.items():
            if (name, step) not in self._known_points:
                self._known_points.add((name, step))
                self._metrics.append(Metric(name, float(value), now, step))
        if time.monotonic() - self._last_flush > FLUSH_EVERY_S:
            self.flush()

    def flush(self, tags: Mapping[str, str] | None = None) -> None:
        """Send what is buffered, and tags with it; with nothing to send, do nothing.

        Raises:
            StaleAttemptError: another process has taken the trial over; nothing was sent.
            TrackingError: MLflow cannot be used now; the metrics stay in the buffer.
        """
        if self._metrics or self._tags or tags:
            self._check_attempt()
            _log(self.store, self.run_id, metrics=self._metrics, tags={**self._tags, **(tags or {})})
            self._metrics, self._tags = [], {}
        self._last_flush = time.monotonic()

    def commit_checkpoints(
        self, weights: Mapping[str, Mapping[str, Tensor]], steps: Mapping[str, int]
    ) -> None:
        """Upload weights under new names, then point the run at all of them in one write.

        Weights of one step are uploaded once: the best are often the final ones.

        Args:
            weights: by the name of the checkpoint.
            steps: optimizer steps taken, by the same names.
        """
        for name, tensors in weights.items():
            step = steps[name]
            if step not in self._uploaded:
                contents = Contents(dict(tensors), {"step": step})
                self._uploaded[step] = self._upload("weights", contents, folder=names.CHECKPOINTS)
        refs = {name: replace(self._uploaded[steps[name]], name=name) for name in weights}
        self.flush({names.CHECKPOINT_PREFIX + name: _pointer(ref) for name, ref in refs.items()})
        replaced = {self.checkpoints[name].path for name in refs if name in self.checkpoints}
        self.checkpoints |= refs
        self._discard(sorted(replaced - {ref.path for ref in self.checkpoints.values()}))

    def commit_state(self, state: Contents) -> None:
        """Upload a resumable state, point the run at it, then delete the one it replaces."""
        ref = self._upload("state", state, folder=names.STATES)
        self.flush({names.STATE: _pointer(ref)})
        replaced, self.state = self.state, ref
        if replaced is not None:
            self._discard([replaced.path])

    def load_state(self) -> Contents | None:
        """Return the newest committed state, or None to begin anew.

        A damaged state costs the work it stood for, not the trial: it is noted and the trial begins anew.

        Raises:
            TrackingError: the state cannot be read now, though it may be whole.
        """
        if self.state is None:
            return None
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = self.artifacts.download(self.state.path, folder)
                return read_checkpoint(file, sha256=self.state.sha256)
        except CheckpointError as error:
            self.notices.append(f"the resumable state is damaged, beginning anew: {error}")
            self.state = None
            return None

    def log_predictions(self, split: str, table: pd.DataFrame) -> None:
        """Log one row per sample: sample_id, group, label(s), scores."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{split}.parquet"
            table.to_parquet(file, index=False)
            self.artifacts.upload(file, folder=names.PREDICTIONS)

    def finish(self) -> None:
        """Flush and mark the trial finished; its resumable state goes."""
        self.flush()
        self._end("FINISHED")
        # Nothing from here on may fail the trial.
        if self.state is not None:
            self._discard([self.state.path])

    def fail(self, cause: str, *, details: str | None = None) -> None:
        """Flush and mark the trial failed with its cause; `details` (a traceback) become an artifact."""
        if details is not None:
            self.artifacts.write_text(names.TRACEBACK_FILE, details)
        self.flush({names.CAUSE: cause[: names.MAX_TAG_CHARACTERS]})
        self._end("FAILED")

    def interrupt(self) -> None:
        """Flush and mark the trial killed: it goes on when it is run again."""
        self.flush()
        self._end("KILLED")

    def _end(self, status: str) -> None:
        self._check_attempt()
        end = partial(self.store.client.set_terminated, self.run_id, status)
        persistently(f"marking run {self.run_id} {status.lower()}", end)

    def _check_attempt(self) -> None:
        run = persistently(f"reading run {self.run_id}", lambda: self.store.client.get_run(self.run_id))
        present = run.data.tags.get(names.ATTEMPT)
        if present != self.attempt:
            raise StaleAttemptError(
                f"run {self.run_id}: attempt {present} has taken over from attempt {self.attempt}"
            )

    def _read_points(self, metrics: Mapping[str, float]) -> set[tuple[str, int]]:
        def history(name: str) -> list[Metric]:
            read = partial(self.store.client.get_metric_history, self.run_id, name)
            return list(persistently(f"reading {name} of run {self.run_id}", read))

        return {(metric.key, metric.step) for name in metrics for metric in history(name)}

    def _upload(self, name: str, contents: Contents, *, folder: str) -> CheckpointRef:
        step = int(contents.facts["step"])
        with tempfile.TemporaryDirectory() as local:
            # A name of its own, so that no upload ever touches a committed file.
            file = Path(local) / f"{name}-{step:07d}-{uuid.uuid4().hex[:12]}.safetensors"
            sha256 = write_checkpoint(file, contents.tensors, facts=contents.facts)
            path = self.artifacts.upload(file, folder=folder)
            return CheckpointRef(name, path, sha256, step, file.stat().st_size)

    def _discard_uncommitted(self) -> None:
        """Delete what earlier attempts uploaded and never pointed to."""
        pointed = {ref.path for ref in (*self.checkpoints.values(), self.state) if ref is not None}
        present = [*self.artifacts.paths(names.CHECKPOINTS), *self.artifacts.paths(names.STATES)]
        self._discard([path for path in present if path not in pointed])

    def _discard(self, paths: list[str]) -> None:
        """Delete files nothing points to any more; a failure costs disk, not the trial."""
        for path in paths:
            try:
                self.artifacts.delete(path)
            except (MlflowException, OSError) as error:
                self.notices.append(f"{path} could not be deleted: {error}")


def _log(
    store: Store,
    run_id: str,
    *,
    metrics: list[Metric] | None = None,
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    # Sorted keys keep concurrent writers of a database from locking rows in different orders.
    batch = {
        "metrics": sorted(metrics or [], key=lambda metric: (metric.key, metric.step)),
        "params": [Param(key, str(value)) for key, value in sorted((params or {}).items())],
        "tags": [RunTag(key, value) for key, value in sorted((tags or {}).items())],
    }
    persistently(f"writing to run {run_id}", lambda: store.client.log_batch(run_id, **batch))


def _identity_tags(spec: TrialSpec) -> dict[str, str]:
    text = json.dumps(spec.model_dump(mode="json"))
    identity = cell_id(spec)
    return {
        names.KIND: names.TRIAL_KIND,
        names.CELL: f"{spec.cell_label} · {identity[:6]}",
        names.CELL_ID: identity,
        names.RUN_NAME: spec.label,
        # A chain of many pretrainings may not fit a tag; then an artifact holds it.
        **({names.SPEC: text} if len(text) <= names.MAX_TAG_CHARACTERS else {}),
    }


def _params(spec: TrialSpec) -> dict[str, object]:
    """Every axis a person filters by, then every field of the spec."""
    axes = {
        "architecture": spec.architecture.label,
        "init": spec.init.kind,
        "transfusion_depth": spec.transfused_stages,
        "dataset": spec.dataset.label,
        "source": spec.init.source.label if spec.init.source else "none",
    }
    return {**axes, **flatten(spec)}


def _pointer(ref: CheckpointRef) -> str:
    return json.dumps(asdict(ref))
