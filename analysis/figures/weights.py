"""Figures of weights: filters before and after training, how far stages move, and the loss between them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.style import (
    DrawnFigure,
    line_styles,
    panels,
    save,
    set_panel_title,
    shared_legend,
    stage_bands,
)
from analysis.networks.filters import MOST_SHOWN, ShownFilters, tiled
from analysis.networks.loss_line import BETWEEN_SEEDS, FROM_START
from analysis.networks.weight_change import KERNELS

PX_PER_WEIGHT = 8
WIDEST_RATIO = 20
_ENDS = {FROM_START: ("initialization", "solution"), BETWEEN_SEEDS: ("one solution", "another")}


def draw_filters(
    shown: Sequence[ShownFilters], *, folder: Path, most: int = MOST_SHOWN
) -> DrawnFigure | None:
    """Draw the filters of the first convolution, before on the left and after on the right.

    Every weight is a square of equal pixels, not smoothed.

    Args:
        shown: one per panel.
        most: filters shown of each network: the first ones.
    """
    shown = [one for one in shown if len(one.pictures.limits)]
    if not shown:
        return None
    title = "Filters of the first convolution before and after training"
    with panels(len(shown), title=title) as (figure, axes):
        for axis, one in zip(axes[:, 0], shown, strict=True):
            sheets = [tiled(side[:most]) for side in (one.pictures.before, one.pictures.after)]
            height, width, _ = sheets[0].shape
            gap = max(2, width // 12)
            pair = np.concatenate([sheets[0], np.ones((height, gap, 3)), sheets[1]], axis=1)
            enlarged = pair.repeat(PX_PER_WEIGHT, axis=0).repeat(PX_PER_WEIGHT, axis=1)
            extent = (0, pair.shape[1], height, 0)
            axis.imshow(enlarged, interpolation="nearest", extent=extent, vmin=0, vmax=1)
            axis.set_xticks([width / 2, width + gap + width / 2], ["before", "after"])
            axis.set_yticks([])
            axis.grid(False)
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            set_panel_title(axis, f"{one.init} · {one.setting}")
        svg = save(figure, folder, "conv1_filters")
    counts = [len(one.pictures.limits) for one in shown]
    part = f" The first {most} filters of each network." if max(counts) > most else ""
    caption = (
        "Mid grey is weight 0. Each filter has one scale before and after training, its largest absolute "
        "weight of both: more contrast after means it grew, grey means it faded. Filters of different "
        f"networks or places cannot be compared in strength.{part}"
    )
    return DrawnFigure(svg, title, caption)


def draw_filter_cosines(filters: pd.DataFrame, *, inits: Sequence[str], folder: Path) -> DrawnFigure | None:
    """Draw how the cosine of filters with their initialization is distributed, as cumulated shares.

    Args:
        filters: one row per filter: setting, init, seed, cosine.
        inits: all initializations of the study, in the order of the legend.
    """
    rows = filters[filters["cosine"].notna()]
    if rows.empty:
        return None
    styles = line_styles(inits)
    title = "How much of the first filters survives training"
    by_setting = list(rows.groupby("setting", sort=False))
    with panels(len(by_setting), title=title) as (figure, axes):
        for axis, (setting, of_setting) in zip(axes[:, 0], by_setting, strict=True):
            for init in [init for init in inits if init in set(of_setting["init"])]:
                cosines = np.sort(of_setting.loc[of_setting["init"] == init, "cosine"].to_numpy())
                shares = np.arange(1, len(cosines) + 1) / len(cosines)
                style = styles[init]
                axis.step(
                    [-1, *cosines, 1],
                    [0, *shares, 1],
                    where="post",
                    color=style.colour,
                    ls=style.line,
                    label=init,
                )
            set_panel_title(axis, str(setting))
            lowest = min(float(of_setting["cosine"].min()), 0.9)
            margin = 0.03 * (1 - lowest)
            axis.set(xlim=(lowest - margin, 1 + margin), ylim=(0, 1.03))
            axis.set(xlabel="cosine of a filter before and after", ylabel="share of filters up to it")
        shared_legend(figure, axes[:, 0].tolist(), inits)
        svg = save(figure, folder, "conv1_cosines")
    caption = (
        "Share of the filters of the first convolution whose cosine with themselves before training is at "
        "most the value below; all seeds together. A line that stays low and rises at 1: filters that kept "
        "their shape."
    )
    return DrawnFigure(svg, title, caption)


def draw_weight_change(
    changes: pd.DataFrame, *, inits: Sequence[str], folder: Path, parameters: str = KERNELS
) -> DrawnFigure | None:
    """Draw, per stage, the relative L2 distance to the initialization, and the cosine with it below.

    Args:
        changes: rows of `analysis.networks.weight_change.stage_change` with setting, init and seed.
        inits: all initializations of the study, in the order of the legend.
        parameters: which rows: an entry of the column of that name.
    """
    rows = changes[changes["parameters"] == parameters]
    rows = rows[rows[["cosine", "relative_l2"]].notna().any(axis=1)]
    if rows.empty:
        return None
    title = "How far training moves the weights of each stage"
    by_setting = list(rows.groupby("setting", sort=False))
    with panels(len(by_setting), rows_each=2, title=title) as (figure, axes):
        for (top, bottom), (setting, of_setting) in zip(axes, by_setting, strict=True):
            stages = list(dict.fromkeys(of_setting["stage"]))
            for axis, value in ((top, "relative_l2"), (bottom, "cosine")):
                stage_bands(axis, of_setting, value, stages=stages, inits=inits)
                axis.set_xticks(range(len(stages)), stages)
                axis.set_xlim(-0.3, len(stages) - 0.7)
            _logarithmic_if_wide(top, of_setting["relative_l2"])
            set_panel_title(top, str(setting))
            top.set_ylabel("‖after − before‖ / ‖before‖")
            bottom.set(ylabel="cosine before and after", xlabel="stage, from the input to the head")
        shared_legend(figure, axes.ravel().tolist(), inits)
        svg = save(figure, folder, "weight_change")
    caption = (
        f"The weights of a stage ({parameters}) as one vector, at the end of the training against those at "
        "the initialization. Line: mean over seeds; band: lowest to highest. Above: relative distance, in "
        "which small initial weights count too; below: cosine, 1 is an unchanged direction."
    )
    return DrawnFigure(svg, title, caption)


def draw_loss_lines(points: pd.DataFrame, *, inits: Sequence[str], folder: Path) -> DrawnFigure | None:
    """Draw the loss along lines between weights, one panel per setting and kind of line.

    Args:
        points: one row per point: kind, setting, init, line (a number), alpha, loss.
        inits: all initializations of the study, in the order of the legend.
    """
    rows = points[np.isfinite(points["loss"])]
    if rows.empty:
        return None
    styles = line_styles(inits)
    title = "The loss on straight lines between weights"
    of_panels = list(rows.groupby(["setting", "kind"], sort=False))
    with panels(len(of_panels), title=title) as (figure, axes):
        for axis, ((setting, kind), of_panel) in zip(axes[:, 0], of_panels, strict=True):
            for init in [init for init in inits if init in set(of_panel["init"])]:
                style, of_init = styles[init], of_panel[of_panel["init"] == init]
                for i, (_, line) in enumerate(of_init.groupby("line", sort=False)):
                    line = line.sort_values("alpha")
                    axis.plot(
                        line["alpha"],
                        line["loss"],
                        color=style.colour,
                        marker=style.marker,
                        ms=3,
                        ls=style.line,
                        label=init if i == 0 else None,
                    )
            first, last = _ENDS.get(str(kind), ("first", "second"))
            axis.set_xticks([0, 0.5, 1], [f"0\n{first}", "0.5", f"1\n{last}"])
            for end in (0, 1):
                axis.axvline(end, color="#BBBBBB", lw=0.8, zorder=0)
            _logarithmic_if_wide(axis, of_panel["loss"])
            set_panel_title(axis, f"{kind} · {setting}")
            axis.set(ylabel="test loss")
        shared_legend(figure, axes[:, 0].tolist(), inits)
        svg = save(figure, folder, "loss_lines")
    caption = (
        "Loss on fixed test images at weights on the line through two networks, and a little beyond; "
        "batch-norm statistics are estimated anew from training images at every point. A bump between the "
        "ends is a barrier: the two lie in different basins. Points whose loss is not finite are left out."
    )
    return DrawnFigure(svg, title, caption)


def _logarithmic_if_wide(axis: Axes, values: pd.Series) -> None:
    if values.min() > 0 and values.max() > WIDEST_RATIO * values.min():
        axis.set_yscale("log")
