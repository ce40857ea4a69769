"""What a study holds besides its cells: trainings of sources, and what is missing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import pandas as pd

from analysis.searches import Searches
from analysis.tables.table import ABSENT, METRIC_NAMES, Table, number

if TYPE_CHECKING:
    from trainables.record import TrialRecord


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


def missing_table(
    trials: pd.DataFrame,
    planned: Sequence[PlannedCell],
    similarity: pd.DataFrame,
    *,
    problems: Sequence[tuple[str, str]] = (),
    searches: Searches | None = None,
) -> Table:
    """List what the study lacks: planned cells that are not done, failed trials, missing comparisons.

    Args:
        searches: of its cells; without a best setting a cell has no trials that could be planned.
        problems: what else could not be computed, and why.
    """
    lines = [(cell.label, cell.state, cell.reason) for cell in planned if cell.state != "done"]
    searched = (searches or {}).values()
    lines += [(facts.label, "searching", facts.why_no_best) for facts in searched if facts.best is None]
    listed = {label for label, _, _ in lines}
    for trial in trials[trials["status"] != "finished"].to_dict("records"):
        if not listed & {trial["label"], trial["label"].rpartition(" · seed ")[0]}:
            lines.append((trial["label"], trial["status"], trial["cause"]))
    lines += [(what, "not computed", reason) for what, reason in problems]
    without_value = similarity[similarity["reason"] != ""]
    for (setting, reason), rows in without_value.groupby(["setting", "reason"], sort=False):
        kinds = ", ".join(dict.fromkeys(rows["kind"]))
        inits = ", ".join(dict.fromkeys(rows["init_x"]))
        seeds = ", ".join(map(str, sorted(set(rows["seed_x"]))))
        what = f"similarity · {setting} · {inits} · seed {seeds} ({kinds})"
        lines.append((what, "not computed", str(reason)))
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


def trials_table(
    trials: pd.DataFrame, records: "Mapping[str, TrialRecord]", *, run_address: str = ""
) -> Table:
    """List every trial with its scores; its label leads to its run in MLflow.

    Args:
        run_address: with `{run_id}` in the place of a run's id; "" for no links.
    """
    metrics = [metric for metric in METRIC_NAMES if metric in trials and metric != "test_loss"]
    columns = ["trial", "state", "minutes", *(METRIC_NAMES[metric] for metric in metrics), "trial id"]
    display = pd.DataFrame(
        [
            {
                "trial": row["label"],
                "state": row["status"],
                "minutes": number(row["seconds"] / 60, digits=1),
                "trial id": row["trial_id"],
            }
            | {METRIC_NAMES[metric]: number(row[metric]) for metric in metrics}
            for row in trials.to_dict("records")
        ],
        columns=columns,
    )
    runs = [records[key].run_id for key in trials["trial_id"]]
    links = [run_address.format(run_id=run) for run in runs] if run_address else []
    note = "Test split, weights of the best validation step." + (
        " Labels lead to MLflow's UI (for a local store start it with `transfusion ui`)." if links else ""
    )
    data = trials[["trial_id", "label", "status", "seconds", *metrics]]
    return Table("all_trials", "Trials", note, data, display, tuple(links))
