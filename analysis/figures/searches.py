"""Figures of searches: the value of each setting over each field, and the best so far."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import (
    DrawnFigure,
    LineStyle,
    line_styles,
    panels,
    save,
    set_panel_title,
    shared_legend,
)
from analysis.searches import DONE, PRUNED, SearchedField, Searches, SearchFacts
from analysis.tables.table import metric_name

STOPPED, BEST = "stopped early", "best of its cell"
NEUTRAL = "#444444"


def draw_slices(
    searches: Mapping[str, SearchFacts], *, setting: str, inits: Sequence[str], folder: Path, name: str
) -> DrawnFigure | None:
    """Draw the value of every setting over each field, a panel per field.

    Args:
        searches: of the cells of one setting, by initialization.
        inits: all initializations of the study, for their colours.
        name: of the files.
    """
    shown = {init: rows for init, facts in searches.items() if not (rows := _drawable(facts)).empty}
    if not shown:
        return None
    facts = next(iter(searches.values()))
    title = f"{setting}: {metric_name(facts.metric)} over what was searched"
    styles = _styles(inits, shown)
    with panels(len(facts.fields), title=title) as (figure, axes):
        for axis, (field_name, field) in zip(axes[:, 0], facts.fields.items(), strict=True):
            for place, init in enumerate(shown):
                offset = 0.4 * ((place + 0.5) / len(shown) - 0.5)
                rows = shown[init].assign(x=_positions(field, shown[init][field_name], offset))
                _draw_settings(axis, rows, styles[init], init, best=searches[init].best)
            _field_axis(axis, field)
            axis.set(xlabel=facts.names[field_name], ylabel=metric_name(facts.metric))
            set_panel_title(axis, field_name)
        _explain_marks(axes[0, 0])
        shared_legend(figure, axes[:, 0].tolist(), list(shown))
        svg = save(figure, folder, name)
    caption = (
        "Marks: settings, at the value of their best evaluation; those of one panel differ in the other "
        "fields too. Hollow: stopped early, at the value of the last rung they passed. Star: what the cell "
        "is compared with. Grey lines: the ends of a range; a best value there asks for a wider one."
    )
    return DrawnFigure(svg, title, caption)


def draw_search_history(searches: Searches, *, inits: Sequence[str], folder: Path) -> DrawnFigure | None:
    """Draw the best value so far over the number of settings that were drawn, a panel per setting.

    Args:
        inits: all initializations of the study, for their colours.
    """
    shown = {cell: facts for cell, facts in searches.items() if facts.count(DONE)}
    if not shown:
        return None
    first = next(iter(shown.values()))
    name = metric_name(first.metric)
    title = f"Best {name} by the number of settings tried"
    styles = _styles(inits, {init: None for _, init in shown})
    settings = list(dict.fromkeys(setting for setting, _ in shown))
    with panels(len(settings), title=title) as (figure, axes):
        for axis, setting in zip(axes[:, 0], settings, strict=True):
            for (_, init), facts in ((cell, f) for cell, f in shown.items() if cell[0] == setting):
                _draw_history(axis, facts, styles[init], init)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set(xlabel="settings drawn", ylabel=name)
            set_panel_title(axis, setting)
        shared_legend(figure, axes[:, 0].tolist(), list(styles))
        svg = save(figure, folder, "search_history")
    caption = (
        "Line: the best value among the settings drawn so far; marks: the settings that came to their end. "
        "Where a line still improves at its right end, more settings may find better ones."
    )
    return DrawnFigure(svg, title, caption)


def _styles(inits: Sequence[str], shown: Mapping[str, object]) -> dict[str, LineStyle]:
    return line_styles([*inits, *(init for init in shown if init not in inits)])


def _drawable(facts: SearchFacts) -> pd.DataFrame:
    """Return the settings that have a value, in the column y: their own, or that of their last rung."""
    tried = facts.tried
    rows = tried[tried["state"].isin([DONE, PRUNED])]
    rows = rows.assign(y=rows["value"].where(rows["state"] == DONE, rows["rung_value"]))
    return rows[np.isfinite(rows["y"])]


def _positions(field: SearchedField, values: pd.Series, offset: float) -> list[float]:
    """Return where values lie on the axis; of choices beside each other, by initialization."""
    if field.choices:
        return [field.choices.index(value) + offset for value in values]
    return [float(value) for value in values]


def _draw_settings(axis: Axes, rows: pd.DataFrame, style: LineStyle, label: str, *, best: int | None) -> None:
    done = rows[rows["state"] == DONE]
    stopped = rows[rows["state"] == PRUNED]
    for part, fill, alpha, name in ((done, style.colour, 0.75, label), (stopped, "none", 1.0, None)):
        axis.plot(
            part["x"], part["y"], ls="", marker=style.marker, mec=style.colour, mfc=fill, ms=5.5, alpha=alpha,
            label=name,
        )  # fmt: skip
    chosen = done[done["number"] == best]
    axis.plot(
        chosen["x"], chosen["y"], ls="", marker="*", ms=15, mfc=style.colour, mec="white", mew=1, zorder=3
    )


def _field_axis(axis: Axes, field: SearchedField) -> None:
    if field.choices:
        axis.set_xticks(range(len(field.choices)), field.choices)
        axis.set_xlim(-0.6, len(field.choices) - 0.4)
        return
    if field.is_log:
        axis.set_xscale("log")
        margin = (field.high / field.low) ** 0.03
        axis.set_xlim(field.low / margin, field.high * margin)
    else:
        margin = 0.03 * (field.high - field.low)
        axis.set_xlim(field.low - margin, field.high + margin)
        axis.xaxis.set_major_locator(MaxNLocator(integer=field.is_whole))
    for end in (field.low, field.high):
        axis.axvline(end, color="#BBBBBB", lw=0.8, zorder=1)


def _explain_marks(axis: Axes) -> None:
    axis.plot([], [], ls="", marker="o", mfc="none", mec=NEUTRAL, mew=1.2, ms=5.5, label=STOPPED)
    axis.plot([], [], ls="", marker="*", mfc=NEUTRAL, mec="white", ms=15, label=BEST)


def _draw_history(axis: Axes, facts: SearchFacts, style: LineStyle, label: str) -> None:
    rows = facts.tried.sort_values("number", kind="stable")
    so_far = rows["value"].cummax() if facts.rises else rows["value"].cummin()
    n_drawn = np.arange(1, len(rows) + 1)
    axis.plot(n_drawn, so_far.ffill(), color=style.colour, ls=style.line, drawstyle="steps-post", label=label)
    axis.plot(n_drawn, rows["value"], ls="", marker=style.marker, color=style.colour, ms=3.5, alpha=0.6)
