"""Writes a trial's record: one writer at a time, every point once, checkpoints whole or absent.

A trial is claimed before anything of it is read. From then on the writer only queues: files wait in a local
spool, everything is sent in order by its outbox (`trainables.record.outbox`), and only the end of a trial
waits for MLflow. The fence between two attempts is a check before each write; a write that is already under
way when another process claims the trial can still arrive.
"""

import time
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric

from trainables.checkpoints import Contents, write_checkpoint
from trainables.errors import CheckpointError, DataError
from trainables.record import names
from trainables.record.claim import Claim, claim
from trainables.record.environment import Environment
from trainables.record.fetch import fetch_checkpoint
from trainables.record.outbox import Outbox
from trainables.record.pointers import CheckpointRef, pointer, read_pointers
from trainables.record.sends import Send, Sender, SpooledFile
from trainables.record.spool import Spool
from trainables.record.store import Artifacts, Store, artifact_path, persistently
from trainables.record.trouble import without_secrets
from trainables.spec import FailureOptions, TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

FLUSH_EVERY_S = 5.0
# Who is told to leave waits so long for an MLflow that is away: a spot node has two minutes.
LEAVING_S = 60.0


@dataclass
class TrialWriter:
    """Writes the run of one trial. Made by `TrialWriter.open`.

    Every method may raise what has stopped the sending of earlier writes: StaleAttemptError when another
    process has taken the trial over, TrackingError when MLflow refused a write or has been away for too
    long, DiskFullError when a disk has been full for too long.

    Attributes:
        is_finished: the trial is already done; nothing may be written.
        end_metrics: of a trial that is done, the latest value of each.
        is_concluded: its final weights and its scores have arrived; all that is left is `finish`.
        checkpoints: those the run points to, or will when all has arrived, by name.
        state: the resumable state the run points to, or will.
        notices: what went wrong without stopping the trial, for people; other threads may read it.
    """

    store: Store
    run_id: str
    artifacts: Artifacts
    attempt: str
    is_finished: bool
    checkpoints: dict[str, CheckpointRef]
    is_concluded: bool = False
    end_metrics: Mapping[str, float] = field(default_factory=dict)
    state: CheckpointRef | None = None
    notices: list[str] = field(default_factory=list)
    _outbox: Outbox | None = None
    _sender: Sender | None = None
    _dataset_digest: str | None = None
    _uploaded: dict[int, CheckpointRef] = field(default_factory=dict)
    _metrics: list[Metric] = field(default_factory=list)
    _tags: dict[str, str] = field(default_factory=dict)
    _known_points: set[tuple[str, int]] = field(default_factory=set)
    _last_flush: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls,
        store: Store,
        spec: TrialSpec,
        *,
        study: str | None,
        environment: Environment,
        failures: FailureOptions | None = None,
        marks: Mapping[str, str] | None = None,
    ) -> "TrialWriter":
        """Find the run of a resolved spec or create it, and take it over.

        A finished run is only tagged with the study; any other gets a new attempt, after which the
        writer of an older attempt stops at its next write.

        Args:
            failures: for how long to wait for MLflow and for disks.
            marks: further tags that say what the trial is to its study.
        """
        claimed = claim(store, spec, study=study, environment=environment, marks=marks)
        run = claimed.run
        pointers = read_pointers(run.data.tags)
        writer = cls(
            store,
            run.info.run_id,
            store.artifacts(run),
            claimed.attempt,
            claimed.is_finished,
            pointers.checkpoints,
        )
        if claimed.is_finished:
            writer.end_metrics = dict(run.data.metrics)
        else:
            writer.state = pointers.state
            # The write that points to the best and the final weights is the last but the marks of the end.
            has_both = {names.BEST, names.FINAL} <= pointers.checkpoints.keys()
            writer.is_concluded = has_both and not pointers.problems
            writer.notices += [f"{problem}; it counts as absent" for problem in pointers.problems]
            writer._begin(claimed, failures or FailureOptions())
        return writer

    def _begin(self, claimed: Claim, failures: FailureOptions) -> None:
        run = claimed.run
        self._dataset_digest = run.data.tags.get(names.DATASET_DIGEST)
        self._known_points = self._read_points(run.data.metrics)
        spool = Spool(self.notices, wait_s=60 * failures.wait_for_disk_min)
        self._sender = Sender(self.store, self.run_id, self.artifacts, self.attempt, spool, self.notices)
        self._outbox = Outbox(self._sender, failures=failures)
        # The thread of the outbox does not know this writer, so one that is dropped ends it.
        weakref.finalize(self, self._outbox.close)
        if not claimed.is_first:
            self._discard_uncommitted()

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
        self._put(Send(inputs=[entry]))
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

    def flush(self) -> None:
        """Queue what is buffered; with nothing to send, only look whether the sending goes on."""
        if self._metrics or self._tags:
            self._put(Send())
        else:
            self._open_outbox().check()
        self._last_flush = time.monotonic()

    def begin_again(self) -> None:
        """Let the weights of steps that are taken again, otherwise than before, be uploaded again."""
        self._uploaded.clear()

    def drain(self, *, within_s: float | None = None) -> bool:
        """Flush, and wait until all has arrived, or so many seconds; say whether it has."""
        self.flush()
        return self._open_outbox().drain(within_s=within_s)

    def has_room(self, contents: Contents) -> bool:
        """Say whether this machine's disk has room for a checkpoint; a notice tells when it has not.

        Raises:
            DiskFullError: there has been none for as long as one waits.
        """
        return self._open_outbox().spool.has_room("a checkpoint", n_bytes=_n_bytes(contents))

    def log_tag(self, name: str, value: str) -> None:
        """Buffer a tag."""
        self._tags[name] = value

    def commit_checkpoints(
        self, weights: "Mapping[str, Mapping[str, Tensor]]", steps: Mapping[str, int]
    ) -> None:
        """Upload weights under new names, then point the run at all of them in one write.

        Weights of one step are uploaded once: the best are often the final ones.

        Args:
            weights: by the name of the checkpoint.
            steps: optimizer steps taken, by the same names.
        """
        send = Send()
        for name, tensors in weights.items():
            step = steps[name]
            if step not in self._uploaded:
                contents = Contents(dict(tensors), {"step": step})
                self._uploaded[step], file = self._spool("weights", contents, folder=names.CHECKPOINTS)
                send.files.append(file)
        refs = {name: replace(self._uploaded[steps[name]], name=name) for name in weights}
        send.tags = {names.CHECKPOINT_PREFIX + name: pointer(ref) for name, ref in refs.items()}
        replaced = {self.checkpoints[name].path for name in refs if name in self.checkpoints}
        self.checkpoints |= refs
        send.obsolete = sorted(replaced - {ref.path for ref in self.checkpoints.values()})
        self._put(send)

    def commit_state(self, state: Contents) -> None:
        """Upload a resumable state, point the run at it, then delete the one it replaces."""
        ref, file = self._spool("state", state, folder=names.STATES)
        replaced, self.state = self.state, ref
        obsolete = [replaced.path] if replaced is not None else []
        self._put(Send(files=[file], tags={names.STATE: pointer(ref)}, obsolete=obsolete, state=file))

    def load_state(self) -> Contents | None:
        """Return the newest committed state, or None to begin anew; asked before anything is written.

        A damaged state costs the work it stood for, not the trial: it is noted and the trial begins anew.

        Raises:
            TrackingError: the state cannot be read now, though it may be whole.
        """
        if self.state is None:
            return None
        try:
            return fetch_checkpoint(self.state, partial(self.artifacts.downloaded, self.state.path))
        except CheckpointError as error:
            self.give_up_state(f"the resumable state is damaged, beginning anew: {error}")
            return None

    def give_up_state(self, why: str) -> None:
        """Drop the state from which the trial cannot go on, and note why."""
        assert self.state is not None, "there is one to give up"
        self.notices.append(why)
        useless, self.state = self.state, None
        self._put(Send(tags={names.STATE: ""}, obsolete=[useless.path]))

    def log_predictions(self, split: str, table: pd.DataFrame) -> None:
        """Log one row per sample: sample_id, group, label(s), scores."""
        n_bytes = int(table.memory_usage(deep=True).sum())
        write = partial(table.to_parquet, index=False)
        file, _ = self._open_outbox().spool.write(f"{split}.parquet", write, n_bytes=n_bytes)
        self._put(Send(files=[_spooled(file, names.PREDICTIONS)]))

    def hurry(self) -> None:
        """Wait no longer than LEAVING_S for MLflow or a disk from now on: this process has to leave."""
        self._open_outbox().hurry(LEAVING_S)

    def finish(self) -> None:
        """Let the resumable state go, and mark the trial finished when all else has arrived."""
        if self.state is not None:
            self._put(Send(tags={names.STATE: ""}, obsolete=[self.state.path]))
        self._end("FINISHED")

    def fail(self, cause: str, *, details: str | None = None) -> None:
        """Mark the trial failed with its cause; `details` (a traceback) become an artifact."""
        outbox = self._open_outbox()
        outbox.check()
        if details is not None:
            text = without_secrets(details)
            write = partial(Path.write_text, data=text)
            file, _ = outbox.spool.write(names.TRACEBACK_FILE, write, n_bytes=len(text))
            self._put(Send(files=[_spooled(file, None)]))
        self._tags[names.CAUSE] = without_secrets(cause)[: names.MAX_TAG_CHARACTERS]
        self._end("FAILED")

    def interrupt(self) -> None:
        """Mark the trial killed: it goes on when it is run again. Does not wait long for MLflow."""
        self.hurry()
        self._end("KILLED")

    def close(self) -> None:
        """Send nothing more and leave no local files; what was not sent is lost. Ended writers are closed."""
        if self._outbox is not None:
            self._outbox.close()

    def _end(self, status: str) -> None:
        assert self._sender is not None, "a finished trial is not written"
        try:
            self._put(Send(status=status))
            self._open_outbox().drain()
            self._sender.report_undeleted()
        finally:
            self.close()

    def _put(self, send: Send) -> None:
        """Queue a step, and with it what is buffered."""
        send = replace(send, metrics=self._metrics, tags={**self._tags, **send.tags})
        self._open_outbox().put(send)
        self._metrics, self._tags = [], {}
        self._last_flush = time.monotonic()

    def _open_outbox(self) -> Outbox:
        assert self._outbox is not None, "a finished trial is not written"
        return self._outbox

    def _read_points(self, metrics: Mapping[str, float]) -> set[tuple[str, int]]:
        def history(name: str) -> list[Metric]:
            read = partial(self.store.client.get_metric_history, self.run_id, name)
            return list(persistently(f"reading {name} of run {self.run_id}", read))

        return {(metric.key, metric.step) for name in metrics for metric in history(name)}

    def _spool(self, name: str, contents: Contents, *, folder: str) -> tuple[CheckpointRef, SpooledFile]:
        step = int(contents.facts["step"])
        outbox = self._open_outbox()
        outbox.check()
        write = partial(write_checkpoint, tensors=contents.tensors, facts=contents.facts)
        # A name of its own, so that no upload ever touches a committed file.
        unique = f"{name}-{step:07d}-{uuid.uuid4().hex[:12]}.safetensors"
        file, sha256 = outbox.spool.write(unique, write, n_bytes=_n_bytes(contents))
        spooled = _spooled(file, folder)
        return CheckpointRef(name, spooled.path, sha256, step, file.stat().st_size), spooled

    def _discard_uncommitted(self) -> None:
        """Delete what earlier attempts uploaded and never pointed to."""
        pointed = {ref.path for ref in (*self.checkpoints.values(), self.state) if ref is not None}
        present = [*self.artifacts.paths(names.CHECKPOINTS), *self.artifacts.paths(names.STATES)]
        if orphans := [path for path in present if path not in pointed]:
            self._put(Send(obsolete=orphans))


def _n_bytes(contents: Contents) -> int:
    return sum(tensor.nbytes for tensor in contents.tensors.values())


def _spooled(file: Path, folder: str | None) -> SpooledFile:
    return SpooledFile(file, folder, artifact_path(file, folder))
