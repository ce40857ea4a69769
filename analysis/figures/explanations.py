"""Figures of explanations: maps over images, first-layer activations, and the randomisation check."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from analysis.figures.style import (
    MOST_COLUMNS,
    DrawnFigure,
    in_lines,
    line_styles,
    panels,
    save,
    set_panel_title,
    shared_legend,
)
from analysis.networks.explanations import METHODS, ExplainedImages, for_display

# Below the darkest heat, so that lightness rises with the map on any image, in grey too.
BRIGHTEST_IMAGE, DARKEST_HEAT = 0.3, 0.4
COLOURS = "magma"
# What all cells of a figure may hold together; an SVG of pure noise stays below 300 kB.
MOST_PIXELS = 64_000
CELL_IN, LEVELS = 0.7, 64
# How much lower a label reaches with every character, at 30 degrees.
LABEL_CHARACTER_IN = 0.04
# Of what is written beside an image.
LINE_IN = 0.12
# Of the panel of the images: one for the image, the others for what is written beside it.
IMAGE_COLUMNS = 3
OTHER_IMAGE = "another image"


def draw_explanations(
    explained: ExplainedImages, *, folder: Path, setting: str = "", name: str = "explanations"
) -> DrawnFigure:
    """Draw the images with labels and predictions, and a panel per method: images × initializations.

    Cells hold the maps in their own resolution, or coarser where the figure would grow too large: for 8
    images of four initializations 40 px with one method, 19 px with five; draw a figure per method then.

    Raises:
        ValueError: there are no images, or labels, predictions and maps are not of as many images.
    """
    _check(explained)
    n_images, inits = len(explained.images), list(explained.predicted)
    n_maps = sum(len(by_init) for by_init in explained.maps.values())
    cell_px = _cell_px(explained.images.shape[-1], n_images * (n_maps + 1))
    grey = _shrunk(_grey(explained.images), cell_px)
    n_blank, title = 0, _titled("What the networks look at", setting)
    with panels(len(explained.maps) + 1, title=title) as (figure, axes):
        n_panels, n_columns = len(explained.maps) + 1, max(len(inits), IMAGE_COLUMNS)
        _fit_size(figure, n_panels=n_panels, n_rows=n_images, n_columns=n_columns, labels=inits)
        _draw_images(axes[0, 0], grey, explained)
        for axis, (method, by_init) in zip(axes[1:, 0], explained.maps.items(), strict=True):
            columns = []
            for maps in by_init.values():
                shown = for_display(maps)
                n_blank += shown.n_blank
                columns.append(overlay(grey, _shrunk(shown.maps, cell_px)))
            _draw_mosaic(axis, np.stack(columns, axis=1), list(by_init))
            set_panel_title(axis, METHODS[method].title if method in METHODS else method)
        scale = overlay(np.full((1, 1, LEVELS), 0.5), np.linspace(0, 1, LEVELS)[None, None])[0, 0] / 255
        bar = figure.colorbar(
            ScalarMappable(cmap=ListedColormap(scale)),
            ax=axes[:, 0].tolist(),
            location="bottom",
            shrink=0.4,
            aspect=30,
        )
        bar.set_ticks([0, 1], labels=["least", "most"])
        svg = save(figure, folder, name)
    return DrawnFigure(svg, title, _caption(explained, inits, n_blank))


def draw_activations(
    images: np.ndarray,
    activations: Mapping[str, np.ndarray],
    *,
    folder: Path,
    setting: str = "",
    n_channels: int = 6,
    name: str = "first_layer",
) -> DrawnFigure:
    """Draw a panel per initialization: images × the channels of the first layer that are most active.

    Args:
        images: uint8, (n, channels, h, w).
        activations: of the first stage, (n, channels, h', w'), by initialization.
        n_channels: those with the largest mean |activation| over these images.
    """
    title = _titled("What the first layer passes on", setting)
    n_cells = len(images) * (n_channels + 1) * len(activations)
    with panels(len(activations), title=title) as (figure, axes):
        _fit_size(figure, n_panels=len(activations), n_rows=len(images), n_columns=n_channels + 1)
        for axis, (init, maps) in zip(axes[:, 0], activations.items(), strict=True):
            strength = np.abs(maps).mean(axis=(0, 2, 3))
            chosen = np.argsort(-strength, kind="stable")[:n_channels]
            cell_px = _cell_px(max(images.shape[-1], maps.shape[-1]), n_cells)
            columns = [_resized(_grey(images), cell_px)]
            for channel in chosen:
                shown = for_display(np.abs(maps[:, channel])).maps
                columns.append(_resized(shown, cell_px))
            cells = np.repeat(_levels(np.stack(columns, axis=1))[..., None], 3, axis=-1)
            _draw_mosaic(axis, cells, ["image", *(str(channel) for channel in chosen)])
            axis.set_xlabel("channel")
            set_panel_title(axis, init)
        svg = save(figure, folder, name)
    caption = (
        f"|Activations| of the first stage, of its {n_channels} channels with the largest mean over these "
        "images; light is strong. Each cell is scaled by itself, to its 99th percentile."
    )
    return DrawnFigure(svg, title, caption)


def draw_randomisation(
    checks: Mapping[str, pd.DataFrame], *, folder: Path, name: str = "explanations_randomised"
) -> DrawnFigure:
    """Draw how alike maps stay while stages become random from the head down; a panel per network.

    Args:
        checks: with the columns of `analysis.networks.randomisation`, by what the panel is called.
    """
    titles = {key: method.title for key, method in METHODS.items()}
    methods = list(dict.fromkeys(method for check in checks.values() for method in check["method"]))
    styles = line_styles([titles.get(method, method) for method in methods])
    title = "Do explanations depend on what was learned? Stages made random from the head down"
    with panels(len(checks), title=title) as (figure, axes):
        for axis, (network, check) in zip(axes[:, 0], checks.items(), strict=True):
            stages = list(dict.fromkeys(check.sort_values("n_random_stages")["stage"]))
            for method, rows in check.groupby("method", sort=False):
                label = titles.get(str(method), str(method))
                style, rows = styles[label], rows.sort_values("n_random_stages")
                marks = {"color": style.colour, "marker": style.marker}
                axis.plot(rows["n_random_stages"], rows["correlation"], ls=style.line, label=label, **marks)
                axis.plot([len(stages)], rows["noise_floor"].iloc[:1], ls="", mfc="white", **marks)
            axis.axvline(len(stages) - 0.5, color="#BBBBBB", lw=0.8)
            ticks = [stages[0], *(f"+ {stage}" for stage in stages[1:]), OTHER_IMAGE]
            axis.set_xticks(range(len(ticks)), ticks, rotation=40, ha="right")
            axis.set(ylim=(min(-0.15, check["correlation"].min() - 0.05), 1.05), ylabel="rank correlation")
            set_panel_title(axis, network)
        shared_legend(figure, axes[:, 0].tolist())
        svg = save(figure, folder, name)
    n_blank = sum(int(check["n_blank"].sum()) for check in checks.values())
    caption = (
        "Spearman correlation of the pixels of each map with those of the trained network's map of the same "
        "image, mean over images (Adebayo et al. 2018). A line that stays near 1 explains the image, not "
        "the network. Open marks: noise floor, the maps of two different images. Maps of one value have no "
        f"ranks and are left out: {n_blank}."
    )
    return DrawnFigure(svg, title, caption)


def overlay(grey: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Blend maps (…) from 0 to 1 with grey images (…) of the same range into RGB (…, 3), uint8."""
    heat = colormaps[COLOURS](DARKEST_HEAT + (1 - DARKEST_HEAT) * maps)[..., :3]
    share = maps[..., None]
    return _levels((1 - share) * BRIGHTEST_IMAGE * grey[..., None] + share * heat)


def _titled(title: str, setting: str) -> str:
    return f"{title}: {setting}" if setting else title


def _check(explained: ExplainedImages) -> None:
    n = len(explained.images)
    counts = {"labels": len(explained.labels)}
    counts |= {f"predictions of {init}": len(names) for init, names in explained.predicted.items()}
    counts |= {
        f"{method} maps of {init}": len(maps)
        for method, by_init in explained.maps.items()
        for init, maps in by_init.items()
    }
    wrong = [f"{what} ({count})" for what, count in counts.items() if count != n]
    if n == 0 or wrong:
        raise ValueError(
            f"draw_explanations needs images and one entry per image of everything else, got {n} images"
            + (f" and {', '.join(wrong)}" if wrong else "")
        )


def _caption(explained: ExplainedImages, inits: Sequence[str], n_blank: int) -> str:
    settings = [
        f"{METHODS[method].title}: {METHODS[method].settings}"
        for method in explained.maps
        if method in METHODS
    ]
    settings += [
        f"{method}: light is the smallest part that, blurred, takes the class away (Fong & Vedaldi 2017)"
        for method in explained.maps
        if method not in METHODS
    ]
    return (
        f"Rows: test images with their label and what each network ({', '.join(inits)}) takes them for. "
        "The lighter, the more the score depends on the place. Each map is scaled by itself, to its 99th "
        f"percentile; maps of zeros, which are left dark: {n_blank}. {'; '.join(settings)}."
    ).strip()


def _draw_images(axis: Axes, grey: np.ndarray, explained: ExplainedImages) -> None:
    cells = np.repeat(_levels(grey)[:, None, ..., None], 3, axis=-1)
    _draw_mosaic(axis, cells, [""])
    axis.set_xlim(0, IMAGE_COLUMNS)
    for row, label in enumerate(explained.labels):
        predicted = (in_lines(f"{init}: {names[row]}") for init, names in explained.predicted.items())
        lines = [f"is: {label}", *predicted]
        axis.text(1.1, row + 0.5, "\n".join(lines), va="center", fontsize=7)
    set_panel_title(axis, "Images")


def _draw_mosaic(axis: Axes, cells: np.ndarray, columns: Sequence[str]) -> None:
    """Draw cells (rows, columns, px, px, 3) as one raster with white lines between them."""
    n_rows, n_columns, px = cells.shape[:3]
    gap = max(1, px // 24)
    framed = np.full((n_rows, n_columns, px + gap, px + gap, 3), 255, dtype=np.uint8)
    framed[:, :, :px, :px] = cells
    raster = framed.transpose(0, 2, 1, 3, 4).reshape(n_rows * (px + gap), n_columns * (px + gap), 3)
    # Uninterpolated, the raster is embedded as it is, however large the figure.
    axis.imshow(raster, extent=(0, n_columns, n_rows, 0), interpolation="none", aspect="equal")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    slant = 0 if max(map(len, columns)) < 6 else 30
    axis.set_xticks(np.arange(n_columns) + 0.5, [in_lines(column) for column in columns], rotation=slant)
    axis.set_anchor("W")
    axis.set_yticks(np.arange(n_rows) + 0.5, [str(row + 1) for row in range(n_rows)])


def _fit_size(
    figure: Figure, *, n_panels: int, n_rows: int, n_columns: int, labels: Sequence[str] = ()
) -> None:
    """Give every cell of every panel the same room, and titles and ticks theirs.

    Args:
        labels: written aslant below each panel, and beside each image below each other.
    """
    width = min(MOST_COLUMNS, n_panels) * (n_columns * CELL_IN + 0.5) + 0.3
    broken = [in_lines(label).split("\n") for label in labels]
    below = max((LABEL_CHARACTER_IN * len(lines[0]) + LINE_IN * len(lines) for lines in broken), default=0.0)
    beside = LINE_IN * sum(1 + len(lines) for lines in broken)
    height = n_rows * max(CELL_IN, beside) + 1.0 + below
    figure.set_size_inches(max(width, 5.0), -(-n_panels // MOST_COLUMNS) * height + 1.1)


def _cell_px(native_px: int, n_cells: int) -> int:
    return max(8, min(native_px, int(np.sqrt(MOST_PIXELS / n_cells))))


def _grey(images: np.ndarray) -> np.ndarray:
    """Return (n, h, w) from 0 to 1, the mean over the channels."""
    return images.astype(np.float32).mean(axis=1) / 255


def _shrunk(maps: np.ndarray, px: int) -> np.ndarray:
    return _resized(maps, px) if maps.shape[-1] > px else maps


def _resized(maps: np.ndarray, px: int) -> np.ndarray:
    """Average (n, h, w) over areas, or repeat pixels, to (n, px, px)."""
    pictures = (Image.fromarray(np.ascontiguousarray(one, dtype=np.float32)) for one in maps)
    return np.stack([np.asarray(picture.resize((px, px), Image.Resampling.BOX)) for picture in pictures])


def _levels(values: np.ndarray) -> np.ndarray:
    """Return values from 0 to 1 as uint8 of few levels, which compress well and look the same."""
    return (np.round(np.clip(values, 0, 1) * (LEVELS - 1)) * (255 / (LEVELS - 1))).astype(np.uint8)
