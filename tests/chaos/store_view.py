"""What MLflow holds, read past it: from the database and from the folder of its artifacts.

An outage of the server hides nothing from it, and nothing of the code that is tested has a part in it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from safetensors.torch import load_file
from sqlalchemy.pool import NullPool
from torch import Tensor

POINTS = """
select m.run_uuid, m.key, m.step, m.value, m.is_nan from metrics m
join runs r on r.run_uuid = m.run_uuid join experiments e on e.experiment_id = r.experiment_id
where e.name = :experiment and r.lifecycle_stage = 'active'
"""
RUNS = """
select r.run_uuid, r.status, r.start_time, r.end_time, r.artifact_uri, r.lifecycle_stage from runs r
join experiments e on e.experiment_id = r.experiment_id where e.name = :experiment
"""
TAGS = """
select t.run_uuid, t.key, t.value from tags t
join runs r on r.run_uuid = t.run_uuid join experiments e on e.experiment_id = r.experiment_id
where e.name = :experiment
"""

# MLflow writes an upload under such a name first, and hides it from every listing.
HIDDEN_PREFIX = ".artifact.uploading."


@dataclass(frozen=True)
class Pointer:
    """A tag that points to a file of weights."""

    path: str
    sha256: str
    step: int


@dataclass(frozen=True)
class RunRow:
    """One active run, as the database has it."""

    run_id: str
    status: str
    end_time: int | None
    folder: Path
    tags: Mapping[str, str]

    @property
    def trial_id(self) -> str | None:
        """None for the run of a study."""
        return self.tags.get("trial_id")

    @property
    def state(self) -> Pointer | None:
        return _pointer(self.tags.get("state", ""))

    @property
    def state_step(self) -> int:
        state = self.state
        return state.step if state else 0

    @property
    def checkpoints(self) -> dict[str, Pointer]:
        """The committed weights, by name."""
        found = {
            key.removeprefix("checkpoint."): _pointer(value)
            for key, value in self.tags.items()
            if key.startswith("checkpoint.")
        }
        return {name: pointer for name, pointer in found.items() if pointer is not None}

    def files(self) -> dict[str, Path]:
        """Return the artifacts that are there, by their path."""
        return {str(file.relative_to(self.folder)): file for file in self._all() if not _is_hidden(file)}

    def hidden_files(self) -> list[Path]:
        """Return what MLflow's server was writing when it was cut off, and since lists to no client."""
        return [file for file in self._all() if _is_hidden(file)]

    def _all(self) -> list[Path]:
        return [file for file in self.folder.rglob("*") if file.is_file()]

    def weights(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / self.checkpoints[name].path)


class StoreView:
    """The runs of one experiment.

    Args:
        uri: of the database.
        artifacts: the folder that the server keeps artifacts in.
    """

    def __init__(self, uri: str, *, artifacts: Path, experiment: str) -> None:
        options = {"timeout": 10} if uri.startswith("sqlite") else {"connect_timeout": 5}
        self._engine = sqlalchemy.create_engine(uri, poolclass=NullPool, connect_args=options)
        self._artifacts, self._experiment = artifacts, experiment

    def runs(self) -> list[RunRow]:
        """Return the active runs.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is away.
        """
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        with self._engine.connect() as connection:
            wanted = {"experiment": self._experiment}
            rows = connection.execute(sqlalchemy.text(RUNS), wanted).all()
            for run_id, key, value in connection.execute(sqlalchemy.text(TAGS), wanted):
                tags[run_id][key] = value
        return [
            RunRow(row.run_uuid, row.status, row.end_time, self._folder(row.artifact_uri), tags[row.run_uuid])
            for row in rows
            if row.lifecycle_stage == "active"
        ]

    def trials(self) -> list[RunRow]:
        """Return the active runs of trials."""
        return [run for run in self.runs() if run.trial_id is not None]

    def points(self) -> dict[str, dict[tuple[str, int], list[float]]]:
        """Return every stored metric point: by run, then by name and step, all values that are there."""
        found: dict[str, dict[tuple[str, int], list[float]]] = defaultdict(lambda: defaultdict(list))
        with self._engine.connect() as connection:
            for row in connection.execute(sqlalchemy.text(POINTS), {"experiment": self._experiment}):
                value = float("nan") if row.is_nan else float(row.value)
                found[row.run_uuid][row.key, row.step].append(value)
        return found

    def folders(self) -> set[Path]:
        """Return the folder of every run of which files are there."""
        here = {run.folder.parent.parent for run in self.runs()}
        return {folder / "artifacts" for parent in here for folder in parent.iterdir() if folder.is_dir()}

    def _folder(self, artifact_uri: str) -> Path:
        return self._artifacts / artifact_uri.partition(":")[2].lstrip("/")


def _is_hidden(file: Path) -> bool:
    return file.name.startswith(HIDDEN_PREFIX)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _pointer(text: str) -> Pointer | None:
    try:
        content = json.loads(text)
        return Pointer(content["path"], content["sha256"], content["step"])
    except (ValueError, TypeError, KeyError):
        return None
