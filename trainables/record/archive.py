"""Finished runs in one file: what is read of them once need not be read again.

A zip of `runs.json` and `points.parquet`. Its name carries no truth: `trainables.record.library` asks the
store which of the runs still hold.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import pandas as pd

from trainables.record.runs import StoredRun

FORMAT = 1
POINT_COLUMNS = ("run_id", "metric", "step", "value")


def points_table(*tables: pd.DataFrame) -> pd.DataFrame:
    """Put tables of points under one another: POINT_COLUMNS, names as categories."""
    types = {"run_id": "str", "metric": "str", "step": "int64", "value": "float64"}
    filled = [table.astype(types) for table in tables if not table.empty]
    whole = (
        pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(types)).astype(types)
    )
    return whole[list(types)].astype({"run_id": "category", "metric": "category"})


@dataclass
class Archive:
    """Finished runs, and points of their metrics.

    Attributes:
        runs: by run id.
        points: see `points_table`; one row for a step of a run and metric.
        known: of each run the metrics whose points are here, those without a point too.
    """

    runs: dict[str, StoredRun] = field(default_factory=dict)
    points: pd.DataFrame = field(default_factory=points_table)
    known: dict[str, set[str]] = field(default_factory=dict)

    def keep(self, run_ids: Iterable[str]) -> None:
        """Forget all other runs."""
        kept = set(run_ids)
        if kept >= self.runs.keys():
            return
        self.runs = {key: run for key, run in self.runs.items() if key in kept}
        self.known = {key: metrics for key, metrics in self.known.items() if key in kept}
        self.points = points_table(self.points[self.points["run_id"].isin(kept)])

    def replace_runs(self, runs: Mapping[str, StoredRun]) -> None:
        """Put runs in place of what is here of them."""
        self.keep(self.runs.keys() - runs.keys())
        self.runs |= runs

    def add_points(self, points: pd.DataFrame, *, run_ids: Iterable[str], metric: str) -> None:
        """Add all points of one metric of some runs that lack them."""
        self.points = points_table(self.points, points)
        for run_id in run_ids:
            self.known.setdefault(run_id, set()).add(metric)

    def update(self, other: "Archive", *, only: Iterable[str] | None = None) -> None:
        """Add the runs of another archive that are not here, or only some of them."""
        new = (other.runs.keys() if only is None else set(only)) - self.runs.keys()
        self.runs |= {key: run for key, run in other.runs.items() if key in new}
        self.known |= {key: set(metrics) for key, metrics in other.known.items() if key in new}
        points = other.points[other.points["run_id"].isin(new)]
        self.points = points_table(self.points, points)


# What zip, JSON and Parquet raise at bytes that somebody changed.
_DAMAGE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
)


def write_archive(archive: Archive, stream: IO[bytes]) -> None:
    """Write an archive; `read_archive` gives it back equal."""
    content = {
        "format": FORMAT,
        "runs": [asdict(run) for run in archive.runs.values()],
        "known": {run_id: sorted(metrics) for run_id, metrics in archive.known.items()},
    }
    points = io.BytesIO()
    archive.points.to_parquet(points, index=False)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        # Without the time of day equal archives are equal files.
        for name, part in (("runs.json", json.dumps(content)), ("points.parquet", points.getvalue())):
            file.writestr(zipfile.ZipInfo(name), part, zipfile.ZIP_DEFLATED, 1)


def read_archive(path: Path) -> Archive | None:
    """Read an archive; None if there is none, or if it is damaged or of another format."""
    try:
        with zipfile.ZipFile(path) as file:
            content = json.loads(file.read("runs.json"))
            points = pd.read_parquet(io.BytesIO(file.read("points.parquet")))
        if content["format"] != FORMAT or tuple(points) != POINT_COLUMNS:
            return None
        runs = [StoredRun(**run) for run in content["runs"]]
        known = {run_id: set(metrics) for run_id, metrics in content["known"].items()}
        archive = Archive({run.run_id: run for run in runs}, points, known)
    except _DAMAGE:
        return None
    return archive if all(map(_is_whole, runs)) else None


def _is_whole(run: StoredRun) -> bool:
    texts, mappings = (run.run_id, run.status), (run.tags, run.metrics)
    is_timed = isinstance(run.start_time, int) and isinstance(run.end_time, int | None)
    return (
        is_timed
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(mapping, dict) for mapping in mappings)
    )
