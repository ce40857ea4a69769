"""One pass over the probe set that runs networks side by side and gathers the moments of stage pairs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from analysis.networks.probe import ProbeSet
from analysis.numerics.moments import Moments
from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network

BATCH_IMAGES = 64


class StagePair(NamedTuple):
    """Which stage of which network is compared with which; networks by their key."""

    network_x: str
    stage_x: str
    network_y: str
    stage_y: str


def gather_moments(
    networks: Mapping[str, Network],
    pairs: Sequence[StagePair],
    probe: ProbeSet,
    *,
    positions_per_image: int,
    seed: int = 0,
    device: torch.device | None = None,
) -> dict[StagePair, Moments]:
    """Run every network over the probe set and return the moments of each pair of stages.

    Samples are images for a linear output. For a feature map they are positions: of each image the same
    few for both networks, drawn anew for every image without replacement, because neighbouring positions
    are alike and many images tell more than many positions. Where the two maps differ in size, the
    positions are drawn on the smaller one and the larger one is read at the place that holds the centre
    of the drawn cell; a map with fewer positions than asked for gives all it has.

    Networks are put into eval mode and on `device`. Nothing is kept beyond a batch.

    Args:
        positions_per_image: of a feature map.
        seed: of the positions; independent of the batch size.

    Raises:
        IncomparableError: activations are not finite.
        ValueError: a pair of a feature map with a linear output.
    """
    device = device or torch.device("cpu")
    moments = {pair: Moments() for pair in pairs}
    positions = {pair: np.random.default_rng(seed) for pair in pairs}
    for network in networks.values():
        network.module.to(device).eval()
    with _recorded(networks, pairs) as outputs, torch.inference_mode():
        for images in probe.batches(BATCH_IMAGES, device):
            for network in networks.values():
                network.module(images)
            for pair in pairs:
                x = outputs[pair.network_x, pair.stage_x]
                y = outputs[pair.network_y, pair.stage_y]
                moments[pair].update(*_paired_rows(x, y, positions_per_image, positions[pair]))
            outputs.clear()
    return moments


@contextmanager
def _recorded(
    networks: Mapping[str, Network], pairs: Sequence[StagePair]
) -> Iterator[dict[tuple[str, str], Tensor]]:
    """Keep the newest output of every stage that a pair names, by (network, stage)."""
    wanted = {(p.network_x, p.stage_x) for p in pairs} | {(p.network_y, p.stage_y) for p in pairs}
    outputs: dict[tuple[str, str], Tensor] = {}

    def keeper(key: tuple[str, str], stage: Stage):  # type: ignore[no-untyped-def]
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            # A copy, since an in-place ReLU further on would change what was seen here.
            outputs[key] = _as_map(output.detach().clone(), stage)

        return keep

    handles = []
    try:
        for key in sorted(wanted):
            network, stage = networks[key[0]], networks[key[0]].stage(key[1])
            probed = network.module.get_submodule(stage.probe)
            handles.append(probed.register_forward_hook(keeper(key, stage)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _as_map(output: Tensor, stage: Stage) -> Tensor:
    """Return (images, channels, height, width), or (images, units) as it is; tokens become one column."""
    if output.ndim > 2 and stage.is_channels_last:
        output = output.movedim(-1, 1)
    return output.unsqueeze(-1) if output.ndim == 3 else output


def _paired_rows(
    x: Tensor, y: Tensor, positions_per_image: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Turn two stage outputs of the same images into (n_samples, units) rows that belong together."""
    if x.ndim == y.ndim == 2:
        return x, y
    if x.ndim != 4 or y.ndim != 4:
        raise ValueError(
            "two stages are compared as (images, units) or as (images, channels, height, width), "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    grids = (x.shape[2], x.shape[3]), (y.shape[2], y.shape[3])
    smaller = min(grids, key=lambda grid: grid[0] * grid[1])
    cells = _draw_positions(x.shape[0], smaller, positions_per_image, rng)
    return _rows_at(x, cells, smaller), _rows_at(y, cells, smaller)


def _draw_positions(
    n_images: int, grid: tuple[int, int], positions_per_image: int, rng: np.random.Generator
) -> Tensor:
    """Return (n_images, positions, 2) rows and columns of different cells of a grid."""
    height, width = grid
    n_positions = min(positions_per_image, height * width)
    cells = rng.random((n_images, height * width)).argsort(axis=1)[:, :n_positions]
    return torch.from_numpy(np.stack([cells // width, cells % width], axis=-1))


def _rows_at(activations: Tensor, cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Read a map at the places that hold the centres of the cells of a grid."""
    n_channels, height, width = activations.shape[1:]
    # Whole numbers: floor((cell + 1/2) * height / grid height) without rounding errors.
    rows = (2 * cells[..., 0] + 1) * height // (2 * grid[0])
    columns = (2 * cells[..., 1] + 1) * width // (2 * grid[1])
    flat = (rows * width + columns).to(activations.device)
    index = flat.unsqueeze(1).expand(-1, n_channels, -1)
    picked = activations.flatten(2).gather(2, index)
    return picked.permute(0, 2, 1).reshape(-1, n_channels)
