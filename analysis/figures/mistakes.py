"""Figures of mistakes: pictures of what networks are sure of and wrong about, and confusion matrices."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import DrawnFigure, panels, save, set_panel_title
from analysis.mistakes import Confusion

PICTURES_PER_ROW, CHARACTERS_PER_LINE = 4, 27
MOST_COLUMNS_WITH_NUMBERS, MOST_ROWS_WITH_NUMBERS = 8, 16


def draw_errors(
    errors: pd.DataFrame, images: Mapping[str, np.ndarray], *, setting: str, folder: Path, name: str
) -> DrawnFigure | None:
    """Draw the pictures of confident errors, with what they are, what they were taken for and how surely.

    Args:
        errors: rows of `analysis.mistakes.confident_errors`, in the order of the pictures.
        images: (channels, height, width) uint8 by sample id, of 1 or 3 channels; errors without one are not
            drawn, and counted in the caption.
        name: of the files.

    Raises:
        ValueError: an image of another shape or type.
    """
    rows = errors[errors["sample_id"].isin(list(images))]
    if rows.empty:
        return None
    title = f"Most confident errors: {setting}"
    n_bands = math.ceil(len(rows) / PICTURES_PER_ROW)
    with panels(1, rows_each=n_bands, title=title) as (figure, axes):
        places = [place for band in axes[0] for place in _split(figure, band)]
        for axis, (_, row) in zip(places, rows.iterrows(), strict=False):
            _draw_picture(axis, images[row["sample_id"]], row)
        for unused in places[len(rows) :]:
            unused.remove()
        svg = save(figure, folder, name)
    hidden = len(errors) - len(rows)
    caption = (
        "Test images on which the mean probability over all trials is highest for a wrong answer. Below "
        "each: the label; what it was taken for, with that probability (and the label's); how many "
        "trials are wrong by themselves; the sample."
    )
    return DrawnFigure(svg, title, caption + (f" {hidden} more have no image here." if hidden else ""))


def draw_confusions(
    confusions: Sequence[Confusion], *, setting: str, folder: Path, name: str
) -> DrawnFigure | None:
    """Draw one confusion matrix per initialization of a setting."""
    if not confusions:
        return None
    title = f"What is taken for what: {setting}"
    with panels(len(confusions), title=title) as (figure, axes):
        for axis, one in zip(axes[:, 0], confusions, strict=True):
            _draw_matrix(axis, one)
        svg = save(figure, folder, name)
    caption = (
        "Rows: the label. Columns: the prediction. Darker: a larger share of the row; each row adds up to 1 "
        "(blank: a class that does not occur). Mean over the trials of a cell, test split."
    )
    return DrawnFigure(svg, title, caption)


def _split(figure: Figure, band: Axes) -> list[Axes]:
    """Put several small axes where one was."""
    spec = band.get_subplotspec()
    assert spec is not None, "a panel is part of a grid"
    band.remove()
    columns = spec.subgridspec(1, PICTURES_PER_ROW)
    return [figure.add_subplot(columns[0, i]) for i in range(PICTURES_PER_ROW)]


def _draw_picture(axis: Axes, image: np.ndarray, row: pd.Series) -> None:
    if image.ndim != 3 or image.shape[0] not in (1, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"image {row['sample_id']!r} must be uint8 of shape (1 or 3, height, width), "
            f"got {image.dtype} of shape {image.shape}"
        )
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    of_label = f"{row['class']}: " if row["class"] else ""
    lines = [
        f"label {of_label}{row['label']}",
        f"predicted {row['predicted']} {row['score']:.2f} ({row['label_score']:.2f})",
        f"{row['n_wrong']} of {row['n_trials']} trials wrong",
        str(row["sample_id"]),
    ]
    text = "\n".join(textwrap.fill(line, CHARACTERS_PER_LINE) for line in lines)
    axis.set_xlabel(text, fontsize=7, loc="left", parse_math=False)


def _draw_matrix(axis: Axes, one: Confusion) -> None:
    shares = one.shares
    axis.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axis.grid(False)
    n_rows, n_columns = shares.shape
    size = 7.5 if n_rows <= MOST_ROWS_WITH_NUMBERS else 5
    axis.set_xticks(range(n_columns), one.columns, rotation=0 if n_columns < 3 else 90, fontsize=size)
    axis.set_yticks(range(n_rows), one.rows, fontsize=size)
    axis.set(xlabel="prediction", ylabel="label")
    if n_columns <= MOST_COLUMNS_WITH_NUMBERS and n_rows <= MOST_ROWS_WITH_NUMBERS:
        for (i, j), share in np.ndenumerate(shares):
            if not math.isnan(share):
                # Dark cells need light digits.
                colour = "white" if share > 0.55 else "black"
                axis.text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)
    trials = "1 trial" if one.n_trials == 1 else f"{one.n_trials} trials"
    set_panel_title(axis, f"{one.init} ({trials})")
