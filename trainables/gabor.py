"""Synthetic Gabor filters for a first convolution (Raghu et al. 2019)."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_KERNEL_PX = 3
N_ORIENTATIONS, N_FREQUENCIES, N_PHASES = 8, 3, 4
# In cycles per kernel and per pixel. Pixels show 0.5 at most; from 0.4 on, filters this wide fold over there.
LOWEST_CYCLES, HIGHEST_FREQUENCY = 1.25, 1 / 3
# Below this, frequencies can hardly be told apart: odd waves along an axis of 3 pixels are all (-1, 0, 1).
SEVERAL_FREQUENCIES_FROM_PX = 5
# One octave wide: the spectrum, a Gaussian of sd 1 / (2 pi sd) about the frequency f, is at half its height
# at 2/3 f and 4/3 f.
SD_TIMES_FREQUENCY = 3 * math.sqrt(math.log(2) / 2) / math.pi
GREATEST_SD_PER_PX = 0.25
# Light and dark, red and green, blue and yellow; orthonormal.
_COLOURS: dict[int, dict[str, tuple[float, ...]]] = {
    1: {"grey": (1.0,)},
    3: {
        "grey": (3**-0.5, 3**-0.5, 3**-0.5),
        "red-green": (2**-0.5, -(2**-0.5), 0.0),
        "blue-yellow": (-(6**-0.5), -(6**-0.5), 2 * 6**-0.5),
    },
}


@dataclass(frozen=True)
class Gabor:
    """One filter of the grid.

    Attributes:
        orientation: of the wave's direction, in radians from the x axis (columns) towards the y axis (rows).
        frequency: in cycles per pixel.
        phase: in radians at the centre; 0 is even, a bright bar.
        colour: the weight of each channel, of Euclidean norm 1.
    """

    orientation: float
    frequency: float
    phase: float
    colour: tuple[float, ...]


def gabor_grid(channels: int, kernel_px: int) -> tuple[Gabor, ...]:
    """Return every filter that can be drawn for kernels of `kernel_px` x `kernel_px`.

    The paper's grid is not known; this one is ours. It is the product of 8 orientations over half a turn,
    3 frequencies spaced evenly in the logarithm from 1.25 cycles per kernel to 1/3 cycle per pixel (kernels
    below 5 pixels: only the latter), 4 phases over a turn (two filters of opposite sign are two filters
    to the ReLU that follows), and the colours: grey, and for 3 channels also red against green and blue
    against yellow. That is 96 filters for 1 channel and 288 for 3 (below 5 pixels 32 and 96).

    Raises:
        ValueError: a kernel below 3 pixels, or channels that are neither 1 nor 3.
    """
    if kernel_px < SMALLEST_KERNEL_PX:
        raise ValueError(f"kernel_px must be at least {SMALLEST_KERNEL_PX}, got {kernel_px}")
    if channels not in _COLOURS:
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    parts = itertools.product(
        [math.pi * i / N_ORIENTATIONS for i in range(N_ORIENTATIONS)],
        _frequencies(kernel_px),
        [math.tau * i / N_PHASES for i in range(N_PHASES)],
        _COLOURS[channels].values(),
    )
    return tuple(Gabor(*part) for part in parts)


def _frequencies(kernel_px: int) -> list[float]:
    if kernel_px < SEVERAL_FREQUENCIES_FROM_PX:
        return [HIGHEST_FREQUENCY]
    lowest = LOWEST_CYCLES / kernel_px
    ratio = HIGHEST_FREQUENCY / lowest
    return [lowest * ratio ** (i / (N_FREQUENCIES - 1)) for i in range(N_FREQUENCIES)]


def gabor_filter(gabor: Gabor, kernel_px: int) -> Tensor:
    """Return a filter (channels, kernel_px, kernel_px) float64, of mean 0 and Euclidean norm 1.

    A plane wave under a round Gaussian, one octave wide where the kernel has room for that, else of a
    quarter of the kernel. The mean is taken away in the shape of the Gaussian, so that the edges stay near 0.
    """
    sd = min(SD_TIMES_FREQUENCY / gabor.frequency, GREATEST_SD_PER_PX * kernel_px)
    axis = torch.arange(kernel_px, dtype=torch.float64) - (kernel_px - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * sd**2))
    along = x * math.cos(gabor.orientation) + y * math.sin(gabor.orientation)
    wave = torch.cos(math.tau * gabor.frequency * along + gabor.phase)
    values = envelope * (wave - (envelope * wave).sum() / envelope.sum())
    colour = torch.tensor(gabor.colour, dtype=torch.float64)
    return colour[:, None, None] * values / values.norm()


def gabor_bank(n_filters: int, channels: int, kernel_px: int, *, generator: torch.Generator) -> Tensor:
    """Draw filters (n_filters, channels, kernel_px, kernel_px) float64 from the grid, without replacement.

    A bank larger than the grid holds every filter of it before one comes again.

    Raises:
        ValueError: as in `gabor_grid`.
    """
    grid = gabor_grid(channels, kernel_px)
    n_rounds = math.ceil(n_filters / len(grid))
    rounds = [torch.randperm(len(grid), generator=generator) for _ in range(n_rounds)]
    chosen = torch.cat(rounds)[:n_filters].tolist()
    return torch.stack([gabor_filter(grid[i], kernel_px) for i in chosen])
