"""What the MLflow server of a head has written down, read from its database without disturbing it."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

RUNS = "select run_uuid, status, end_time from runs where lifecycle_stage = 'active'"
TAGS = "select key, value from tags where run_uuid = ?"
STEPS = "select step from metrics where run_uuid = ? and key = 'val_auroc' order by step"


@dataclass(frozen=True)
class Record:
    """The run of one trial.

    Attributes:
        end_time: milliseconds since 1970; None if it has not ended.
        host, attempt: where and as which attempt it was last trained.
        steps: of the points of one metric, in order.
    """

    run_id: str
    trial_id: str
    status: str
    end_time: int | None
    host: str
    attempt: str
    steps: tuple[int, ...]

    def is_on(self, host: str) -> bool:
        return self.status == "RUNNING" and self.host == host


def read_records(database: Path) -> list[Record]:
    """Return the runs of all trials; none before there is a database."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        records = []
        for run_id, status, end_time in connection.execute(RUNS).fetchall():
            tags = dict(connection.execute(TAGS, (run_id,)).fetchall())
            steps = tuple(step for (step,) in connection.execute(STEPS, (run_id,)))
            if "trial_id" in tags:
                where = (tags.get("host", ""), tags.get("attempt", ""))
                records.append(Record(run_id, tags["trial_id"], status, end_time, *where, steps))
        return records


def said(records: list[Record]) -> str:
    """Count the runs by status and by the machine and the attempt they were last trained on."""
    lines = sorted(f"{run.status} on {run.host}, attempt {run.attempt.split('-')[0]}" for run in records)
    return "; ".join(f"{lines.count(line)} {line}" for line in dict.fromkeys(lines)) or "none"
