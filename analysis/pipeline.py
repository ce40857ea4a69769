"""From the records of a study to tables, figures and a report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from analysis.convergence import choose_thresholds, measure_convergence
from analysis.load import load_histories, load_trials
from analysis.networks.comparisons import Settings, compare_networks, plan_comparisons
from analysis.report.contents import Results, build_report, build_tables
from analysis.report.page import write_report
from analysis.tables.formats import write_table
from analysis.tables.inventory import PlannedCell
from analysis.tables.table import METRIC_NAMES

if TYPE_CHECKING:
    from trainables.record import RecordReader

Progress = Callable[[str, int, int], None]


def analyze(
    reader: "RecordReader",
    *,
    study: str,
    question: str = "",
    study_file: str = "",
    planned: Sequence[PlannedCell] = (),
    trial_ids: Mapping[str, bool] | None = None,
    data_root: Path | None,
    output: Path,
    baseline: str = "random",
    threshold_metric: str = "val_auroc",
    thresholds: Mapping[str, float] | None = None,
    probe_images: int = 512,
    positions_per_image: int = 8,
    variance_fraction: float = 0.99,
    device: str = "auto",
    progress: Progress | None = None,
) -> Path:
    """Write `output/tables`, `output/figures` and `output/report.html`, and return the report's path.

    Whatever the study holds is reported: a missing checkpoint, a dataset that is not on this machine or a
    failed trial is listed with its reason and the rest goes on; a study without any finished trial gives a
    report that says so.

    Args:
        planned: the cells of the plan with their state; those that are not `done` are listed as missing.
        trial_ids: see `load_trials`.
        baseline: label or kind of the initialization that others are compared with.
        threshold_metric: whose threshold counts as convergence; its test counterpart ranks the cells.
        thresholds: by dataset label; the others get 99 % of what the baseline reaches.
        device: of the networks that are compared; `auto` takes the GPU where there is one.
        progress: called with (what is done, steps done, steps in all).
    """
    results = _measure(
        reader,
        study,
        trial_ids=trial_ids,
        data_root=data_root,
        baseline=baseline,
        metric=threshold_metric,
        thresholds=thresholds or {},
        settings=Settings(probe_images, positions_per_image, variance_fraction),
        device=_device(device),
        progress=progress or _silent,
    )
    tables = build_tables(results, planned)
    for table in tables.values():
        write_table(table, output / "tables")
    _write_rows(results, output / "tables")
    report = build_report(
        results,
        tables,
        study=study,
        question=question,
        study_file=study_file,
        planned=planned,
        figures=output / "figures",
    )
    return write_report(report, output / "report.html")


def _measure(
    reader: "RecordReader",
    study: str,
    *,
    trial_ids: Mapping[str, bool] | None,
    data_root: Path | None,
    baseline: str,
    metric: str,
    thresholds: Mapping[str, float],
    settings: Settings,
    device: torch.device,
    progress: Progress,
) -> Results:
    trials = load_trials(reader, study, trial_ids=trial_ids)
    finished = trials.finished
    progress("reading histories", 0, 1)
    histories = load_histories(reader, [trials.records[key] for key in finished["trial_id"]])
    progress("reading histories", 1, 1)
    # A linear probe or a forest has no steps to converge in.
    trained = finished[finished["protocol"].str.startswith("trains")]
    chosen = choose_thresholds(trained, histories, metric=metric, baseline=baseline, given=thresholds)
    return Results(
        trials=trials,
        histories=histories,
        thresholds=chosen,
        convergence=measure_convergence(trained, histories, metric=metric, thresholds=chosen),
        similarity=compare_networks(
            plan_comparisons(finished),
            trials,
            reader=reader,
            data_root=data_root,
            settings=settings,
            device=device,
            progress=progress,
        ),
        metric=metric,
        primary=_primary_metric(metric, finished),
        baseline=baseline,
        settings=settings,
    )


def _primary_metric(metric: str, finished: pd.DataFrame) -> str:
    """Return the test counterpart of a validation metric, or AUROC where the trials lack it."""
    counterpart = metric.replace("val_", "test_", 1)
    return counterpart if counterpart in METRIC_NAMES and counterpart in finished else "test_auroc"


def _write_rows(results: Results, folder: Path) -> None:
    """Write what the tables summarise, one row per trial, evaluation or comparison."""
    rows = {
        "trials": results.trials.table.merge(results.convergence, on="trial_id", how="left"),
        "histories": results.histories,
        "similarity_pairs": results.similarity,
    }
    for name, frame in rows.items():
        frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _silent(_what: str, _done: int, _of: int) -> None:
    pass
