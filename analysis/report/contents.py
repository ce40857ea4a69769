"""What goes into the report, and in which order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from analysis.convergence import Threshold
from analysis.figures.similarity import draw_before_after, draw_pairs
from analysis.figures.style import DrawnFigure
from analysis.figures.training import draw_depth, draw_learning_curves
from analysis.load import StudyTrials
from analysis.networks.comparisons import Settings
from analysis.report.findings import find
from analysis.report.page import Report, Section
from analysis.tables.convergence import convergence_table
from analysis.tables.inventory import PlannedCell, missing_table, sources_table
from analysis.tables.performance import class_table, performance_table
from analysis.tables.similarity import similarity_table
from analysis.tables.table import CLASS_METRICS, MEASURE_NAMES, METRIC_NAMES, Table
from trainables.architectures.reshaping import architecture_of
from trainables.record import changed_datasets

MAIN_MEASURE = "svcca"
_NONE_FINISHED = "No trial has finished yet."
_NO_TRIAL = "The study has no trial yet."
_NOTHING_MISSING = "Nothing: every planned cell is here, and every comparison could be made."


@dataclass(frozen=True)
class Results:
    """Everything that was measured, before it is laid out.

    Attributes:
        histories: trial_id, metric, step, value.
        convergence: one row per trial: steps to the threshold, reached, area under the curve.
        similarity: one row per comparison, stage and measure.
        metric: over training, of the learning curves and thresholds.
        primary: of the test split, by which cells are ranked.
        baseline: label or kind of the initialization that others are compared with.
    """

    trials: StudyTrials
    histories: pd.DataFrame
    thresholds: Mapping[str, Threshold]
    convergence: pd.DataFrame
    similarity: pd.DataFrame
    metric: str
    primary: str
    baseline: str
    settings: Settings


def build_tables(results: Results, planned: Sequence[PlannedCell]) -> dict[str, Table]:
    """Return every table by its name; some may be empty."""
    finished = results.trials.finished
    tables = (
        performance_table(finished, baseline=results.baseline, primary=results.primary),
        *(class_table(finished, metric) for metric in CLASS_METRICS),
        convergence_table(finished, results.convergence, results.thresholds, metric=results.metric),
        similarity_table(results.similarity),
        sources_table(results.trials.table),
        missing_table(results.trials.table, planned, results.similarity),
    )
    return {table.name: table for table in tables}


def build_report(
    results: Results,
    tables: Mapping[str, Table],
    *,
    study: str,
    question: str,
    study_file: str,
    planned: Sequence[PlannedCell],
    figures: Path,
) -> Report:
    """Draw the figures into a folder and put the report together."""
    findings = find(
        results.trials.finished,
        tables["convergence"].data,
        results.similarity,
        primary=results.primary,
        baseline=results.baseline,
    )
    return Report(
        study=study,
        question=question,
        generated=f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        counts=_counts(results.trials, planned),
        findings=findings,
        findings_note=(
            "Intervals are Student's t over paired seeds, each for one comparison. The best initialization "
            "was picked after seeing all of them, which its interval does not account for."
        ),
        sections=_sections(results, tables, figures),
        settings=_settings(results),
        study_file=study_file,
        warnings=_warnings(results),
    )


def _by_class(tables: Mapping[str, Table]) -> tuple[Table, ...]:
    return tuple(table for metric in CLASS_METRICS for table in _filled(tables[f"{metric}_by_class"]))


def _sections(results: Results, tables: Mapping[str, Table], folder: Path) -> list[Section]:
    finished, inits = results.trials.finished, results.trials.inits
    shapes = [record.spec.architecture for record in results.trials.records.values()]
    stages = {shape.label: architecture_of(shape).backbone for shape in shapes}
    curves = draw_learning_curves(
        finished,
        results.histories,
        metric=results.metric,
        inits=inits,
        thresholds=results.thresholds,
        folder=folder,
    )
    depth = draw_depth(finished, results.convergence, primary=results.primary, stages=stages, folder=folder)
    nothing = _NO_TRIAL if results.trials.table.empty else _NOTHING_MISSING
    parts = (
        ("performance", "Performance", _NONE_FINISHED, _filled(tables["performance"]), ()),
        ("classes", "Single classes", _NONE_FINISHED, _by_class(tables), ()),
        ("convergence", "Convergence", _NONE_FINISHED, _filled(tables["convergence"]), ()),
        ("depth", "Transfusion depth", "The study has no finished transfusion.", (), _drawn(depth)),
        ("curves", "Learning curves", _NONE_FINISHED, (), _drawn(curves)),
        ("sources", "Source trainings", "No source was trained here.", _filled(tables["sources"]), ()),
        ("missing", "What is missing", nothing, _filled(tables["missing"]), ()),
    )
    sections = [
        Section(anchor, title, empty=empty, tables=shown, figures=drawn)
        for anchor, title, empty, shown, drawn in parts
    ]
    sections.insert(4, _similarity_section(results, tables["similarity"], folder))
    return sections


def _similarity_section(results: Results, table: Table, folder: Path) -> Section:
    drawn = {
        measure: _drawn(
            draw_before_after(results.similarity, measure=measure, inits=results.trials.inits, folder=folder),
            draw_pairs(results.similarity, measure=measure, folder=folder),
        )
        for measure in MEASURE_NAMES
    }
    others = [figure for measure, figures in drawn.items() if measure != MAIN_MEASURE for figure in figures]
    folded: list[tuple[str, Sequence[Table], Sequence[DrawnFigure]]] = []
    if others:
        names = " and ".join(name for key, name in MEASURE_NAMES.items() if key != MAIN_MEASURE)
        folded.append((f"The same figures by {names}", (), others))
    if not table.display.empty:
        folded.append((f"All numbers ({len(table.display)} rows)", (table,), ()))
    return Section(
        "similarity",
        "Similarity of representations",
        empty="No two networks could be compared; the section on what is missing says why.",
        figures=drawn[MAIN_MEASURE],
        folded=folded,
    )


def _counts(trials: StudyTrials, planned: Sequence[PlannedCell]) -> dict[str, int]:
    if planned:
        return dict(Counter(str(cell.state) for cell in planned))
    return {str(state): n for state, n in trials.table["status"].value_counts().items()}


def _warnings(results: Results) -> list[str]:
    finished = results.trials.finished
    if finished.empty:
        return []
    warnings = changed_datasets(results.trials.records.values())
    fewest = int(finished.groupby(["setting", "init"])["seed"].nunique().min())
    if fewest < 3:
        seeds = "one seed" if fewest == 1 else f"{fewest} seeds"
        warnings.append(
            f"Some cells have only {seeds}. Differences between cells may be chance; three seeds or more are "
            "needed for an interval that means something."
        )
    known = set(finished["init"]) | set(finished["init_kind"])
    if results.baseline not in known:
        warnings.append(
            f"No cell of the baseline {results.baseline} has finished, so no differences are given."
        )
    return warnings


def _settings(results: Results) -> dict[str, str]:
    settings = results.settings
    rows = results.similarity
    images = sorted({int(n) for n in rows["n_images"].dropna()})
    return {
        "Baseline": results.baseline,
        "Ranked by": f"test {METRIC_NAMES[results.primary]}",
        "Convergence": "; ".join(
            f"{dataset}: {results.metric} {t.value:.4f} ({t.origin})"
            for dataset, t in sorted(results.thresholds.items())
        )
        or "no threshold",
        "Probe images": (
            f"{', '.join(map(str, images)) or 'none'} of the test split (asked for {settings.probe_images})"
        ),
        "Positions per image": f"{settings.positions_per_image} of each feature map",
        "Variance kept by SVCCA": f"{settings.variance_fraction:.0%}, as squares of singular values",
        "Seed of images and positions": str(settings.seed),
    }


def _filled(table: Table) -> tuple[Table, ...]:
    return () if table.display.empty else (table,)


def _drawn(*figures: DrawnFigure | None) -> list[DrawnFigure]:
    return [figure for figure in figures if figure is not None]
