"""How far training moves weights: of every filter of the first convolution, and of every stage.

For the picture in Transfusion's figure 5 no number is published; cosine and relative L2 distance to the
initialization are the usual ones. Running statistics of batch norm are no parameters and are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from analysis.networks.state_dicts import StateDict, entry
from trainables.architectures.stages import Network

KERNELS, ALL_PARAMETERS = "kernels", "all parameters"
CHANGE_COLUMNS = (
    "stage", "parameters", "cosine", "relative_l2", "distance", "norm_before", "norm_after", "n_values",
    "n_zero_tensors",
)  # fmt: skip

_WITH_KERNEL = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class FilterChange:
    """The change of each filter of a convolution.

    Attributes:
        cosine: (n_filters,) of a filter before with itself after; NaN where one of them is zero.
        relative_l2: (n_filters,) ‖after − before‖ / ‖before‖; NaN where the filter was zero before.
        n_zero: filters that were zero before or are after.
    """

    cosine: np.ndarray
    relative_l2: np.ndarray
    n_zero: int


def filter_change(before: np.ndarray, after: np.ndarray) -> FilterChange:
    """Compare filters, (n_filters, …), each with itself.

    Raises:
        ValueError: their shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"filters: expected the same shape before and after, got {before.shape} and {after.shape}"
        )
    x, y = (np.asarray(side, dtype=np.float64).reshape(len(side), -1) for side in (before, after))
    norm_x, norm_y = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    cosine = np.clip(_divided((x * y).sum(1), norm_x * norm_y), -1, 1)
    relative_l2 = _divided(np.linalg.norm(y - x, axis=1), norm_x)
    return FilterChange(cosine, relative_l2, int(((norm_x == 0) | (norm_y == 0)).sum()))


def filter_rows(change: FilterChange) -> pd.DataFrame:
    """Return one row per filter: filter, cosine, relative_l2."""
    n = len(change.cosine)
    return pd.DataFrame({"filter": np.arange(n), "cosine": change.cosine, "relative_l2": change.relative_l2})


def stage_change(network: Network, before: StateDict, after: StateDict) -> pd.DataFrame:
    """Compare two state dicts of a network, stage by stage, in float64.

    Args:
        network: says which parameters a stage has; its own weights are not looked at.

    Returns:
        Two rows per stage, CHANGE_COLUMNS: for `kernels` (weights of convolutions, of linear layers and of
        attention's input projection) and for `all parameters` (also biases, affine parameters of norms,
        embeddings and tokens). All parameters of a stage are taken as one vector. cosine and relative_l2
        are NaN where a norm they divide by is 0, or where the stage has no such parameters.
        `n_zero_tensors` counts the parameter tensors that were all 0 before, as biases often are.

    Raises:
        ValueError: a state dict lacks a parameter, or has it in another shape.
    """
    parameters = dict(network.module.named_parameters())
    kernels = _kernel_names(network.module)
    rows = []
    for stage in network.stages:
        names = [name for name in parameters if stage.holds(name)]
        for label, chosen in (
            (KERNELS, [name for name in names if name in kernels]),
            (ALL_PARAMETERS, names),
        ):
            pairs = [
                (entry(before, name, shape=shape), entry(after, name, shape=shape))
                for name in chosen
                for shape in [parameters[name].shape]
            ]
            rows.append({"stage": stage.name, "parameters": label, **_change_of(pairs)})
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def _kernel_names(module: nn.Module) -> set[str]:
    def found() -> Iterator[str]:
        for path, part in module.named_modules():
            if isinstance(part, _WITH_KERNEL):
                yield f"{path}.weight"
            elif isinstance(part, nn.MultiheadAttention):
                # Query, key and value in one tensor, or in three where they differ in width.
                yield from (f"{path}.{name}_proj_weight" for name in ("in", "q", "k", "v"))

    return set(found())


def _change_of(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    sums = sum((_sums(*pair) for pair in pairs), np.zeros(4))
    norm_before, norm_after, distance = np.sqrt(sums[:3])
    return {
        "cosine": float(np.clip(_divided(sums[3], norm_before * norm_after), -1, 1)),
        "relative_l2": float(_divided(distance, norm_before)),
        "distance": float(distance),
        "norm_before": float(norm_before),
        "norm_after": float(norm_after),
        "n_values": sum(before.numel() for before, _ in pairs),
        "n_zero_tensors": sum(not bool(before.any()) for before, _ in pairs),
    }


def _sums(before: Tensor, after: Tensor) -> np.ndarray:
    """Return the squares before, after and of the difference, and the products, each added up."""
    x, y = (side.to("cpu", torch.float64).flatten() for side in (before, after))
    difference = y - x
    return np.array([float(a @ b) for a, b in ((x, x), (y, y), (difference, difference), (x, y))])


def _divided(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Divide; NaN where the divisor is 0."""
    values, by = np.broadcast_arrays(values, by)
    return np.divide(values, by, out=np.full(values.shape, np.nan), where=by != 0)
