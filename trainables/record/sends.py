"""One step of a record, and how it reaches MLflow: every part in its place, and as often as it takes.

MLflow has no transactions. What makes the record true after a crash at any moment is the order: files are
uploaded under names of their own before a tag points to them, metrics come before the tag that says that
they are there, and what a pointer has left is deleted last. A part that may have arrived already is sent
again: a file and a tag replace themselves, and MLflow knows a point of the same name, step, time and value.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from mlflow.entities import DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from trainables.errors import StaleAttemptError
from trainables.record import names
from trainables.record.spool import Spool
from trainables.record.store import Artifacts, Store
from trainables.record.trouble import worded

# MLflow's limit is 1000 metrics, params and tags together; what is more it sends after the tags.
POINTS_A_BATCH = 900


@dataclass(frozen=True)
class SpooledFile:
    """A file that waits to be uploaded as `path`."""

    file: Path
    folder: str | None
    path: str


@dataclass
class Send:
    """One step of a record; its parts go in the order of these fields, and leave it when they have arrived.

    Attributes:
        obsolete: artifact paths, deleted when all else has arrived.
        state: the spooled file of a resumable state, which a newer one may replace.
        is_tried: a part may have arrived though nobody knows.
    """

    files: list[SpooledFile] = field(default_factory=list)
    inputs: list[DatasetInput] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    obsolete: list[str] = field(default_factory=list)
    state: SpooledFile | None = None
    is_tried: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it has metrics and tags alone, so that the next such one may join it."""
        return not (self.files or self.inputs or self.status or self.obsolete or self.state)

    def drop_state(self) -> list[str]:
        """Send the state no more; return the paths that its successor has to delete."""
        assert self.state is not None
        self.files = [file for file in self.files if file != self.state]
        self.tags.pop(names.STATE, None)
        doubtful = [self.state.path] if self.is_tried else []
        obsolete, self.obsolete, self.state = [*self.obsolete, *doubtful], [], None
        return obsolete


def log_batch(
    store: Store,
    run_id: str,
    *,
    metrics: list[Metric] | None = None,
    params: dict[str, object] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Send one batch, once; sorted keys keep concurrent writers from locking rows in different orders."""
    store.client.log_batch(
        run_id,
        metrics=sorted(metrics or [], key=lambda metric: (metric.key, metric.step)),
        params=[Param(key, str(value)) for key, value in sorted((params or {}).items())],
        tags=[RunTag(key, value) for key, value in sorted((tags or {}).items())],
    )


def now_tag() -> dict[str, str]:
    """Return the tag that tells that a trial lives."""
    return {names.ALIVE: str(int(time.time()))}


@dataclass
class Sender:
    """Sends the steps of one attempt at a run."""

    store: Store
    run_id: str
    artifacts: Artifacts
    attempt: str
    spool: Spool
    notices: list[str]
    last_sign_of_life: float = field(default_factory=time.monotonic)
    _undeleted: dict[str, str] = field(default_factory=dict)

    def send(self, send: Send) -> None:
        """Send what is left of a step.

        Raises:
            StaleAttemptError: another process has taken the trial over; nothing more was sent.
            MlflowException, OSError: a part did not arrive; it and all behind it are still there.
        """
        send.is_tried = True
        if self.until_heartbeat_s() == 0.0:
            self.tell_alive()
        if send.files or send.inputs:
            self.check_attempt()
        while send.files:
            with self._telling_alive():
                self.artifacts.send(send.files[0].file, folder=send.files[0].folder)
            self.spool.remove(send.files.pop(0).file)
        while send.inputs:
            self._log_input(send.inputs[0])
            send.inputs.pop(0)
        if send.metrics or send.tags:
            self.check_attempt()
            self._log(send)
        if send.status is not None:
            self.check_attempt()
            self.store.client.set_terminated(self.run_id, send.status)
            send.status = None
        if send.obsolete:
            self._discard(send.obsolete)
            send.obsolete = []

    def tell_alive(self) -> None:
        """Set the tag ALIVE to the time.

        Raises:
            StaleAttemptError: another process has taken the trial over.
            MlflowException, OSError: it did not arrive.
        """
        self.check_attempt()
        log_batch(self.store, self.run_id, tags=now_tag())
        self.last_sign_of_life = time.monotonic()

    @contextmanager
    def _telling_alive(self) -> Iterator[None]:
        """Go on giving signs of life while the block runs: an upload may take minutes.

        One that fails is told by the write after the block, which also is fenced. None is given after it.
        """
        is_over = Event()

        def tell() -> None:
            while not is_over.wait(self.until_heartbeat_s()):
                try:
                    self.tell_alive()
                except (MlflowException, OSError, StaleAttemptError):
                    is_over.wait(names.HEARTBEAT_EVERY_S)

        telling = Thread(target=tell, name=f"alive {self.run_id}", daemon=True)
        telling.start()
        try:
            yield
        finally:
            is_over.set()
            telling.join()

    def until_heartbeat_s(self) -> float:
        """Return in how many seconds a sign of life is due."""
        silent_s = time.monotonic() - self.last_sign_of_life
        return max(names.HEARTBEAT_EVERY_S - silent_s, 0.0)

    def check_attempt(self) -> None:
        """Make sure that no newer attempt has claimed the run.

        Raises:
            StaleAttemptError: one has.
        """
        present = self.store.client.get_run(self.run_id).data.tags.get(names.ATTEMPT)
        if present != self.attempt:
            raise StaleAttemptError(
                f"run {self.run_id}: attempt {present} has taken over from attempt {self.attempt}"
            )

    def report_undeleted(self) -> None:
        """Note the files that could not be deleted."""
        self.notices += [f"{path} could not be deleted: {why}" for path, why in self._undeleted.items()]
        self._undeleted = {}

    def _log(self, send: Send) -> None:
        while len(send.metrics) > POINTS_A_BATCH:
            log_batch(self.store, self.run_id, metrics=send.metrics[:POINTS_A_BATCH], tags=now_tag())
            del send.metrics[:POINTS_A_BATCH]
        log_batch(self.store, self.run_id, metrics=send.metrics, tags={**send.tags, **now_tag()})
        send.metrics, send.tags = [], {}
        self.last_sign_of_life = time.monotonic()

    def _log_input(self, entry: DatasetInput) -> None:
        try:
            self.store.client.log_inputs(self.run_id, [entry])
        except MlflowException:
            # MLflow looks for the dataset, then inserts it: of two processes that are the first to name
            # it at the same moment, one violates its uniqueness. Now it is there to be found.
            self.store.client.log_inputs(self.run_id, [entry])

    def _discard(self, paths: list[str]) -> None:
        """Delete files nothing points to; a failure costs disk, not the trial, and is tried again."""
        for path in [*self._undeleted, *paths]:
            try:
                self._delete(path)
                self._undeleted.pop(path, None)
            except (MlflowException, OSError) as error:
                self._undeleted[path] = worded(error)

    def _delete(self, path: str) -> None:
        folder = path.rpartition("/")[0] or None
        # It may never have been uploaded, or be deleted already.
        if path in self.artifacts.sizes(folder):
            self.artifacts.delete(path)
