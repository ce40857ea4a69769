"""What goes into the report: a page per question, with what answers it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from analysis.figures.style import DrawnFigure
from analysis.load import StudyTrials
from analysis.papers.evidence import Evidence
from analysis.papers.table import papers_table
from analysis.report.drawing import MAIN_MEASURE, Figures
from analysis.report.findings import Finding, find
from analysis.report.page import Page, Report, Section
from analysis.results import Results, StudyFacts
from analysis.searches import Searches
from analysis.sources import SOURCE_NAME, source_accuracies
from analysis.tables.convergence import convergence_table, marginal_gain_table
from analysis.tables.differences import differences_table
from analysis.tables.effects import effects_table, interaction_table
from analysis.tables.efficiency import efficiency_table
from analysis.tables.explanations import randomisation_table
from analysis.tables.families import architecture_points, explained_table, family_table
from analysis.tables.inventory import PlannedCell, missing_table, sources_table, trials_table
from analysis.tables.mistakes import disagreement_table, errors_table
from analysis.tables.performance import class_table, performance_table
from analysis.tables.relations import boost_points, boost_size_table, source_target_table
from analysis.tables.resampled import uncertainty_table
from analysis.tables.searches import searches_table
from analysis.tables.similarity import similarity_table, stage_map_table, start_and_end_table
from analysis.tables.table import CLASS_METRICS, MEASURE_NAMES, METRIC_NAMES, Table
from analysis.tables.weights import (
    checkpoint_ensemble_table,
    conv1_table,
    loss_line_table,
    weight_change_table,
)
from trainables.record import changed_datasets

_NONE_FINISHED = "No trial has finished yet."
_NO_TRIAL = "The study has no trial yet."
_NOTHING_MISSING = "Nothing: every planned cell is here, and every comparison could be made."
_NOT_COMPARED = "No two networks could be compared; the page on trials says why."

FOLDED_MEASURES = ("linear_cka", "debiased_cka", "pwcca")
"""Whose figures the page holds too; those of the others lie in the folder of figures."""

Tables = Mapping[str, Table]


def build_tables(results: Results, study: StudyFacts) -> Tables:
    """Return every table by its name; some may be empty."""
    finished, primary, baseline = results.trials.finished, results.primary, results.options.baseline
    name, searches = f"test {METRIC_NAMES[primary]}", results.trials.searches
    tables = (
        performance_table(finished, baseline=baseline, primary=primary, searches=searches),
        *(class_table(finished, metric) for metric in CLASS_METRICS),
        convergence_table(finished, results.convergence, results.thresholds, metric=results.metric),
        marginal_gain_table(finished, results.convergence, primary=primary, name=name),
        similarity_table(results.similarity),
        stage_map_table(results.similarity),
        start_and_end_table(results.similarity, measure=MAIN_MEASURE),
        *_tables_of_statistics(results),
        *_tables_of_relations(results),
        *_tables_of_networks(results),
        searches_table(searches, optuna_file=study.optuna_file),
        papers_table(_evidence(results)),
        sources_table(results.trials.table),
        missing_table(
            results.trials.table,
            study.planned,
            results.similarity,
            problems=results.problems,
            searches=searches,
        ),
        trials_table(results.trials.table, results.trials.records, run_address=study.run_address),
    )
    return {table.name: table for table in tables}


def _tables_of_statistics(results: Results) -> tuple[Table, ...]:
    finished, primary, options = results.trials.finished, results.primary, results.options
    return (
        differences_table(finished, baseline=options.baseline, metric=primary),
        uncertainty_table(
            results.predictions.resampled,
            baseline=options.baseline,
            n_replicates=options.bootstrap_replicates,
        ),
        *(
            (effects_table(finished, metric=primary), interaction_table(finished, metric=primary))
            if not finished.empty
            else ()
        ),
        errors_table(results.predictions.mistakes),
        disagreement_table(results.predictions.mistakes),
    )


def _tables_of_relations(results: Results) -> tuple[Table, ...]:
    finished, primary = results.trials.finished, results.primary
    families = dict(zip(finished["architecture"], finished["family"], strict=True))
    architectures = architecture_points(finished, metric=primary, family=lambda name: families[name])
    boosts = boost_points(finished, baseline=results.options.baseline, metric=primary)
    points = results.source_points
    return (
        efficiency_table(finished, metric=primary),
        source_target_table(points, metric=primary, source_name=SOURCE_NAME),
        boost_size_table(boosts, metric=primary, baseline=results.options.baseline),
        family_table(architectures, metric=primary),
        explained_table(architectures, metric=primary),
    )


def _evidence(results: Results) -> Evidence:
    finished = results.trials.finished
    areas = results.convergence[["trial_id", "curve_area"]]
    return Evidence(
        finished=finished,
        trained=finished.merge(areas, on="trial_id", how="inner"),
        similarity=results.similarity,
        source_accuracies=source_accuracies(results.trials.records),
        primary=results.primary,
        metric=results.metric,
    )


def _tables_of_networks(results: Results) -> tuple[Table, ...]:
    weights = results.weights
    return (
        weight_change_table(weights.changes),
        conv1_table(weights.filters),
        loss_line_table(weights.lines),
        checkpoint_ensemble_table(weights.ensembles, missing=weights.without_ensemble),
        randomisation_table(results.explanations.checks),
    )


def build_report(results: Results, tables: Tables, figures: Figures, *, study: StudyFacts) -> Report:
    """Put the pages together."""
    findings = find(
        results.trials.finished,
        tables["convergence"].data,
        results.similarity,
        primary=results.primary,
        baseline=results.options.baseline,
    )
    return Report(
        study=study.name,
        question=study.question,
        generated=f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        counts=_counts(results.trials, study.planned),
        findings=findings,
        findings_note=(
            "Intervals are Student's t over paired seeds, each for one comparison. The best initialization "
            "was picked after seeing all of them, which its interval does not account for."
        ),
        pages=_pages(results, tables, figures, findings),
        settings=_settings(results),
        study_file=study.file,
        warnings=_warnings(results),
    )


def _pages(results: Results, tables: Tables, figures: Figures, findings: Sequence[Finding]) -> list[Page]:
    def answers(topic: str) -> list[Finding]:
        return [finding for finding in findings if finding.topic == topic]

    return [
        Page(
            "performance",
            "Performance",
            "Does the initialization change the final score?",
            _performance(tables, figures),
            answers("performance"),
        ),
        *_search_page(tables, figures),
        Page(
            "convergence",
            "Convergence",
            "Does it change how soon the score is reached?",
            _convergence(tables, figures),
            answers("speed"),
        ),
        Page(
            "depth",
            "Transfusion depth",
            "How many pretrained stages are needed?",
            (
                _section(
                    "",
                    [tables["marginal_gain"]],
                    figures["depth"],
                    empty="The study has no finished transfusion.",
                ),
            ),
        ),
        Page(
            "similarity",
            "Similarity of representations",
            "Do networks from different starts end alike?",
            _representations(results, tables, figures),
            [*answers("similarity"), *answers("change")],
        ),
        Page(
            "relations",
            "Networks",
            "Does a better source, another family or a larger network transfer better?",
            _relations(tables, figures),
        ),
        Page(
            "weights",
            "Weights",
            "What does training change in the weights?",
            _weights(results, tables, figures),
        ),
        Page(
            "explanations",
            "Explanations",
            "Where do the networks look?",
            _explanations(results, tables, figures),
        ),
        Page(
            "mistakes",
            "Mistakes",
            "On which images are they wrong, and which labels are doubtful?",
            _mistakes(results, tables, figures),
        ),
        Page(
            "papers",
            "Papers",
            "Which findings of the papers reappear here?",
            (_section("", [tables["papers"]], ()),),
        ),
        Page(
            "trials",
            "Trials",
            "What ran, what it started from, and what is missing?",
            _trials(results, tables),
        ),
    ]


def _search_page(tables: Tables, figures: Figures) -> list[Page]:
    if tables["searches"].display.empty:
        return []
    sections = (
        _section("Searches", [tables["searches"]], ()),
        _section("Values over the fields", (), figures["slices"]),
        _section("What more settings gave", (), figures["search_history"]),
    )
    return [Page("search", "Search", "Was each cell compared at its own best settings?", sections)]


def _performance(tables: Tables, figures: Figures) -> tuple[Section, ...]:
    by_class = [tables[f"{metric}_by_class"] for metric in CLASS_METRICS]
    return (
        _section("Performance", [tables["performance"]], figures["scores"], empty=_NONE_FINISHED),
        _section("Differences to the baseline", [tables["differences"]], figures["differences"]),
        _section("Uncertainty of the test split", [tables["uncertainty"]], ()),
        _section("Effects", _some(tables, "effects", "interactions"), figures["effects"]),
        _section("Ensembles of checkpoints", (), (), folded=[tables["checkpoint_ensembles"]]),
        _section("Single classes", by_class, ()),
    )


def _convergence(tables: Tables, figures: Figures) -> tuple[Section, ...]:
    return (
        _section("Convergence", [tables["convergence"]], (), empty=_NONE_FINISHED),
        _section("Learning curves", (), figures["curves"], empty=_NONE_FINISHED),
    )


def _representations(results: Results, tables: Tables, figures: Figures) -> tuple[Section, ...]:
    folded: list[tuple[str, Sequence[Table], Sequence[DrawnFigure]]] = [
        (f"The same figures by {MEASURE_NAMES[measure]}", (), drawn)
        for measure in FOLDED_MEASURES
        if (drawn := figures[f"similarity_{measure}"])
    ]
    if not tables["similarity"].display.empty:
        rows = len(tables["similarity"].display)
        folded.append((f"All numbers ({rows} rows)", (tables["similarity"],), []))
    main = Section(
        empty=_empty(results, "similarity", _NOT_COMPARED),
        figures=figures[f"similarity_{MAIN_MEASURE}"],
        folded=folded,
    )
    return (
        main,
        _section("Before and after", [tables["start_and_end"]], figures["start_and_end"]),
        _section("Stage by stage", (), figures["stage_maps"], folded=[tables["stage_maps"]]),
        _section("Along the training", (), figures["along_training"]),
    )


def _relations(tables: Tables, figures: Figures) -> tuple[Section, ...]:
    names = ("source_and_target", "boost_and_size", "families", "family_or_size")
    return (
        _section("Parameter efficiency", _some(tables, "efficiency"), (), empty=_NONE_FINISHED),
        _section("Source, family and size", _some(tables, *names), figures["source_and_target"]),
    )


def _some(tables: Tables, *names: str) -> list[Table]:
    return [tables[name] for name in names if name in tables]


def _weights(results: Results, tables: Tables, figures: Figures) -> tuple[Section, ...]:
    return (
        _section(
            "Distance from the start",
            (),
            figures["weight_change"],
            empty=_empty(
                results, "weights", "No network's weights could be compared with its initialization."
            ),
            folded=[tables["weight_change"]],
        ),
        _section("First layer", [tables["conv1_change"]], figures["filters"]),
        _section("Loss along lines", [tables["loss_lines"]], figures["loss_lines"]),
    )


def _explanations(results: Results, tables: Tables, figures: Figures) -> tuple[Section, ...]:
    return (
        _section(
            "Maps",
            (),
            figures["explanations"],
            empty=_empty(results, "saliency", "No prediction was explained."),
        ),
        _section("First layer", (), figures["first_layer"]),
        _section("Can they be trusted?", [tables["explanations_randomised"]], figures["randomisation"]),
    )


def _mistakes(results: Results, tables: Tables, figures: Figures) -> tuple[Section, ...]:
    return (
        _section(
            "Sure and wrong",
            (),
            figures["errors"],
            empty=_empty(results, "tables", "There are no predictions, or none is wrong."),
            folded=[tables["confident_errors"]],
        ),
        _section("Disagreements", [tables["disagreements"]], ()),
        _section("Confusion", (), figures["confusions"]),
    )


def _trials(results: Results, tables: Tables) -> tuple[Section, ...]:
    nothing = _NO_TRIAL if results.trials.table.empty else _NOTHING_MISSING
    if results.not_computed:
        nothing = "Only a part of the analysis was asked for; the first page says what is not shown."
    return (
        _section("What is missing", [tables["missing"]], (), empty=nothing),
        _section("Source trainings", [tables["sources"]], (), empty="No source was trained here."),
        _section("All trials", [tables["all_trials"]], (), empty=_NO_TRIAL),
    )


def _empty(results: Results, part: str, text: str) -> str:
    """Say why there is nothing: because it was not asked for, or what else the text says."""
    if part in results.not_computed:
        return f"Not computed: analyze without --only, or with --only {part}."
    return text


def _section(
    title: str,
    tables: Sequence[Table],
    figures: Sequence[DrawnFigure],
    *,
    empty: str = "",
    folded: Sequence[Table] = (),
) -> Section:
    return Section(
        title,
        empty=empty,
        tables=[table for table in tables if not table.display.empty],
        figures=figures,
        folded=[
            (f"{table.title} ({len(table.display)} rows)", (table,), ())
            for table in folded
            if not table.display.empty
        ],
    )


def _counts(trials: StudyTrials, planned: Sequence[PlannedCell]) -> dict[str, int]:
    if planned:
        return dict(Counter(str(cell.state) for cell in planned))
    return {str(state): n for state, n in trials.table["status"].value_counts().items()}


def _warnings(results: Results) -> list[str]:
    finished, baseline = results.trials.finished, results.options.baseline
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
    if baseline not in known:
        warnings.append(f"No cell of the baseline {baseline} has finished, so no differences are given.")
    warnings += _edge_warnings(results.trials.searches)
    for part, n_left in results.not_computed.items():
        warnings.append(
            f"{n_left} pieces of the part “{part}” were not asked for and are not shown: analyze without "
            f"--only, or with --only {part}."
        )
    return warnings


def _edge_warnings(searches: Searches) -> list[str]:
    """Name the cells whose best setting lies at the edge of what was searched, by field."""
    cells: dict[str, list[str]] = {}
    for facts in searches.values():
        for name in facts.edges:
            cells.setdefault(name, []).append(facts.label)
    return [
        f"The best {name} lies at the edge of its range in {'; '.join(labels)}: a better one may lie beyond. "
        "Widen the range in search.space."
        for name, labels in cells.items()
    ]


def _settings(results: Results) -> dict[str, str]:
    settings = results.options.similarity
    rows = results.similarity
    images = sorted({int(n) for n in rows["n_images"].dropna()})
    readings = {"squares": "squares of singular values", "singular_values": "plain sums of singular values"}
    return {
        "Baseline": results.options.baseline,
        "Ranked by": f"test {METRIC_NAMES[results.primary]}",
        "Convergence": "; ".join(
            f"{dataset}: {results.metric} {t.value:.4f} ({t.origin})"
            for dataset, t in sorted(results.thresholds.items())
        )
        or "no threshold",
        "Probe images": (
            f"{', '.join(map(str, images)) or 'none'} of the test split (asked for {settings.probe_images})"
        ),
        "Samples": f"{settings.samples}, {settings.positions_per_image} positions of each feature map",
        "Variance kept by SVCCA": (
            f"{settings.variance_fraction:.0%}, as {readings[settings.variance_reading]}"
        ),
        "Seed of images and positions": str(settings.seed),
    }
