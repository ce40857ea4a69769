"""The connection to MLflow: one client, one experiment, and what is more than a client call."""

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Set before mlflow is imported, which reads them once.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # With the default of 7 retries one call to a dead server blocks for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402
from mlflow.entities import Run, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.artifact.artifact_repo import ArtifactRepository  # noqa: E402
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: E402

from trainables.errors import CheckpointError, TrackingError  # noqa: E402
from trainables.record import names  # noqa: E402

# Nobody needs to read that an SQLite file was made.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

SQLITE = "sqlite:///"
PAGE = 1000


def default_tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or the local store `mlflow.db` in the working folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{Path.cwd() / 'mlflow.db'}"
    if uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        # Trials run in other working folders, so a relative file would be another file there.
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}"
    return uri


@dataclass(frozen=True)
class Store:
    """An open tracking store.

    Attributes:
        uri: where it is; plain text that travels to the trials.
        client: MLflow's client for it.
        experiment_id: of the experiment that holds all trials and studies.
    """

    uri: str
    client: mlflow.MlflowClient
    experiment_id: str

    @property
    def display_uri(self) -> str:
        """The address without a password."""
        return _without_password(self.uri)

    def search(self, filter_string: str) -> list[Run]:
        """Return all active runs that match, oldest first."""
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                filter_string,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    def find_or_create(self, tag: str, value: str, *, tags: dict[str, str]) -> Run:
        """Return the one run whose `tag` is `value`, creating it with `tags` if there is none.

        MLflow has no unique tags. When two processes create at the same moment, both keep the older run.
        """
        query = f"tags.`{tag}` = '{value}'"
        if found := self.search(query):
            return found[0]
        created = self.client.create_run(
            self.experiment_id, tags={**tags, tag: value}, run_name=tags.get(names.RUN_NAME)
        )
        oldest = min(
            self.search(query), key=lambda run: (run.info.start_time, run.info.run_id), default=created
        )
        if oldest.info.run_id != created.info.run_id:
            self.client.delete_run(created.info.run_id)
        return oldest

    def artifacts(self, run: Run) -> "Artifacts":
        """Return the artifacts of a run."""
        return Artifacts(
            run.info.run_id, get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
        )

    @contextmanager
    def artifact(self, run_id: str, path: str) -> Iterator[Path]:
        """Give a local copy of an artifact for reading.

        Raises:
            CheckpointError: the artifact is not there.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield Path(self.client.download_artifacts(run_id, path, folder))
            except (MlflowException, OSError) as error:
                raise CheckpointError(
                    f"run {run_id}: the artifact {path} cannot be read ({_first_line(error)})"
                ) from None


@dataclass(frozen=True)
class Artifacts:
    """The files of one run, without MLflow's client, which looks the run up at every call."""

    run_id: str
    repository: ArtifactRepository

    def upload(self, file: Path, *, folder: str | None = None) -> str:
        """Upload a file, check that all of it arrived, and return its artifact path.

        Raises:
            TrackingError: the artifact store holds another number of bytes.
        """
        self.repository.log_artifact(str(file), folder)
        path = f"{folder}/{file.name}" if folder else file.name
        arrived = {entry.path: entry.file_size for entry in self.repository.list_artifacts(folder)}
        if arrived.get(path) != file.stat().st_size:
            raise TrackingError(
                f"run {self.run_id}: uploaded {file.stat().st_size} bytes as {path}, "
                f"the artifact store holds {arrived.get(path)}; check its disk and its server's log"
            )
        return path

    def write_text(self, name: str, text: str) -> None:
        """Upload a text as a file."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_text(text)
            self.upload(file)

    def delete(self, path: str) -> None:
        """Delete one file."""
        self.repository.delete_artifacts(path)


def open_store(uri: str | None = None) -> Store:
    """Connect to a tracking store and make sure its experiment exists.

    Call it in the driver before any trial does: several processes that open a fresh SQLite file at once
    break its migration.

    Raises:
        TrackingError: the store cannot be reached.
    """
    uri = uri or default_tracking_uri()
    mlflow.set_tracking_uri(uri)  # the artifact repositories of `mlflow-artifacts:` URIs read the global one
    try:
        client = mlflow.MlflowClient(uri)
        return Store(uri, client, _experiment(client, uri))
    except (MlflowException, OSError) as error:
        raise TrackingError(
            _without_password(f"MLflow at {uri} cannot be used: {_first_line(error)}; ")
            + "start it, or mend MLFLOW_TRACKING_URI"
        ) from None


def _experiment(client: mlflow.MlflowClient, uri: str) -> str:
    name = os.environ.get("TRANSFUSION_EXPERIMENT", names.EXPERIMENT)
    if found := client.get_experiment_by_name(name):
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


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://", text)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
