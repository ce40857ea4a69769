"""Outcomes of jobs on disk, by their keys."""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.jobs.job import Outcome
from trainables.datasets.cache import new_cache_file
from trainables.errors import DataError

ROWS = "rows"


@dataclass(frozen=True)
class OutcomeCache:
    """A folder of outcomes; anybody may delete it, or any part of it, at any time.

    Attributes:
        notices: what could not be kept, for people.
    """

    folder: Path
    notices: list[str] = field(default_factory=list)

    def get(self, key: str) -> Outcome | None:
        """Return the outcome of a job, or None if it is not here or cannot be read."""
        try:
            # Opened here, because np.load leaves a file open that is no archive.
            with self._path(key).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                rows = json.loads(str(file[ROWS]))
                return Outcome(rows, {name: file[name] for name in file.files if name != ROWS})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            # Absent or damaged: either way it is computed, and then written anew.
            return None

    def put(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome; where it cannot be written it is noted once, and computed again next time."""
        try:
            with new_cache_file(self._path(key)) as file:
                arrays: dict[str, Any] = {ROWS: np.array(json.dumps(outcome.rows)), **outcome.arrays}
                np.savez_compressed(file, **arrays)
        except DataError as error:
            if not self.notices:
                self.notices.append(f"the analysis is not kept for the next time: {error}")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"
