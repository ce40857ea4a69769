"""The filters of the first convolution as pictures, before and after training (Transfusion, figure 5)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor, nn

from analysis.networks.state_dicts import StateDict, entry
from trainables.architectures.stages import Network

MOST_SHOWN = 64
GAP_PX = 1

Scale = Literal["filter", "all"]


@dataclass(frozen=True)
class FilterPictures:
    """The same filters twice, as pictures of one scale.

    Weight 0 is mid grey, 0.5; 0 and 1 are minus and plus the limit of a filter. That limit is the same
    before and after, so a filter that grows gets more contrast and one that is forgotten turns grey.

    Attributes:
        before, after: (n_filters, height, width, 3) from 0 to 1.
        limits: (n_filters,) absolute weight at which a picture is black or white.
    """

    before: np.ndarray
    after: np.ndarray
    limits: np.ndarray


@dataclass(frozen=True)
class ShownFilters:
    """The filters of one trained network."""

    setting: str
    init: str
    pictures: FilterPictures


def first_convolution(network: Network) -> str:
    """Return the name of the weights of the first convolution in a network's first stage.

    Of a vision transformer that is the patch embedding. First means first in the order in which the
    network declares its modules, which in all networks of the catalog is the order they act in.

    Raises:
        ValueError: the first stage has no convolution.
    """
    stage = network.stages[0]
    kinds = []
    for path, module in network.module.named_modules():
        if not stage.holds(f"{path}.weight"):
            continue
        if isinstance(module, nn.Conv2d):
            return f"{path}.weight"
        kinds.append(type(module).__name__)
    raise ValueError(
        f"filters: expected a convolution in {stage.name}, the first stage of "
        f"{type(network.module).__name__}, found {', '.join(dict.fromkeys(kinds)) or 'no module'}; "
        "only networks that begin with a convolution or a patch embedding have filters to show"
    )


def filter_weights(network: Network, weights: StateDict) -> np.ndarray:
    """Return the (n_filters, channels, height, width) float64 filters of a state dict's first convolution.

    Args:
        network: says where they are; its own weights are not looked at.

    Raises:
        ValueError: there is no first convolution, or the state dict is of another network.
    """
    name = first_convolution(network)
    expected: Tensor = network.module.get_parameter(name)
    return entry(weights, name, shape=expected.shape).double().cpu().numpy()


def filter_pictures(before: np.ndarray, after: np.ndarray, *, scale: Scale = "filter") -> FilterPictures:
    """Make pictures of filters (n_filters, channels, height, width) with 1 or 3 channels.

    Args:
        scale: whose largest absolute weight, before and after together, is the limit: that of each filter,
            so that all are visible (one whose weights are nearly 0 is magnified), or that of all filters, so
            that they can be compared with each other.

    Raises:
        ValueError: shapes that differ, other channels, or weights that are not finite.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"filters: expected the same shape before and after, got {before.shape} and {after.shape}"
        )
    if before.ndim != 4 or before.shape[1] not in (1, 3):
        raise ValueError(
            "filters: pictures need (n_filters, channels, height, width) with 1 or 3 channels, got "
            f"{before.shape}"
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError(
            "filters: pictures need finite weights, got some that are not; the training diverged"
        )
    largest = np.maximum(np.abs(before), np.abs(after)).max(axis=(1, 2, 3), initial=0.0)
    limits = largest if scale == "filter" else np.full_like(largest, largest.max(initial=0.0))
    # Where all weights are 0 the picture is grey, whatever they are divided by.
    divisor = np.where(limits > 0, limits, 1.0)[:, None, None, None]
    shown = [_as_rgb(0.5 + 0.5 * side / divisor) for side in (before, after)]
    return FilterPictures(before=shown[0], after=shown[1], limits=limits)


def tiled(pictures: np.ndarray, *, n_columns: int | None = None, gap_px: int = GAP_PX) -> np.ndarray:
    """Lay pictures (n, height, width, 3) out in rows, white between them and where none is left.

    Args:
        n_columns: by default as many as make the whole about square.

    Returns:
        (rows, columns, 3) from 0 to 1; one value of a filter is one pixel.

    Raises:
        ValueError: there is no picture.
    """
    n, height, width, _ = pictures.shape
    if n == 0:
        raise ValueError("filters: expected at least one picture to lay out, got none")
    n_columns = n_columns or int(np.ceil(np.sqrt(n)))
    n_rows = -(-n // n_columns)
    down, across = height + gap_px, width + gap_px
    sheet = np.ones((n_rows * down - gap_px, n_columns * across - gap_px, 3))
    for i, picture in enumerate(pictures):
        top, left = i // n_columns * down, i % n_columns * across
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _as_rgb(pictures: np.ndarray) -> np.ndarray:
    of_three = np.repeat(pictures, 3, axis=1) if pictures.shape[1] == 1 else pictures
    return of_three.transpose(0, 2, 3, 1)
