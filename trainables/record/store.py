"""The connection to MLflow: one client, one experiment, and what is more than a client call."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

from trainables.errors import CheckpointError, TrackingError
from trainables.record import names
from trainables.record.runs import canonical, tag_query
from trainables.record.spool import temporary_folder
from trainables.record.trouble import (
    REFUSED_CREDENTIALS,
    http_status,
    is_refusal,
    without_secrets,
    worded,
)
from trainables.tracking_uri import SQLITE, default_tracking_uri

# Nobody needs to read that an SQLite file was made.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

PAGE = 1000
# A server that was started again answers after 4 to 16 s.
RETRY_AFTER_S = (0.5, 2.0, 8.0, 16.0)
SLOW_UPLOAD_BYTES_A_S = 1_000_000

T = TypeVar("T")


def default_experiment() -> str:
    """Return the name of the experiment that holds all trials and studies."""
    return os.environ.get("TRANSFUSION_EXPERIMENT", names.EXPERIMENT)


def artifact_path(file: Path, folder: str | None) -> str:
    """Return the path that a file gets in a folder of artifacts."""
    return f"{folder}/{file.name}" if folder else file.name


@dataclass(frozen=True)
class Artifacts:
    """The files of one run, without MLflow's client, which looks the run up at every call."""

    run_id: str
    repository: ArtifactRepository

    @property
    def are_local(self) -> bool:
        """Whether they lie in a folder of this machine."""
        return isinstance(self.repository, LocalArtifactRepository)

    def upload(self, file: Path, *, folder: str | None = None) -> str:
        """Upload a file, check that all of it arrived, and return its artifact path.

        Raises:
            TrackingError: the artifact store cannot be used, or holds another number of bytes.
        """
        path = artifact_path(file, folder)
        persistently(f"uploading {path} of run {self.run_id}", lambda: self.send(file, folder=folder))
        return path

    def send(self, file: Path, *, folder: str | None = None) -> None:
        """Upload a file once, and check that all of it arrived.

        Raises:
            MlflowException, OSError: it did not.
        """
        path, n_bytes = artifact_path(file, folder), file.stat().st_size
        self._put(file, folder, path)
        arrived = self.sizes(folder).get(path)
        if arrived != n_bytes:
            raise OSError(
                f"run {self.run_id}: uploaded {n_bytes} bytes as {path}, "
                f"the artifact store holds {arrived}; check its disk and its server's log"
            )

    def _put(self, file: Path, folder: str | None, path: str) -> None:
        repository = self.repository
        if not isinstance(repository, HttpArtifactRepository) or repository._should_multipart_upload(file):
            repository.log_artifact(str(file), folder)
            return
        # MLflow's own would give a server that passes a large file on no more time than a small answer.
        wait_s = MLFLOW_HTTP_REQUEST_TIMEOUT.get()
        timeout = (wait_s, wait_s + file.stat().st_size / SLOW_UPLOAD_BYTES_A_S)
        with file.open("rb") as stream:
            answer = http_request(repository._host_creds, f"/{path}", "PUT", data=stream, timeout=timeout)
        augmented_raise_for_status(answer)

    def write_text(self, name: str, text: str) -> None:
        """Upload a text as a file."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_text(text)
            self.upload(file)

    def paths(self, folder: str | None = None) -> list[str]:
        """Return the paths of the files in a folder."""
        return list(persistently(f"listing the artifacts of run {self.run_id}", lambda: self.sizes(folder)))

    def delete(self, path: str) -> None:
        """Delete one file."""
        self.repository.delete_artifacts(path)

    def download(self, path: str, folder: str) -> Path:
        """Copy a file into a local folder.

        Raises:
            CheckpointError: it is not there.
            TrackingError: the artifact store cannot be used now; nothing is known about the file.
        """
        parent = str(PurePosixPath(path).parent)
        if path not in self.paths(None if parent == "." else parent):
            raise CheckpointError(f"run {self.run_id}: the artifact {path} is missing")
        fetch = partial(self.repository.download_artifacts, path, folder)
        return Path(persistently(f"reading {path} of run {self.run_id}", fetch))

    @contextmanager
    def downloaded(self, path: str) -> Iterator[Path]:
        """Give a local copy of a file; see `download`."""
        with temporary_folder() as folder:
            yield self.download(path, str(folder))

    def sizes(self, folder: str | None) -> dict[str, int | None]:
        """Return the sizes of the files in a folder in bytes, by path; asked once."""
        return {entry.path: entry.file_size for entry in self.repository.list_artifacts(folder)}


@dataclass(frozen=True)
class Store:
    """An open tracking store.

    Attributes:
        uri: where it is, perhaps with a password; `display_uri` is for eyes, files and other processes.
        client: MLflow's client for it.
        experiment: name of the experiment that holds all trials and studies.
        experiment_id: its id.
    """

    uri: str
    client: mlflow.MlflowClient
    experiment: str
    experiment_id: str

    @property
    def display_uri(self) -> str:
        """The address without a password; `open_store` takes that from the environment."""
        return without_secrets(self.uri)

    def run_address(self, *, local_port: int) -> str:
        """Return the address of a run's page in MLflow's UI, with `{run_id}` in the place of its id.

        Args:
            local_port: where the UI of a store that is no server is shown, on this machine.
        """
        base = self.display_uri if self.uri.startswith("http") else f"http://127.0.0.1:{local_port}"
        return f"{base.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{{run_id}}"

    @property
    def is_local_file(self) -> bool:
        """Whether the store is a file, which processes on other machines do not see."""
        return self.uri.startswith(SQLITE)

    def search(self, tag: str, value: str, *more: tuple[str, str]) -> list[Run]:
        """Return all active runs with these tags, the oldest first.

        Raises:
            TrackingError: the store cannot be used.
        """
        query = tag_query((tag, value), *more)
        return self.runs(query) if query is not None else []

    def runs(self, query: str) -> list[Run]:
        """Return all active runs that a filter of MLflow lets through, the oldest first.

        Raises:
            TrackingError: the store cannot be used, or does not understand the filter.
        """
        return persistently("searching MLflow", lambda: list(self._pages(query)))

    def _pages(self, query: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                query,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def find_or_create(self, tag: str, value: str, *, tags: dict[str, str]) -> Run:
        """Return the one run whose `tag` is `value`, creating it with `tags` if there is none.

        MLflow has no unique tags: when two processes create at the same moment, there may be two for a
        while. `canonical` is the rule by which everyone picks the same one.
        """
        query = tag_query((tag, value))

        def find_or_create() -> Run:
            # Each time it looks first: a run may have been created though the answer was lost.
            if query is not None and (found := list(self._pages(query))):
                return canonical(found)
            run_name = tags.get(names.RUN_NAME)
            return self.client.create_run(self.experiment_id, tags={**tags, tag: value}, run_name=run_name)

        return persistently("creating a run", find_or_create)

    def artifacts(self, run: Run) -> Artifacts:
        """Return the artifacts of a run."""
        return Artifacts(
            run.info.run_id, get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
        )

    def artifacts_of(self, run_id: str) -> Artifacts:
        """Return the artifacts of the run of an id.

        Raises:
            TrackingError: the store cannot be used now.
        """
        return self.artifacts(persistently(f"reading run {run_id}", lambda: self.client.get_run(run_id)))

    @contextmanager
    def artifact(self, run_id: str, path: str) -> Iterator[Path]:
        """Give a local copy of an artifact for reading.

        Raises:
            CheckpointError: the artifact is not there.
            TrackingError: the store cannot be used now.
        """
        with self.artifacts_of(run_id).downloaded(path) as file:
            yield file


def open_store(uri: str | None = None, *, experiment: str | None = None) -> Store:
    """Connect to a tracking store and make sure its experiment exists.

    Call it in the driver before any trial does: several processes that open a fresh SQLite file at once
    break its migration.

    Args:
        uri: without the password, if MLFLOW_TRACKING_URI is the same with it.

    Raises:
        TrackingError: the store cannot be reached, or the experiment was deleted.
    """
    known, name = default_tracking_uri(), experiment or default_experiment()
    uri = known if uri in (None, without_secrets(known)) else uri
    assert uri is not None
    _check_writable(uri)
    mlflow.set_tracking_uri(uri)  # the artifact repositories of `mlflow-artifacts:` URIs read the global one
    try:
        client = mlflow.MlflowClient(uri)
        return Store(uri, client, name, _experiment_id(client, uri, name))
    except (MlflowException, OSError) as error:
        raise TrackingError(_unusable(uri, error)) from None


def _unusable(uri: str, error: BaseException) -> str:
    place = f"MLflow at {without_secrets(uri)}"
    if http_status(error) not in REFUSED_CREDENTIALS:
        return f"{place} cannot be used: {worded(error)}; start it, or mend MLFLOW_TRACKING_URI"
    if "Invalid Host header" in str(error):
        return f"{place} does not answer to that name; start its server with --allowed-hosts, or use its IP"
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    given = f"MLFLOW_TRACKING_USERNAME={user}" if user else "MLFLOW_TRACKING_USERNAME is not set"
    if not user and os.environ.get("MLFLOW_TRACKING_TOKEN"):
        given = "those of MLFLOW_TRACKING_TOKEN"
    return f"{place} refused the credentials ({given}); set MLFLOW_TRACKING_USERNAME and _PASSWORD anew"


def _check_writable(uri: str) -> None:
    """Look before MLflow does: it tries for a minute to open a file that cannot be opened."""
    if not uri.startswith(SQLITE):
        return
    file = Path(uri.removeprefix(SQLITE))
    target = file if file.exists() else file.parent
    if not os.access(target, os.W_OK):
        raise TrackingError(
            f"cannot write {file}; run in another folder, or set MLFLOW_TRACKING_URI to a store you may write"
        )


def _experiment_id(client: mlflow.MlflowClient, uri: str, name: str) -> str:
    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"the experiment {name!r} was deleted in MLflow; bring it back with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or set TRANSFUSION_EXPERIMENT"
            )
        return found.experiment_id
    location = None
    if uri.startswith(SQLITE):
        # MLflow's default is relative to the working folder, which is another one in a trial.
        location = (Path(uri.removeprefix(SQLITE)).parent / "mlruns" / name).as_uri()
    try:
        return client.create_experiment(
            name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
        )
    except MlflowException:
        # Another process created it between the two calls.
        if found := client.get_experiment_by_name(name):
            return found.experiment_id
        raise


def persistently(what: str, call: Callable[[], T]) -> T:
    """Call a store, again after a pause if it fails.

    Raises:
        TrackingError: it still fails at the end, or it was refused, which no pause mends.
    """
    for pause in (*RETRY_AFTER_S, None):
        try:
            return call()
        except (MlflowException, OSError) as error:
            if pause is None or is_refusal(error):
                raise TrackingError(f"{what} failed: {worded(error)}") from error
            time.sleep(pause)
    raise AssertionError("unreachable: the last round returns or raises")
