"""Figures of representations beyond one stage and one moment: over training, over stages, over networks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.style import (
    DrawnFigure,
    line_styles,
    log_steps,
    panels,
    save,
    set_panel_title,
    shared_legend,
)
from analysis.networks.comparisons import (
    ALONG_TRAINING,
    OF_EVERY_STAGE_WITH_EVERY,
    PRETRAINED_RANDOM,
    RANDOM_RANDOM,
    SERIES,
    TOP_TWO,
)
from analysis.tables.similarity import r_squared, start_and_end
from analysis.tables.table import MEASURE_NAMES

MOST_MAPS = 12


def draw_stage_maps(similarity: pd.DataFrame, *, measure: str, folder: Path) -> DrawnFigure | None:
    """Draw, for pairs of trained networks, how alike every stage of one is to every stage of the other."""
    rows = similarity[
        similarity["kind"].isin(OF_EVERY_STAGE_WITH_EVERY)
        & (similarity["measure"] == measure)
        & similarity["value"].notna()
    ]
    pairs = list(rows.groupby(["setting", "init_x", "init_y"], sort=False))
    if not pairs:
        return None
    name = MEASURE_NAMES[measure]
    title = f"Which stages correspond: {name} of every stage of one network with every stage of another"
    shown = pairs[:MOST_MAPS]
    with panels(len(shown), title=title) as (figure, axes):
        for axis, ((setting, init_x, init_y), of_pair) in zip(axes[:, 0], shown, strict=True):
            _draw_map(axis, of_pair)
            set_panel_title(axis, f"{setting}: {init_x} (down), {init_y} (across)")
        svg = save(figure, folder, f"stage_maps_{measure}")
    left_out = f" {len(pairs) - MOST_MAPS} more pairs are in the table." if len(pairs) > MOST_MAPS else ""
    caption = (
        f"{name} of the first pair of seeds of each kind; positions of all stages are drawn on the smallest "
        f"map. Values are printed in the cells; darker is more alike.{left_out}"
    )
    return DrawnFigure(svg, title, caption)


def _draw_map(axis: Axes, rows: pd.DataFrame) -> None:
    down, across = list(dict.fromkeys(rows["stage"])), list(dict.fromkeys(rows["stage_y"]))
    values = rows.pivot_table(index="stage", columns="stage_y", values="value").reindex(down)[across]
    axis.imshow(values.to_numpy(float), cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axis.grid(visible=False)
    axis.set_xticks(range(len(across)), across, rotation=30, ha="right")
    axis.set_yticks(range(len(down)), down)
    table = values.to_numpy(float)
    for (i, j), value in np.ndenumerate(table):
        colour = "white" if value > 0.55 else "black"
        axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)


def draw_along_training(
    similarity: pd.DataFrame, *, measure: str, inits: Sequence[str], folder: Path
) -> DrawnFigure | None:
    """Draw how alike a network on its way is to itself at the end, by stage (Raghu et al. 2017, figure 4).

    Args:
        inits: all initializations of the study; one panel each and setting.
    """
    rows = similarity[
        (similarity["kind"] == ALONG_TRAINING)
        & (similarity["measure"] == measure)
        & (similarity["stage"] != TOP_TWO)
        & similarity["value"].notna()
    ]
    ends = [init for init in inits if init in ("random", "pretrained")] or list(inits[:2])
    rows = rows[rows["init_x"].isin(ends)]
    if rows.empty:
        return None
    rows = rows.assign(step=rows["checkpoint_x"].str.removeprefix(SERIES).astype(int))
    name = MEASURE_NAMES[measure]
    title = f"In which order stages take their final form: {name} with the end of training"
    groups = list(rows.groupby(["setting", "init_x"], sort=False))
    with panels(len(groups), title=title) as (figure, axes):
        for axis, ((setting, init), of_group) in zip(axes[:, 0], groups, strict=True):
            stages = list(dict.fromkeys(of_group["stage"]))
            for stage, style in line_styles([f"transfusion {s}" for s in stages]).items():
                stage = stage.removeprefix("transfusion ")
                means = of_group[of_group["stage"] == stage].groupby("step")["value"].mean()
                axis.plot(
                    means.index, means, color=style.colour, marker=style.marker, ls=style.line, label=stage
                )
            log_steps(axis, float(of_group["step"].max()))
            axis.set(ylim=(0, 1.03), ylabel=name)
            set_panel_title(axis, f"{setting}: {init}")
        shared_legend(figure, axes[:, 0].tolist())
        svg = save(figure, folder, f"along_training_{measure}")
    caption = (
        "Each line is a stage, darker is deeper; mean over seeds. 1 means that the stage already responds "
        "as it will at the end. The last point compares the final weights with themselves."
    )
    return DrawnFigure(svg, title, caption)


def draw_start_and_end(similarity: pd.DataFrame, *, measure: str, folder: Path) -> DrawnFigure | None:
    """Draw similarity after training over similarity at initialization (Transfusion, figure 4)."""
    pairs = start_and_end(similarity, measure=measure)
    if pairs.empty:
        return None
    name = MEASURE_NAMES[measure]
    title = f"Does the start decide the end? {name} of pairs of networks before and after training"
    by_setting = list(pairs.groupby("setting", sort=False))
    with panels(len(by_setting), title=title) as (figure, axes):
        for axis, (setting, rows) in zip(axes[:, 0], by_setting, strict=True):
            stages = list(dict.fromkeys(rows["stage"]))
            for stage, style in line_styles([f"transfusion {s}" for s in stages]).items():
                stage = stage.removeprefix("transfusion ")
                of_stage = rows[rows["stage"] == stage]
                for kind, filled in ((PRETRAINED_RANDOM, True), (RANDOM_RANDOM, False)):
                    of_kind = of_stage[of_stage["kind"] == kind]
                    axis.plot(
                        of_kind["start"],
                        of_kind["end"],
                        ls="",
                        marker=style.marker,
                        ms=6,
                        mec=style.colour,
                        mfc=style.colour if filled else "white",
                        label=stage if filled else None,
                    )
            axis.plot([0, 1], [0, 1], color="#BBBBBB", lw=0.8, ls=(0, (2, 2)))
            axis.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="at initialization", ylabel="after training")
            fit = r_squared(rows["start"], rows["end"])
            set_panel_title(axis, f"{setting}: R² {fit:.2f}, n {len(rows)}")
        shared_legend(figure, axes[:, 0].tolist())
        svg = save(figure, folder, f"start_and_end_{measure}")
    caption = (
        "One mark per pair of networks and stage, darker is deeper; filled: pretrained and random, open: "
        "random and random. R² of the straight line through all marks of a panel; marks of one stage "
        "or network are not independent."
    )
    return DrawnFigure(svg, title, caption)
