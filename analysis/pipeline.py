"""From the records of a study to tables, figures and a report."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from analysis.jobs.bench import Bench
from analysis.jobs.cache import OutcomeCache
from analysis.jobs.schedule import Performer, Progress, one_after_another
from analysis.jobs.work import any_device, do
from analysis.measure import Workshop, measure_study
from analysis.report.contents import build_report, build_tables
from analysis.report.drawing import draw_figures
from analysis.report.page import write_report
from analysis.results import PARTS, Options, Results, StudyFacts
from analysis.searches import settings_tried
from analysis.tables.formats import write_table

REPORT = "report.html"

if TYPE_CHECKING:
    from trainables.record import RecordReader


def analyze(
    reader: "RecordReader",
    study: StudyFacts,
    *,
    output: Path,
    options: Options | None = None,
    data_root: Path | None = None,
    parts: Sequence[str] = PARTS,
    perform: Performer | None = None,
    cache: OutcomeCache | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write `output/tables`, `output/figures` and `output/report.html`, and return the report's path.

    Whatever the study holds is reported: a missing checkpoint, a dataset that is not on this machine or a
    failed trial is listed with its reason and the rest goes on; a study without any finished trial gives a
    report that says so.

    Args:
        parts: what may be computed; the report shows what is known of the others.
        perform: does the jobs that the cache lacks; None does them here, one after another.
        device: of the networks, where the jobs are done here; None takes the GPU where there is one.
        progress: called with (what is done, steps done, steps in all).
    """
    bench = Bench(reader, data_root, device or any_device())
    workshop = Workshop(
        perform=perform or one_after_another(partial(do, bench=bench)),
        cache=cache,
        progress=progress or _silent,
        parts=parts,
    )
    results = measure_study(reader, study, options=options or Options(), workshop=workshop)
    if (output / REPORT).exists():
        # Nothing of an older analysis shall lie beside the new page.
        for folder in ("tables", "figures"):
            shutil.rmtree(output / folder, ignore_errors=True)
    tables = build_tables(results, study)
    for table in tables.values():
        write_table(table, output / "tables")
    _write_rows(results, output / "tables")
    workshop.progress("drawing figures", 0, 1)
    figures = draw_figures(results, tables, run_address=study.run_address, folder=output / "figures")
    report = build_report(results, tables, figures, study=study)
    return write_report(report, output / REPORT)


def _write_rows(results: Results, folder: Path) -> None:
    """Write what the tables summarise, one row per trial, evaluation or comparison."""
    rows = {
        "trials": results.trials.table.merge(results.convergence, on="trial_id", how="left"),
        "histories": results.histories,
        "similarity_pairs": results.similarity,
    }
    if results.trials.searches:
        rows["settings_tried"] = settings_tried(results.trials.searches)
    for name, frame in rows.items():
        frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def _silent(_what: str, _done: int, _of: int) -> None:
    pass
