"""Random changes of a batch of images, and their normalisation. Runs on the device of the images.

What is drawn is drawn on the CPU, so a GPU sees the same augmentation.
"""

import torch
from torch import Tensor

from trainables.errors import SpecError
from trainables.spec import AugmentSpec


def normalize_pixels(pixels: Tensor, *, mean: tuple[float, ...], sd: tuple[float, ...]) -> Tensor:
    """Return float32 images of about zero mean and unit variance.

    Args:
        pixels: (n, channels, height, width) uint8.
        mean, sd: per channel, of pixels scaled to 0 … 1.
    """
    center = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
    scale = torch.tensor(sd, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
    return pixels.float().div_(255).sub_(center).div_(scale)


def augment(images: Tensor, spec: AugmentSpec, *, generator: torch.Generator) -> Tensor:
    """Flip and shift every image on its own; what a shift uncovers is filled by reflection.

    Args:
        images: (n, channels, height, width) float.
        generator: on the CPU.

    Raises:
        SpecError: a shift is not smaller than the image.
    """
    if not spec.horizontal_flip and spec.shift_px == 0:
        return images
    n, channels, height, width = images.shape
    if spec.shift_px >= min(height, width):
        raise SpecError(
            f"training.augment.shift_px must be below the side of the images, {min(height, width)}, "
            f"got {spec.shift_px}"
        )
    is_flipped = torch.rand(n, generator=generator) < (0.5 if spec.horizontal_flip else 0.0)
    shifts = torch.randint(-spec.shift_px, spec.shift_px + 1, (2, n, 1), generator=generator)
    rows = _reflected(torch.arange(height) + shifts[0], height)
    columns = _reflected(torch.arange(width) + shifts[1], width)
    columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    sample = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Fold positions beyond the border back into 0 … size - 1, the border itself not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()
