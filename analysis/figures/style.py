"""One look for every figure: readable in grey, by the colour-blind, and as a thumbnail."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe & Ito (2008). Transfusion depths are ordered, so they get shades of one colour, deeper is darker.
_FIXED = {
    "random": "#000000",
    "random and random": "#000000",
    "pretrained": "#D55E00",
    "pretrained and random": "#D55E00",
    "mean_var": "#009E73",
}
_OTHERS = ("#0072B2", "#CC79A7", "#E69F00", "#7F7F7F", "#56B4E9")
_SHADES = ("#7FB7E3", "#0B3C6F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (7, 2, 1, 2, 1, 2)))

PANEL_WIDTH_IN, PANEL_HEIGHT_IN, MOST_COLUMNS = 3.9, 3.1, 3
TITLE_CHARACTERS_PER_IN, LEGEND_ENTRY_WIDTH_IN = 9.5, 1.8
NAME_CHARACTERS = 28

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "svg.hashsalt": "transfusion",
    # Text as text: a figure is a tenth as large, and its words can be searched and edited.
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class LineStyle:
    """How one initialization is drawn, in every figure of a study."""

    colour: str
    marker: str
    line: Any


def line_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """Give every name its own marker and dashes, and a colour that says what it is."""
    transfusions = [name for name in names if name.startswith("transfusion")]
    ramp = LinearSegmentedColormap.from_list("depth", _SHADES)
    shades = ramp(np.linspace(0, 1, max(len(transfusions), 1)))
    colours = _FIXED | {name: to_hex(shade) for name, shade in zip(transfusions, shades, strict=False)}
    others = [name for name in names if name not in colours]
    colours |= {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    return {
        name: LineStyle(colours[name], _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)])
        for i, name in enumerate(names)
    }


@dataclass(frozen=True)
class DrawnFigure:
    """A figure on disk.

    Attributes:
        caption: what is shown and how to read it.
        plot: JSON of a Bokeh layout with the same content, for screens; "" where there is none.
    """

    svg: Path
    title: str
    caption: str
    plot: str = ""


@contextmanager
def panels(n_panels: int, *, rows_each: int = 1, title: str) -> Iterator[tuple[Figure, np.ndarray]]:
    """Give a figure and its axes, (n_panels, rows_each); panels wrap after three, unused axes are removed.

    Panels of several rows keep their rows below each other.
    """
    n_columns = min(MOST_COLUMNS, n_panels)
    n_bands = -(-n_panels // n_columns)
    with mpl.rc_context(_STYLE):
        # A lone panel gets more room, so that title and legend fit.
        width = max(PANEL_WIDTH_IN * n_columns + 0.6, 7.6)
        height = PANEL_HEIGHT_IN * n_bands * rows_each + 0.9
        figure, grid = plt.subplots(
            n_bands * rows_each, n_columns, figsize=(width, height), squeeze=False, layout="constrained"
        )
        bands = grid.reshape(n_bands, rows_each, n_columns).transpose(0, 2, 1).reshape(-1, rows_each)
        for unused in bands[n_panels:].ravel():
            unused.remove()
        lines = textwrap.fill(title, int(width * TITLE_CHARACTERS_PER_IN))
        figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold")
        try:
            yield figure, bands[:n_panels]
        finally:
            plt.close(figure)


def set_panel_title(axis: Axes, title: str) -> None:
    """Write what a panel is about above it, on as many lines as its width needs."""
    spec, figure = axis.get_subplotspec(), axis.get_figure(root=True)
    assert spec is not None, "a panel is part of a grid"
    assert isinstance(figure, Figure), "a panel is part of a figure"
    width = figure.get_figwidth() / spec.get_gridspec().ncols
    axis.set_title(textwrap.fill(title, int(width * TITLE_CHARACTERS_PER_IN)))


def in_lines(name: str) -> str:
    """Break a name that would leave its panel no room into lines; weights are named by their whole origin."""
    return textwrap.fill(name, NAME_CHARACTERS)


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write NAME.png and NAME.svg; return the path of the SVG. Equal figures give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    figure.set_layout_engine("none")  # by now it is laid out, which takes as long as drawing
    svg = folder / f"{name}.svg"
    figure.savefig(svg, metadata={"Date": None})
    return svg


def shared_legend(figure: Figure, axes: Sequence[Axes], first: Sequence[str] = ()) -> None:
    """Put one legend for all axes below the panels; the labels `first` lead, in their order."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = [label for label in first if label in handles]
    labels += [label for label in handles if label not in labels]
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=min(len(handles), int(figure.get_figwidth() / LEGEND_ENTRY_WIDTH_IN)),
        handlelength=3,
    )


def stage_bands(
    axis: Axes, rows: pd.DataFrame, value: str, *, stages: list[str], inits: Sequence[str]
) -> None:
    """Draw a value per stage for each initialization: mean over seeds, and a band from lowest to highest.

    Args:
        rows: with init and stage, one per seed.
        inits: all initializations of the study, in the order of the legend.
    """
    styles, positions = line_styles(inits), np.arange(len(stages))
    for init in [init for init in inits if init in set(rows["init"])]:
        by_stage = rows[rows["init"] == init].groupby("stage")[value]
        summary = by_stage.agg(["mean", "min", "max"]).reindex(stages)
        style = styles[init]
        axis.plot(
            positions,
            summary["mean"],
            color=style.colour,
            marker=style.marker,
            ls=style.line,
            label=init,
        )
        axis.fill_between(positions, summary["min"], summary["max"], color=style.colour, alpha=0.13, lw=0)


def log_steps(axis: Axes, last_step: float) -> None:
    """Make the x axis logarithmic in optimizer steps, with step 0 at its left end."""
    axis.set_xscale("symlog", linthresh=1, linscale=0.5)
    decades = [10**k for k in range(int(np.log10(max(last_step, 1))) + 1)]
    axis.set_xticks([0, *decades])
    axis.set_xlim(-0.15, max(last_step, 1) * 1.25)
    axis.xaxis.set_major_formatter(FuncFormatter(step_text))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("optimizer steps")


def log_step_values(axis: Axes, steps: Sequence[float]) -> None:
    """Make the y axis logarithmic in optimizer steps around the given ones; step 0 needs a linear piece."""
    low, high = min(steps), max(steps)
    if low > 0:
        axis.set_yscale("log")
        axis.set_ylim(low / 1.8, high * 1.8)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axis.set_yscale("symlog", linthresh=1, linscale=0.5)
        axis.set_ylim(-0.3, max(high, 1) * 1.8)
    axis.yaxis.set_major_formatter(FuncFormatter(step_text))
    axis.yaxis.set_minor_formatter(NullFormatter())


def step_text(value: float, _position: float | None = None) -> str:
    """`1 000 000` is `1M`, `10 000` is `10k`, as tick labels."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"
