"""An `mlflow server` on a database, with its artifacts in a folder."""

import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.chaos.processes import PYTHON, Owned, free_port, wait_until

START_WITHIN_S = 120.0


class Database(Protocol):
    """Where the server keeps its runs."""

    name: str
    uri: str

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def stop(self) -> None: ...


class Sqlite:
    """A file, which nothing can kill."""

    name = "SQLite"

    def __init__(self, file: Path) -> None:
        self.uri = f"sqlite:///{file}"

    def start(self) -> None:
        """There is nothing to start."""

    def kill(self) -> None:
        raise NotImplementedError("SQLite has no process")

    def stop(self) -> None:
        """There is nothing to stop."""


class MlflowServer:
    """The server's processes.

    Args:
        folder: of its logs.
        artifacts: where the files of runs lie.
    """

    def __init__(self, folder: Path, *, database: Database, artifacts: Path, env: Mapping[str, str]) -> None:
        self._folder, self._database, self._artifacts, self._env = folder, database, artifacts, env
        self._process: Owned | None = None
        self._n_started = 0
        self.port = free_port()

    def start(self) -> None:
        """Start it; returns before it answers."""
        self._n_started += 1
        self._process = Owned(
            [
                *(PYTHON, "-m", "mlflow", "server", "--workers", "1"),
                *("--host", "127.0.0.1", "--port", str(self.port)),
                *("--backend-store-uri", self._database.uri, "--artifacts-destination", self._artifacts),
            ],
            log=self._folder / f"mlflow-{self._n_started}.log",
            env={**self._env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )

    def wait_until_healthy(self) -> None:
        wait_until(self._is_healthy, "the MLflow server answers", within_s=START_WITHIN_S)

    def kill(self) -> None:
        """SIGKILL every process of it."""
        self._running().kill()

    def freeze(self) -> None:
        self._running().freeze()

    def thaw(self) -> None:
        self._running().thaw()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _running(self) -> Owned:
        assert self._process is not None, "start() comes first"
        return self._process

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
