"""Figures of what goes with good transfer: sources, differences to the baseline, effects of factors."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    NAME_CHARACTERS,
    DrawnFigure,
    LineStyle,
    in_lines,
    line_styles,
    panels,
    save,
    set_panel_title,
    shared_legend,
)
from analysis.numerics.correlation import spearman
from analysis.tables.differences import RESOLVED
from analysis.tables.effects import factor_name
from analysis.tables.relations import WITH, WITHOUT, correlation_text
from analysis.tables.table import METRIC_NAMES

ROW_HEIGHT_IN = 0.26
# Of a panel without its labels, and of a character of these.
LEAST_WIDTH_IN, CHARACTER_IN = 2.2, 0.075
MOST_NAMED_POINTS = 20


def draw_source_target(
    points: pd.DataFrame, *, metric: str, source_name: str, folder: Path
) -> DrawnFigure | None:
    """Scatter target over source performance, a panel per dataset; Spearman's correlations in the caption.

    Args:
        points: of analysis.tables.relations.source_points.
    """
    known = points[points["source_value"].notna() & points["target_value"].notna()]
    if known.empty:
        return None
    name = METRIC_NAMES.get(metric, metric)
    colours = line_styles(["random", "pretrained"])
    styles = {WITHOUT: colours["random"], WITH: colours["pretrained"]}
    title = f"Do better sources give better targets? {source_name} and {name}"
    by_dataset, correlations = list(known.groupby("dataset", sort=False)), []
    with panels(len(by_dataset), title=title) as (figure, axes):
        for axis, (dataset, of_dataset) in zip(axes[:, 0], by_dataset, strict=True):
            for pretraining in [p for p in styles if p in set(of_dataset["pretraining"])]:
                group = of_dataset[of_dataset["pretraining"] == pretraining]
                _draw_points(axis, group, styles[pretraining], pretraining)
                found = spearman(group["source_value"], group["target_value"])
                text = correlation_text(found.estimate, found.low, found.high)
                correlations.append(f"{dataset}, {pretraining}: {found.reason or f'{text}, n = {found.n}'}")
            set_panel_title(axis, str(dataset))
            axis.set(xlabel=source_name, ylabel=f"{name} on the target")
        shared_legend(figure, axes[:, 0].tolist(), list(styles))
        svg = save(figure, folder, "source_and_target")
    caption = (
        "Each mark is a cell, its mean over seeds. Spearman's rank correlation with its 95 % bootstrap "
        f"interval over the points: {'; '.join(correlations)}."
    )
    return DrawnFigure(svg, title, caption)


def draw_differences(differences: pd.DataFrame, *, inits: Sequence[str], folder: Path) -> DrawnFigure | None:
    """Draw the paired differences to the baseline with their intervals, ordered, a panel per setting.

    Args:
        differences: data of analysis.tables.differences.differences_table.
        inits: all initializations of the study, for their colours.
    """
    known = differences[differences["difference"].notna()]
    if known.empty:
        return None
    first = known.iloc[0]
    name = METRIC_NAMES.get(str(first["metric"]), str(first["metric"]))
    title = f"Differences in {name} to {first['baseline']}"
    styles = line_styles([*inits, *(set(known["init"]) - set(inits))])
    by_panel = list(known.groupby("setting", sort=False))
    with panels(len(by_panel), title=title) as (figure, axes):
        _give_room(figure, max(len(group) for _, group in by_panel), labels=map(str, known["init"]))
        for axis, (panel, group) in zip(axes[:, 0], by_panel, strict=True):
            ordered = group.sort_values("difference", kind="stable")
            for y, row in enumerate(ordered.to_dict("records")):
                _draw_interval(
                    axis, y, row["difference"], row["low"], row["high"], styles[str(row["init"])],
                    is_filled=row["verdict"] == RESOLVED,
                )  # fmt: skip
            _forest_axis(axis, [str(label) for label in ordered["init"]], f"{name} − {first['baseline']}")
            set_panel_title(axis, str(panel))
        svg = save(figure, folder, "differences")
    caption = (
        f"Cells minus {first['baseline']} of their setting, paired by seed, test split, with Student's t "
        f"interval (95 %, uncorrected), ordered. Filled: {RESOLVED} (m = {first['n_comparisons']} "
        "comparisons); hollow: not resolved. No interval: one pair of seeds. Dashed: no difference."
    )
    return DrawnFigure(svg, title, caption)


def draw_effects(effects: pd.DataFrame, *, folder: Path) -> DrawnFigure | None:
    """Draw the effect of every level against the grand mean, a panel per factor.

    Args:
        effects: data of analysis.tables.effects.effects_table.
    """
    known = effects[effects["effect"].notna()]
    if known.empty:
        return None
    metric = str(known["metric"].iloc[0])
    name = METRIC_NAMES.get(metric, metric)
    title = f"What each factor does to {name}"
    by_factor = list(known.groupby("factor", sort=False))
    style = LineStyle("#0072B2", "s", "-")
    with panels(len(by_factor), title=title) as (figure, axes):
        _give_room(figure, max(len(group) for _, group in by_factor), labels=map(str, known["level"]))
        for axis, (factor, group) in zip(axes[:, 0], by_factor, strict=True):
            ordered = group.sort_values("effect", kind="stable")
            for y, row in enumerate(ordered.to_dict("records")):
                _draw_interval(axis, y, row["effect"], row["low"], row["high"], style, is_filled=True)
            _forest_axis(axis, [str(level) for level in ordered["level"]], f"effect on {name}")
            share = group["share"].iloc[0]
            explained = "" if np.isnan(share) else f": {100 * share:.0f} % of the variance"
            set_panel_title(axis, f"{factor_name(str(factor))}{explained}")
        # One scale, so that a factor that does little looks like it.
        reach = [axis.get_xlim() for axis in axes[:, 0]]
        for axis in axes[:, 0]:
            axis.set_xlim(min(low for low, _ in reach), max(high for _, high in reach))
        svg = save(figure, folder, "effects")
    caption = (
        f"Effect of each level on {name} against the grand mean (dashed), from a least-squares fit of all "
        "factors at once, with Student's t interval (95 %) of the spread between seeds; without interval "
        "where every cell has one seed."
    )
    return DrawnFigure(svg, title, caption)


def _draw_points(axis: Axes, group: pd.DataFrame, style: LineStyle, label: str) -> None:
    axis.plot(
        group["source_value"],
        group["target_value"],
        ls="",
        marker=style.marker,
        ms=6,
        mfc="white",
        mec=style.colour,
        mew=1.6,
        label=label,
    )
    if len(group) <= MOST_NAMED_POINTS:
        for row in group.to_dict("records"):
            position = row["source_value"], row["target_value"]
            axis.annotate(
                str(row["architecture"]), position, xytext=(4, 3), textcoords="offset points", fontsize=6.5
            )


def _draw_interval(
    axis: Axes, y: float, value: float, low: float, high: float, style: LineStyle, *, is_filled: bool
) -> None:
    if not np.isnan(low):
        axis.plot([low, high], [y, y], color=style.colour, lw=1.6)
    axis.plot(
        [value],
        [y],
        ls="",
        marker=style.marker,
        ms=6.5,
        mfc=style.colour if is_filled else "white",
        mec=style.colour,
        mew=1.6,
        zorder=3,
    )


def _forest_axis(axis: Axes, labels: Sequence[str], quantity: str) -> None:
    axis.axvline(0, color="#333333", lw=1, ls=(0, (4, 3)), zorder=1)
    axis.set_yticks(range(len(labels)), [in_lines(label) for label in labels])
    axis.set_ylim(-0.6, len(labels) - 0.4)
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel(quantity)


def _give_room(figure: Figure, n_rows: int, *, labels: Iterable[str]) -> None:
    """Make panels high enough for their rows, and wide enough for what is written left of them."""
    grid = figure.axes[0].get_subplotspec().get_gridspec()  # type: ignore[union-attr]
    width, height = figure.get_size_inches()
    high = grid.nrows * (n_rows * ROW_HEIGHT_IN + 1.1) + 0.9
    characters = min(NAME_CHARACTERS, max(map(len, labels)))
    wide = grid.ncols * (LEAST_WIDTH_IN + CHARACTER_IN * characters) + 0.6
    figure.set_size_inches(max(width, wide), max(height, high))
