"""What a study holds besides its cells: trainings of sources, and what is missing."""

from collections.abc import Sequence
from typing import Protocol

import pandas as pd

from analysis.tables.table import ABSENT, METRIC_NAMES, Table, number


class PlannedCell(Protocol):
    """One line of a study's plan.

    Attributes:
        label: what people call the cell or trial.
        state: done, partial, failed, to run, waiting, excluded.
        reason: why it is in that state; may be empty.
    """

    @property
    def label(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...


def missing_table(trials: pd.DataFrame, planned: Sequence[PlannedCell], similarity: pd.DataFrame) -> Table:
    """List what the study lacks: planned cells that are not done, failed trials, missing comparisons."""
    lines = [(cell.label, cell.state, cell.reason) for cell in planned if cell.state != "done"]
    listed = {label for label, _, _ in lines}
    for trial in trials[trials["status"] != "finished"].to_dict("records"):
        if not listed & {trial["label"], trial["label"].rpartition(" · seed ")[0]}:
            lines.append((trial["label"], trial["status"], trial["cause"]))
    without_value = similarity[similarity["reason"] != ""]
    for key, rows in without_value.groupby(["kind", "setting", "init_x", "reason"], sort=False):
        kind, setting, init, reason = map(str, key)
        seeds = ", ".join(map(str, sorted(set(rows["seed_x"]))))
        lines.append((f"{kind} similarity · {setting} · {init} · seed {seeds}", "not computed", reason))
    frame = pd.DataFrame(lines, columns=["what", "state", "reason"])
    note = "Planned trials without a finished trial, trials that failed, comparisons that could not be made."
    return Table("missing", "What is missing", note, frame, frame.replace("", ABSENT))


def sources_table(trials: pd.DataFrame) -> Table:
    """List the trainings that only serve as a source of weights."""
    rows = trials[trials["is_source"]]
    metrics = [metric for metric in METRIC_NAMES if metric in rows and metric != "test_loss"]
    display = pd.DataFrame(
        [
            {"training": row["label"], "state": row["status"]}
            | {METRIC_NAMES[metric]: number(row[metric]) for metric in metrics}
            for row in rows.to_dict("records")
        ],
        columns=["training", "state", *(METRIC_NAMES[metric] for metric in metrics)],
    )
    note = "Their weights are what the pretrained networks start from. Test split of the source dataset."
    return Table(
        "sources", "Source trainings", note, rows[["trial_id", "label", "status", *metrics]], display
    )
