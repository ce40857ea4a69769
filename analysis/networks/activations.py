"""One pass over the probe set that runs networks side by side and gathers what comparisons need."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from analysis.networks.probe import ProbeSet
from analysis.numerics.moments import IncomparableError, JointMoments, Moments
from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network

BATCH_IMAGES = 64

Samples = Literal["positions", "interpolated", "average"]


class StagePair(NamedTuple):
    """Which stage of which network is compared with which; networks by their key."""

    network_x: str
    stage_x: str
    network_y: str
    stage_y: str


class Gathered(NamedTuple):
    """What is known of a pair of stages after the pass.

    Attributes:
        moments: over all samples.
        x, y: (n_images, units) rows that belong together, one sample of each image.
    """

    moments: Moments
    x: Tensor
    y: Tensor


def gather(
    networks: Mapping[str, Network],
    pairs: Sequence[StagePair],
    probes: Mapping[str, ProbeSet],
    *,
    positions_per_image: int,
    samples: Samples = "positions",
    on_one_grid: bool = False,
    seed: int = 0,
    device: torch.device | None = None,
) -> dict[StagePair, Gathered]:
    """Run every network over its probe set and return what is needed to compare each pair of stages.

    Samples are images for a linear output. For a feature map they are, by `samples`:

    - `positions`: of each image the same few for both networks, drawn anew for every image without
      replacement, because neighbouring positions are alike and many images tell more than many positions.
      Where the two maps differ in size, the positions are drawn on the smaller one and the larger one is
      read at the place that holds the centre of the drawn cell; a map with fewer positions than asked for
      gives all it has.
    - `interpolated`: the same, after the larger map was reduced to the smaller one's size (bilinear, with
      antialiasing).
    - `average`: images; a map is averaged over its positions. So are maps that meet a linear output.

    Networks are put into eval mode and on `device`. Nothing is kept beyond a batch but one row per image.

    Args:
        probes: by network: the same images, perhaps resized or normalised in different ways.
        positions_per_image: of a feature map.
        on_one_grid: draw the positions of all pairs on the smallest map among them, so that one stage has the
            same samples in every pair.
        seed: of the positions; independent of the batch size.

    Raises:
        IncomparableError: activations are not finite, or the probe sets hold different images.
    """
    device = device or torch.device("cpu")
    _check_same_images(probes)
    # Pairs in one group have the same samples, so that a stage is gathered once for all of them.
    together = on_one_grid or samples == "average"
    groups = [_Group(group, seed) for group in ([tuple(pairs)] if together else [(pair,) for pair in pairs])]
    for network in networks.values():
        network.module.to(device).eval()
    with _recorded(networks, pairs) as outputs, torch.inference_mode():
        batches = {key: probes[key].batches(BATCH_IMAGES, device) for key in networks}
        for images in zip(*batches.values(), strict=True):
            for network, batch in zip(networks.values(), images, strict=True):
                network.module(batch)
            for group in groups:
                group.add(outputs, samples, positions_per_image)
            outputs.clear()
    return {pair: group.of(pair) for group in groups for pair in group.pairs}


class _Group:
    """Pairs of stages that are compared on the same samples."""

    def __init__(self, pairs: Sequence[StagePair], seed: int) -> None:
        self.pairs = pairs
        self._moments = JointMoments((pair[:2], pair[2:]) for pair in pairs)
        self._rng = np.random.default_rng(seed)
        self._kept: dict[Hashable, list[Tensor]] = {key: [] for key in self._moments.keys}

    def add(self, outputs: Mapping[tuple[str, str], Tensor], samples: Samples, positions: int) -> None:
        """Add a batch of images."""
        own: dict[Hashable, Tensor] = {key: out for key, out in outputs.items() if key in self._kept}
        rows = _rows(own, samples, positions, self._rng)
        self._moments.update(rows)
        for key, of_key in rows.items():
            each = len(of_key) // len(own[key])
            self._kept[key].append(of_key[::each].cpu())

    def of(self, pair: StagePair) -> Gathered:
        x, y = (torch.cat(self._kept[key]) for key in (pair[:2], pair[2:]))
        return Gathered(self._moments.of(pair[:2], pair[2:]), x, y)


def _check_same_images(probes: Mapping[str, ProbeSet]) -> None:
    first, *others = probes.values()
    for other in others:
        if not np.array_equal(first.sample_ids, other.sample_ids):
            raise IncomparableError(
                "two networks are compared on the same images, but their datasets give "
                f"{len(first.sample_ids)} and {len(other.sample_ids)} different ones; compare networks of "
                "one dataset and one split"
            )


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


def _rows(
    outputs: Mapping[Hashable, Tensor], samples: Samples, positions: int, rng: np.random.Generator
) -> dict[Hashable, Tensor]:
    """Turn outputs of the same images into (n_samples, units) rows that belong together."""
    if samples == "average" or any(output.ndim == 2 for output in outputs.values()):
        return {key: _averaged(output) for key, output in outputs.items()}
    grid = min((_grid(output) for output in outputs.values()), key=_n_cells)
    if samples == "interpolated":
        outputs = {key: _reduced(output, grid) for key, output in outputs.items()}
    n_images = len(next(iter(outputs.values())))
    cells = _draw_positions(n_images, grid, positions, rng)
    return {key: _rows_at(output, cells, grid) for key, output in outputs.items()}


def _averaged(output: Tensor) -> Tensor:
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output


def _reduced(output: Tensor, grid: tuple[int, int]) -> Tensor:
    if _grid(output) == grid:
        return output
    return functional.interpolate(output, size=grid, mode="bilinear", antialias=True)


def _grid(output: Tensor) -> tuple[int, int]:
    return output.shape[2], output.shape[3]


def _n_cells(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]


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
