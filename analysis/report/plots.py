"""Plots one can ask: values under the pointer, lines that hide at a click on the legend.

Each is the JSON of a Bokeh layout, which the page shows in the place of the static figure of the same
content; paper and browsers without scripts get the figure.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from bokeh.embed import json_item
from bokeh.layouts import gridplot
from bokeh.models import ColumnDataSource, HoverTool, OpenURL, TapTool
from bokeh.plotting import figure

from analysis.figures.style import LineStyle, line_styles
from analysis.networks.comparisons import BEFORE_AFTER, TOP_TWO
from analysis.numerics.statistics import summarize

WIDTH, HEIGHT, COLUMNS = 560, 340, 2
TOOLS = "pan,wheel_zoom,box_zoom,reset,save"
_OBJECT_ID = re.compile(r'"p\d+"')
_DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
_MARKERS = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "v": "inverted_triangle"}


def learning_curve_plot(curves: pd.DataFrame, *, inits: Sequence[str], name: str) -> str:
    """Draw the mean over seeds with the range of the seeds, one panel per setting.

    Args:
        curves: setting, init, trial_id, step, value of one metric.
        name: of the metric, for people.
    """
    styles = line_styles(inits)
    panels = []
    for setting, rows in curves.groupby("setting", sort=False):
        panel = _panel(str(setting), "optimizer steps + 1", name, x_axis_type="log")
        for place, init in enumerate(i for i in inits if i in set(rows["init"])):
            _add_curve(panel, rows[rows["init"] == init], init, styles[init], place)
        panel.add_tools(_hover("init", "step", "mean", "low", "high", "seeds"))
        panels.append(_finished(panel))
    return _json(panels, "curves")


def _add_curve(panel: Any, rows: pd.DataFrame, init: str, style: LineStyle, place: int) -> None:
    by_step = rows.groupby("step")["value"].agg(["mean", "min", "max", "count"]).reset_index()
    by_step = by_step[by_step["count"] == rows["trial_id"].nunique()]
    source = _source(
        x=by_step["step"] + 1,
        step=by_step["step"],
        mean=by_step["mean"],
        low=by_step["min"],
        high=by_step["max"],
        seeds=by_step["count"],
        init=[init] * len(by_step),
    )
    look = {"color": style.colour, "legend_label": init, "source": source}
    panel.varea("x", "low", "high", source=source, color=style.colour, alpha=0.12, legend_label=init)
    panel.line("x", "mean", line_width=2, line_dash=_DASHES[place % len(_DASHES)], **look)
    panel.scatter("x", "mean", size=6, marker=_MARKERS.get(style.marker, "circle"), **look)


def score_plot(
    finished: pd.DataFrame, *, metric: str, inits: Sequence[str], name: str, links: Mapping[str, str]
) -> str:
    """Draw the test score of every trial by initialization, with the mean and its 95 % t interval.

    Args:
        links: address of each trial's run, by trial id; a click on its mark opens it.
    """
    styles = line_styles(inits)
    panels = []
    for setting, rows in finished.groupby("setting", sort=False):
        rows = rows[rows[metric].notna()]
        present = [init for init in inits if init in set(rows["init"])]
        if not present:
            continue
        panel = _panel(str(setting), name, None, y_range=list(reversed(present)))
        renderers = []
        for init in present:
            of_cell = rows[rows["init"] == init]
            summary = summarize(of_cell[metric])
            panel.segment([summary.low], [init], [summary.high], [init], color="#444444", line_width=2)
            panel.scatter([summary.mean], [init], marker="diamond", size=13, color="#444444")
            source = _source(
                value=of_cell[metric],
                init=of_cell["init"],
                seed=of_cell["seed"],
                trial=of_cell["trial_id"],
                link=[links.get(key, "") for key in of_cell["trial_id"]],
            )
            marks = panel.scatter(
                "value", "init", source=source, size=9, alpha=0.75, color=styles[init].colour
            )
            renderers.append(marks)
        panel.add_tools(_hover("init", "seed", "value", "trial", renderers=renderers))
        if links:
            panel.add_tools(TapTool(callback=OpenURL(url="@link"), renderers=renderers))
        panels.append(panel)
    return _json(panels, "scores")


def stage_plot(similarity: pd.DataFrame, *, measure: str, inits: Sequence[str], name: str) -> str:
    """Draw how alike networks are to their own initialization, stage by stage, with the noise floor."""
    rows = similarity[
        (similarity["kind"] == BEFORE_AFTER)
        & (similarity["measure"] == measure)
        & (similarity["stage"] != TOP_TWO)
        & similarity["value"].notna()
    ]
    styles = line_styles(inits)
    panels = []
    for setting, of_setting in rows.groupby("setting", sort=False):
        stages = list(dict.fromkeys(of_setting["stage"]))
        panel = _panel(str(setting), None, name, x_range=stages, y_range=(0, 1.03))
        for place, init in enumerate(i for i in inits if i in set(of_setting["init_x"])):
            of_init = of_setting[of_setting["init_x"] == init]
            means = of_init.groupby("stage", sort=False)[["value", "noise_floor"]].mean()
            source = _source(
                stage=means.index,
                mean=means["value"],
                floor=means["noise_floor"],
                init=[init] * len(means),
            )
            look = {"color": styles[init].colour, "legend_label": init, "source": source}
            panel.line("stage", "mean", line_width=2, line_dash=_DASHES[place % len(_DASHES)], **look)
            panel.scatter("stage", "mean", size=7, **look)
        panel.add_tools(_hover("init", "stage", "mean", "floor"))
        panels.append(_finished(panel))
    return _json(panels, "stages")


def _source(**columns: Any) -> ColumnDataSource:
    # As lists: arrays would be compressed, and the result would differ from run to run.
    return ColumnDataSource({name: list(values) for name, values in columns.items()})


def _panel(title: str, x: str | None, y: str | None, **options: Any) -> Any:
    panel = figure(title=title, width=WIDTH, height=HEIGHT, tools=TOOLS, **options)
    panel.xaxis.axis_label, panel.yaxis.axis_label = x, y
    panel.toolbar.logo = None
    return panel


def _finished(panel: Any) -> Any:
    if panel.legend:
        panel.legend.click_policy = "hide"
        panel.legend.label_text_font_size = "8pt"
        panel.legend.spacing, panel.legend.padding, panel.legend.background_fill_alpha = 0, 4, 0.7
        panel.add_layout(panel.legend[0], "right")
    return panel


def _hover(*columns: str, renderers: Any = "auto") -> HoverTool:
    return HoverTool(tooltips=[(column, f"@{column}") for column in columns], renderers=renderers)


def _json(panels: Sequence[Any], name: str) -> str:
    if not panels:
        return ""
    text = json.dumps(json_item(gridplot(list(panels), ncols=COLUMNS, merge_tools=True)))
    # Bokeh numbers its objects through the life of the process; equal plots shall give equal pages.
    ids = dict.fromkeys(_OBJECT_ID.findall(text))
    numbers = {found: f'"{name}-{place}"' for place, found in enumerate(ids)}
    return _OBJECT_ID.sub(lambda match: numbers[match.group()], text)
