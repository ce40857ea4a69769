"""Random changes of a batch of images, and their normalization. Runs on the device of the images.

What is drawn is drawn on the CPU, so a GPU sees the same augmentation. torchvision's transforms draw once for
a whole batch; here the distributions are theirs, and every image has its own draw.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.errors import SpecError
from trainables.spec import AugmentSpec

CROP_ATTEMPTS = 10
ASPECT_RATIOS = (3 / 4, 4 / 3)


def scale_pixels(pixels: Tensor) -> Tensor:
    """Return float32 images in 0 … 1 of uint8 pixels."""
    return pixels.float().div_(255)


def normalize_pixels(images: Tensor, *, mean: tuple[float, ...], sd: tuple[float, ...]) -> Tensor:
    """Return images of about zero mean and unit variance.

    Args:
        images: (n, channels, height, width) in 0 … 1.
        mean, sd: per channel.
    """
    center = torch.tensor(mean, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    scale = torch.tensor(sd, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    return images.sub(center).div_(scale)


def augment(images: Tensor, spec: AugmentSpec, *, generator: torch.Generator) -> Tensor:
    """Change every image on its own, as `AugmentSpec` describes.

    Flips and shifts by whole pixels are exact; where more is asked for, all geometry together is one bilinear
    interpolation.

    Args:
        images: (n, channels, height, width) float, in 0 … 1.
        generator: on the CPU.

    Raises:
        SpecError: a shift is not smaller than the image.
    """
    if spec == AugmentSpec():
        return images
    n, _, height, width = images.shape
    if spec.shift_px >= min(height, width):
        raise SpecError(
            f"training.augment.shift_px must be below the side of the images, {min(height, width)}, "
            f"got {spec.shift_px}"
        )
    is_flipped = torch.rand(n, generator=generator) < (0.5 if spec.horizontal_flip else 0.0)
    shifts = torch.randint(-spec.shift_px, spec.shift_px + 1, (2, n, 1), generator=generator)
    is_upset = torch.rand(n, generator=generator) < (0.5 if spec.vertical_flip else 0.0)
    if _is_exact(spec):
        images = _moved_by_pixels(images, shifts, is_flipped=is_flipped, is_upset=is_upset)
    else:
        signs = torch.stack([1.0 - 2.0 * is_flipped, 1.0 - 2.0 * is_upset], dim=1)
        images = _resampled(images, spec, shifts=shifts[:, :, 0].T, signs=signs, generator=generator)
    return _recoloured(images, spec, generator)


def _is_exact(spec: AugmentSpec) -> bool:
    return spec.rotation_degrees == 0 and spec.scale == (1.0, 1.0) and spec.crop_area == (1.0, 1.0)


def _moved_by_pixels(images: Tensor, shifts: Tensor, *, is_flipped: Tensor, is_upset: Tensor) -> Tensor:
    """Flip and shift; what a shift uncovers is filled by reflection."""
    n, channels, height, width = images.shape
    rows = _reflected(torch.arange(height) + shifts[0], height)
    columns = _reflected(torch.arange(width) + shifts[1], width)
    rows = torch.where(is_upset[:, None], rows.flip(1), rows).to(images.device)
    columns = torch.where(is_flipped[:, None], columns.flip(1), columns).to(images.device)
    sample = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Fold positions beyond the border back into 0 … size - 1, the border itself not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def _resampled(
    images: Tensor, spec: AugmentSpec, *, shifts: Tensor, signs: Tensor, generator: torch.Generator
) -> Tensor:
    """Crop, flip, turn, magnify and shift in one interpolation.

    Every output pixel is followed back through the changes: shifted, turned and shrunk about the centre,
    flipped, and placed in the crop. Coordinates run from -1 to 1 over an image.

    Args:
        shifts: (n, 2) rows and columns.
        signs: (n, 2), -1 where x or y is flipped.
    """
    n, _, height, width = images.shape
    angles = _uniform(n, -spec.rotation_degrees, spec.rotation_degrees, generator).deg2rad()
    scales = _uniform(n, *spec.scale, generator)
    centre, half = _crops(n, spec.crop_area, generator)
    # A turn in pixels: on images that are not square, x and y are stretched apart.
    stretch = torch.tensor([width / height, height / width])
    cos, sin = angles.cos() / scales, angles.sin() / scales
    turn = torch.stack([torch.stack([cos, -sin * stretch[1]], 1), torch.stack([sin * stretch[0], cos], 1)], 1)
    shift = shifts.flip(1) * torch.tensor([2 / width, 2 / height])
    linear = (half * signs)[:, :, None] * turn
    offset = centre + (linear @ shift[:, :, None])[:, :, 0]
    theta = torch.cat([linear, offset[:, :, None]], dim=2).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _crops(n: int, area: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw crops as torchvision's RandomResizedCrop does: centre and half size, (n, 2), of an image -1 … 1.

    The first of ten attempts that fits is taken; where none does, the whole image.
    """
    low, high = math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])
    shares = _uniform((n, CROP_ATTEMPTS), *area, generator)
    ratios = _uniform((n, CROP_ATTEMPTS), low, high, generator).exp()
    places = _uniform((n, 2), -1.0, 1.0, generator)
    if area == (1.0, 1.0):
        return torch.zeros(n, 2), torch.ones(n, 2)
    half = torch.stack([(shares * ratios).sqrt(), (shares / ratios).sqrt()], dim=2)
    fits = (half <= 1).all(2)
    first = fits.float().argmax(1)
    chosen = half[torch.arange(n), first]
    chosen = torch.where(fits.any(1, keepdim=True), chosen, torch.ones(n, 2))
    return places * (1 - chosen), chosen


def _recoloured(images: Tensor, spec: AugmentSpec, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation, in this order, as torchvision's ColorJitter does each."""
    n = len(images)
    for name in ("brightness", "contrast", "saturation"):
        amount = getattr(spec, name)
        if amount == 0 or (name == "saturation" and images.shape[1] == 1):
            continue
        factors = _uniform(n, 1 - amount, 1 + amount, generator).to(images).view(n, 1, 1, 1)
        images = (factors * images + (1 - factors) * _reference(name, images)).clamp(0, 1)
    return images


def _reference(change: str, images: Tensor) -> Tensor:
    """Return what a factor of 0 gives: black, the mean grey, or the grey image."""
    if change == "brightness":
        return torch.zeros_like(images)
    grey = images if images.shape[1] == 1 else _grey(images)
    return grey.mean(dim=(1, 2, 3), keepdim=True) if change == "contrast" else grey


def _grey(images: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import rgb_to_grayscale  # takes seconds to import

    return rgb_to_grayscale(images)


def _uniform(shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
