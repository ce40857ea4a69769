"""Every figure of a study, by the name of its group."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from analysis.figures.explanations import draw_activations, draw_explanations, draw_randomisation
from analysis.figures.mistakes import draw_confusions, draw_errors
from analysis.figures.relations import draw_differences, draw_effects, draw_source_target
from analysis.figures.representations import draw_along_training, draw_stage_maps, draw_start_and_end
from analysis.figures.searches import draw_search_history, draw_slices
from analysis.figures.similarity import draw_before_after, draw_pairs
from analysis.figures.style import DrawnFigure
from analysis.figures.training import draw_depth, draw_learning_curves, draw_scores
from analysis.figures.weights import (
    draw_filter_cosines,
    draw_filters,
    draw_loss_lines,
    draw_weight_change,
)
from analysis.report.plots import learning_curve_plot, score_plot, stage_plot
from analysis.results import Results
from analysis.sources import SOURCE_NAME
from analysis.tables.table import MEASURE_NAMES, METRIC_NAMES, Table
from trainables.architectures.reshaping import architecture_of

MAIN_MEASURE = "svcca"
SECOND_MEASURE = "linear_cka"

Figures = Mapping[str, list[DrawnFigure]]


def draw_figures(results: Results, tables: Mapping[str, Table], *, run_address: str, folder: Path) -> Figures:
    """Draw what there is to draw; a group without anything is an empty list.

    Args:
        run_address: see `analysis.results.StudyFacts`.
    """
    return {
        **_of_statistics(results, tables, folder),
        "scores": _drawn(_scores(results, run_address, folder)),
        "curves": _drawn(_curves(results, folder)),
        "depth": _drawn(_depth(results, folder)),
        **{f"similarity_{measure}": _similarity(results, measure, folder) for measure in MEASURE_NAMES},
        "stage_maps": _drawn(
            *(
                draw_stage_maps(results.similarity, measure=measure, folder=folder)
                for measure in (MAIN_MEASURE, SECOND_MEASURE)
            )
        ),
        "start_and_end": _drawn(draw_start_and_end(results.similarity, measure=MAIN_MEASURE, folder=folder)),
        "along_training": _drawn(
            draw_along_training(
                results.similarity, measure=MAIN_MEASURE, inits=results.trials.inits, folder=folder
            )
        ),
        **_of_searches(results, folder),
        **_of_weights(results, folder),
        **_of_mistakes(results, folder),
        **_of_explanations(results, folder),
    }


def _of_statistics(
    results: Results, tables: Mapping[str, Table], folder: Path
) -> dict[str, list[DrawnFigure]]:
    inits, sources = results.trials.inits, None
    if "source_and_target" in tables and not results.source_points.empty:
        sources = draw_source_target(
            results.source_points, metric=results.primary, source_name=SOURCE_NAME, folder=folder
        )
    return {
        "differences": _drawn(draw_differences(tables["differences"].data, inits=inits, folder=folder)),
        "effects": _drawn(
            draw_effects(tables["effects"].data, folder=folder) if "effects" in tables else None
        ),
        "source_and_target": _drawn(sources),
    }


def _of_searches(results: Results, folder: Path) -> dict[str, list[DrawnFigure]]:
    searches, inits = results.trials.searches, results.trials.inits
    settings = dict.fromkeys(setting for setting, _ in searches)
    slices = [
        draw_slices(
            {init: facts for (of, init), facts in searches.items() if of == setting},
            setting=setting,
            inits=inits,
            folder=folder,
            name=f"slices_{place}",
        )
        for place, setting in enumerate(settings)
    ]
    history = draw_search_history(searches, inits=inits, folder=folder)
    return {"slices": _drawn(*slices), "search_history": _drawn(history)}


def _of_weights(results: Results, folder: Path) -> dict[str, list[DrawnFigure]]:
    weights, inits = results.weights, results.trials.inits
    return {
        "weight_change": _drawn(draw_weight_change(weights.changes, inits=inits, folder=folder)),
        "filters": _drawn(
            draw_filters(weights.shown, folder=folder),
            draw_filter_cosines(weights.filters, inits=inits, folder=folder),
        ),
        "loss_lines": _drawn(draw_loss_lines(weights.points, inits=inits, folder=folder)),
    }


def _of_mistakes(results: Results, folder: Path) -> dict[str, list[DrawnFigure]]:
    found = results.predictions
    errors, confusions = [], []
    for number, one in enumerate(found.mistakes):
        pictures = found.pictures.get(one.setting, {})
        setting, name = one.setting, f"errors_{number}"
        errors.append(draw_errors(one.errors, pictures, setting=setting, folder=folder, name=name))
        name = f"confusion_{number}"
        confusions.append(draw_confusions(one.confusions, setting=setting, folder=folder, name=name))
    return {"errors": _drawn(*errors), "confusions": _drawn(*confusions)}


def _of_explanations(results: Results, folder: Path) -> dict[str, list[DrawnFigure]]:
    panels, layers = [], []
    for number, one in enumerate(results.explanations.explained):
        panels.append(
            draw_explanations(one.images, folder=folder, setting=one.setting, name=f"explanations_{number}")
        )
        images, layer = one.images.images, one.first_layer
        layers.append(
            draw_activations(images, layer, folder=folder, setting=one.setting, name=f"first_layer_{number}")
        )
    checks = {
        f"{setting} · {init}": rows
        for (setting, init), rows in results.explanations.checks.groupby(["setting", "init"], sort=False)
    }
    return {
        "explanations": panels,
        "first_layer": layers,
        "randomisation": [draw_randomisation(checks, folder=folder)] if checks else [],
    }


def _scores(results: Results, run_address: str, folder: Path) -> DrawnFigure | None:
    finished, inits, metric = results.trials.finished, results.trials.inits, results.primary
    figure = draw_scores(finished, metric=metric, inits=inits, folder=folder)
    records = results.trials.records
    links = {key: run_address.format(run_id=records[key].run_id) for key in records} if run_address else {}
    name = f"test {METRIC_NAMES[metric]}"
    return figure and replace(
        figure, plot=score_plot(finished, metric=metric, inits=inits, name=name, links=links)
    )


def _curves(results: Results, folder: Path) -> DrawnFigure | None:
    finished, inits, metric = results.trials.finished, results.trials.inits, results.metric
    figure = draw_learning_curves(
        finished,
        results.histories,
        metric=metric,
        inits=inits,
        thresholds=results.thresholds,
        folder=folder,
    )
    of_metric = results.histories[results.histories["metric"] == metric]
    curves = of_metric.merge(finished[["trial_id", "setting", "init"]], on="trial_id")
    return figure and replace(figure, plot=learning_curve_plot(curves, inits=inits, name=metric))


def _depth(results: Results, folder: Path) -> DrawnFigure | None:
    shapes = [record.spec.architecture for record in results.trials.records.values()]
    stages = {shape.label: architecture_of(shape).backbone for shape in shapes}
    return draw_depth(
        results.trials.finished, results.convergence, primary=results.primary, stages=stages, folder=folder
    )


def _similarity(results: Results, measure: str, folder: Path) -> list[DrawnFigure]:
    inits = results.trials.inits
    before = draw_before_after(results.similarity, measure=measure, inits=inits, folder=folder)
    if before is not None and measure == MAIN_MEASURE:
        name = MEASURE_NAMES[measure]
        before = replace(before, plot=stage_plot(results.similarity, measure=measure, inits=inits, name=name))
    return _drawn(before, draw_pairs(results.similarity, measure=measure, folder=folder))


def _drawn(*figures: DrawnFigure | None) -> list[DrawnFigure]:
    return [figure for figure in figures if figure is not None]
