"""Figures of the trainings: learning curves, and performance and speed over transfusion depth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.convergence import Arrival, Threshold, kaplan_meier_median
from analysis.figures.style import (
    DrawnFigure,
    LineStyle,
    in_lines,
    line_styles,
    log_step_values,
    log_steps,
    panels,
    save,
    set_panel_title,
    shared_legend,
)
from analysis.numerics.statistics import summarize
from analysis.tables.table import METRIC_NAMES, metric_name


def draw_learning_curves(
    finished: pd.DataFrame,
    histories: pd.DataFrame,
    *,
    metric: str,
    inits: Sequence[str],
    thresholds: Mapping[str, Threshold],
    folder: Path,
) -> DrawnFigure | None:
    """Draw a metric over training: mean and range over seeds, one panel per setting.

    The mean is taken at the steps at which every seed of the cell was evaluated.

    Args:
        inits: all initializations of the study, in the order of the legend.
    """
    curves = histories[histories["metric"] == metric].merge(
        finished[["trial_id", "setting", "dataset", "init"]], on="trial_id"
    )
    if curves.empty:
        return None
    styles = line_styles(inits)
    name = metric_name(metric)
    title = f"{name[0].upper()}{name[1:]} during training, by initialization"
    by_setting = list(curves.groupby("setting", sort=False))
    with panels(len(by_setting), title=title) as (figure, axes):
        for axis, (setting, rows) in zip(axes[:, 0], by_setting, strict=True):
            for init in [init for init in styles if init in set(rows["init"])]:
                _draw_curve(axis, rows[rows["init"] == init], styles[init], init)
            threshold = thresholds.get(rows["dataset"].iloc[0])
            if threshold is not None:
                axis.axhline(threshold.value, color="#555555", lw=0.9, ls=(0, (2, 2)), label="threshold")
            log_steps(axis, float(rows["step"].max()))
            axis.set(ylabel=name)
            set_panel_title(axis, str(setting))
        shared_legend(figure, axes[:, 0].tolist(), inits)
        svg = save(figure, folder, f"learning_curves_{metric}")
    caption = (
        "Line: mean over seeds; band: lowest to highest seed. The step axis is logarithmic, with step 0 "
        "(before training) at its left end. Dotted: the threshold of the convergence table."
    )
    return DrawnFigure(svg, title, caption)


def _draw_curve(axis: Axes, rows: pd.DataFrame, style: LineStyle, label: str) -> None:
    by_step = rows.groupby("step")["value"].agg(["mean", "min", "max", "count"])
    by_step = by_step[by_step["count"] == rows["trial_id"].nunique()]
    axis.plot(
        by_step.index, by_step["mean"], color=style.colour, marker=style.marker, ls=style.line, label=label
    )
    axis.fill_between(by_step.index, by_step["min"], by_step["max"], color=style.colour, alpha=0.13, lw=0)


def draw_scores(
    finished: pd.DataFrame, *, metric: str, inits: Sequence[str], folder: Path
) -> DrawnFigure | None:
    """Draw a test metric of every trial by initialization, with means and t intervals, one panel per setting.

    Args:
        inits: all initializations of the study, from top to bottom.
    """
    rows = finished[finished[metric].notna()] if metric in finished else finished.iloc[:0]
    if rows.empty:
        return None
    styles, name = line_styles(inits), f"test {METRIC_NAMES[metric]}"
    title = f"{name[0].upper()}{name[1:]} by initialization"
    by_setting = list(rows.groupby("setting", sort=False))
    with panels(len(by_setting), title=title) as (figure, axes):
        for axis, (setting, of_setting) in zip(axes[:, 0], by_setting, strict=True):
            present = [init for init in inits if init in set(of_setting["init"])]
            for place, init in enumerate(present):
                values, style = of_setting[of_setting["init"] == init][metric], styles[init]
                summary = summarize(values)
                places = [place] * len(values)
                axis.plot(values, places, ls="", marker=style.marker, color=style.colour, alpha=0.7)
                axis.plot([summary.low, summary.high], [place] * 2, color="#444444", lw=1.2)
                axis.plot(summary.mean, place, marker="|", ms=13, mew=2, color="#444444")
            axis.set_yticks(range(len(present)), [in_lines(init) for init in present])
            axis.invert_yaxis()
            axis.set(xlabel=name)
            set_panel_title(axis, str(setting))
        svg = save(figure, folder, f"scores_{metric}")
    caption = (
        "Marks: trials; bar: their mean; line: its 95 % interval (Student's t), which for few seeds is wide. "
        "Trials of one seed share their batches, so the table's paired differences are sharper."
    )
    return DrawnFigure(svg, title, caption)


def draw_depth(
    finished: pd.DataFrame,
    measured: pd.DataFrame,
    *,
    primary: str,
    stages: Mapping[str, Sequence[str]],
    folder: Path,
) -> DrawnFigure | None:
    """Draw test performance and steps to the threshold over the number of transfused stages.

    Only settings that hold a transfusion are drawn: random is depth 0 and pretrained the full depth.

    Args:
        stages: names of the backbone stages by architecture.
    """
    with_depth = finished[finished["depth"].notna()].merge(
        measured[["trial_id", "steps", "reached"]], on="trial_id", how="left"
    )
    transfused = with_depth[with_depth["init_kind"] == "transfusion"]["setting"]
    by_setting = [(s, rows) for s, rows in with_depth.groupby("setting", sort=False) if s in set(transfused)]
    if not by_setting:
        return None
    title = "Weight transfusion: how many pretrained stages are needed"
    with panels(len(by_setting), rows_each=2, title=title) as (figure, axes):
        for (top, bottom), (setting, rows) in zip(axes, by_setting, strict=True):
            series = _depth_series(rows)
            styles = line_styles(list(series))
            for label, line in series.items():
                _draw_depth_metric(top, line, primary, styles[label], label)
                _draw_depth_steps(bottom, line, styles[label])
            top.set(ylabel=f"test {METRIC_NAMES[primary]}")
            set_panel_title(top, str(setting))
            if rows["steps"].notna().any():
                log_step_values(bottom, rows["steps"].dropna().tolist())
            bottom.set(ylabel="steps to threshold", xlabel="transfused up to and including")
            for axis in (top, bottom):
                _depth_ticks(axis, stages[rows["architecture"].iloc[0]])
            top.tick_params(labelbottom=False)
        shared_legend(figure, axes.ravel().tolist())
        svg = save(figure, folder, "transfusion_depth")
    caption = (
        f"Above: test {METRIC_NAMES[primary]}, mean ± standard deviation over seeds. Below: steps until the "
        "threshold; small marks are seeds, the line their Kaplan–Meier median. An open triangle is a seed "
        "that never reached the threshold, drawn at its last step."
    )
    return DrawnFigure(svg, title, caption)


def _depth_series(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split by what fills the other stages and by source; random and pretrained belong to every line."""
    transfused = rows[rows["init_kind"] == "transfusion"]
    ends = rows[rows["init_kind"] != "transfusion"]
    several_sources = transfused["source"].nunique() > 1
    series = {}
    for (rest, source), middle in transfused.groupby(["rest", "source"], sort=False):
        start = ends[ends["init_kind"] == "random"] if rest == "random" else ends.iloc[:0]
        full = ends[(ends["init_kind"] == "pretrained") & (ends["source"] == source)]
        label = f"other stages {rest}" + (f", from {source}" if several_sources else "")
        series[label] = pd.concat([start, middle, full])
    return series


def _draw_depth_metric(axis: Axes, rows: pd.DataFrame, metric: str, style: LineStyle, label: str) -> None:
    summaries = {depth: summarize(rows[rows["depth"] == depth][metric]) for depth in _depths(rows)}
    axis.errorbar(
        list(summaries),
        [summary.mean for summary in summaries.values()],
        yerr=[np.nan_to_num(summary.sd) for summary in summaries.values()],
        color=style.colour,
        marker=style.marker,
        ls=style.line,
        capsize=3,
        label=label,
    )


def _draw_depth_steps(axis: Axes, rows: pd.DataFrame, style: LineStyle) -> None:
    rows = rows[rows["steps"].notna()]
    medians: dict[float, float] = {}
    for depth in _depths(rows):
        cell = rows[rows["depth"] == depth]
        arrivals = [Arrival(int(s), bool(r)) for s, r in zip(cell["steps"], cell["reached"], strict=True)]
        median = kaplan_meier_median(arrivals)
        medians[depth] = np.nan if median is None else median
        offsets = np.linspace(-0.12, 0.12, len(arrivals)) if len(arrivals) > 1 else [0.0]
        for offset, came in zip(offsets, arrivals, strict=True):
            axis.plot(
                depth + offset,
                came.step,
                marker="o" if came.reached else "^",
                ms=3.5 if came.reached else 6,
                mfc=style.colour if came.reached else "white",
                mec=style.colour,
                alpha=0.55 if came.reached else 1,
                ls="",
                label=None if came.reached else "threshold not reached",
            )
    axis.plot(list(medians), list(medians.values()), color=style.colour, marker=style.marker, ls=style.line)


def _depths(rows: pd.DataFrame) -> list[float]:
    return sorted(map(float, set(rows["depth"])))


def _depth_ticks(axis: Axes, stages: Sequence[str]) -> None:
    labels = ["none\n(random)", *stages[:-1], f"{stages[-1]}\n(pretrained)"]
    axis.set_xticks(range(len(labels)), labels)
    axis.set_xlim(-0.35, len(stages) + 0.35)
