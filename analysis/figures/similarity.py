"""Figures of the representations: before and after training, and pretrained beside random networks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.style import (
    DrawnFigure,
    LineStyle,
    line_styles,
    panels,
    save,
    set_panel_title,
    shared_legend,
    stage_bands,
)
from analysis.networks.comparisons import BEFORE_AFTER, PRETRAINED_RANDOM, RANDOM_RANDOM, TOP_TWO
from analysis.tables.table import MEASURE_NAMES


def draw_before_after(
    similarity: pd.DataFrame, *, measure: str, inits: Sequence[str], folder: Path
) -> DrawnFigure | None:
    """Draw, per stage, how alike each network is to itself before training.

    Args:
        inits: all initializations of the study, in the order of the legend.
    """
    rows = _with_values(similarity, measure, [BEFORE_AFTER])
    rows = rows[rows["stage"] != TOP_TWO]
    if rows.empty:
        return None
    name = MEASURE_NAMES[measure]
    title = f"What training changes: {name} of each stage before and after training"
    by_setting = list(rows.groupby("setting", sort=False))
    with panels(len(by_setting), title=title) as (figure, axes):
        for axis, (setting, of_setting) in zip(axes[:, 0], by_setting, strict=True):
            stages = list(dict.fromkeys(of_setting["stage"]))
            by_init = of_setting.rename(columns={"init_x": "init"})
            stage_bands(axis, by_init, "value", stages=stages, inits=inits)
            _draw_floor(axis, of_setting, stages)
            _similarity_axis(axis, stages, str(setting), name)
        shared_legend(figure, axes[:, 0].tolist(), inits)
        svg = save(figure, folder, f"similarity_before_after_{measure}")
    caption = (
        f"{_sentence(name)} between a network at its initialization and the same network after training; "
        "1 means unchanged. Line: mean over seeds; band: lowest to highest. Grey: noise floor, "
        "what unrelated activations of this size give."
    )
    return DrawnFigure(svg, title, caption)


def draw_pairs(similarity: pd.DataFrame, *, measure: str, folder: Path) -> DrawnFigure | None:
    """Draw pretrained–random beside random–random similarity of trained networks, per stage."""
    rows = _with_values(similarity, measure, [PRETRAINED_RANDOM, RANDOM_RANDOM])
    if rows.empty:
        return None
    name = MEASURE_NAMES[measure]
    labels = _pair_labels(rows)
    styles = line_styles(list(dict.fromkeys(labels)))
    title = f"Do pretrained networks end elsewhere? {name} of trained networks of different seeds"
    by_setting = list(rows.assign(label=labels).groupby("setting", sort=False))
    with panels(len(by_setting), title=title) as (figure, axes):
        for axis, (setting, of_setting) in zip(axes[:, 0], by_setting, strict=True):
            stages = list(dict.fromkeys(of_setting["stage"]))
            kinds = [label for label in styles if label in set(of_setting["label"])]
            for k, label in enumerate(kinds):
                shift = 0.0 if len(kinds) == 1 else (k / (len(kinds) - 1) - 0.5) * 0.4
                _draw_pair_kind(axis, of_setting[of_setting["label"] == label], stages, shift, styles[label])
            _draw_floor(axis, of_setting, stages)
            _similarity_axis(axis, stages, str(setting), name)
            if TOP_TWO in stages:
                axis.axvline(stages.index(TOP_TWO) - 0.5, color="#BBBBBB", lw=0.8)
        shared_legend(figure, axes[:, 0].tolist())
        svg = save(figure, folder, f"similarity_pairs_{measure}")
    caption = (
        f"{_sentence(name)} between two trained networks of different seeds: one pretrained and one random, "
        "beside two random ones, which show how alike two trainings are in any case. Small marks: pairs; "
        "large: their mean. “top two” is the mean of the last two backbone stages. Grey: noise floor."
    )
    return DrawnFigure(svg, title, caption)


def _pair_labels(rows: pd.DataFrame) -> pd.Series:
    """Name the kinds of pairs; pretrained ones by their initialization where there are several."""
    pretrained = rows[rows["kind"] == PRETRAINED_RANDOM]["init_x"]
    if pretrained.nunique() < 2:
        return rows["kind"].map(
            {PRETRAINED_RANDOM: "pretrained and random", RANDOM_RANDOM: "random and random"}
        )
    return rows["init_x"] + " and random"


def _draw_pair_kind(
    axis: Axes, rows: pd.DataFrame, stages: list[str], shift: float, style: LineStyle
) -> None:
    positions = rows["stage"].map(stages.index) + shift
    axis.plot(
        positions, rows["value"], ls="", marker=style.marker, ms=3, color=style.colour, alpha=0.5, zorder=3
    )
    means = rows.groupby("stage")["value"].mean().reindex(stages)
    axis.plot(
        np.arange(len(stages)) + shift,
        means,
        ls="",
        marker=style.marker,
        ms=8,
        mfc="white",
        mec=style.colour,
        mew=1.8,
        label=rows["label"].iloc[0],
    )


def _draw_floor(axis: Axes, rows: pd.DataFrame, stages: list[str]) -> None:
    floors = rows.groupby("stage")["noise_floor"].mean().reindex(stages)
    for position, floor in enumerate(floors):
        axis.fill_between(
            [position - 0.45, position + 0.45],
            0,
            floor,
            color="#9A9A9A",
            alpha=0.28,
            lw=0,
            label="noise floor" if position == 0 else None,
        )


def _similarity_axis(axis: Axes, stages: list[str], setting: str, name: str) -> None:
    axis.set_xticks(range(len(stages)), stages)
    set_panel_title(axis, setting)
    axis.set(ylim=(0, 1.03), xlim=(-0.55, len(stages) - 0.45))
    axis.set(ylabel=f"{name} (0 … 1)", xlabel="stage, from the input to the head")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _with_values(similarity: pd.DataFrame, measure: str, kinds: list[str]) -> pd.DataFrame:
    chosen = (similarity["measure"] == measure) & similarity["kind"].isin(kinds)
    return similarity[chosen & similarity["value"].notna()]
