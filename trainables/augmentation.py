"""Random changes of a batch of images, and their normalization. Runs on the device of the images.

What is drawn is drawn on the CPU, so a GPU sees the same augmentation, and it can be drawn ahead.
torchvision's transforms draw once for a whole batch; here the distributions are theirs, and every image has
its own draw.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.devices import to_device
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
    return normalization(mean=mean, sd=sd, device=images.device)(images)


def normalization(
    *, mean: tuple[float, ...], sd: tuple[float, ...], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return `normalize_pixels` for many batches, its numbers on the device once and for all."""
    center, scale = (
        torch.tensor(numbers, dtype=torch.float32, device=device).view(-1, 1, 1) for numbers in (mean, sd)
    )
    return lambda images: images.sub(center).div_(scale)


@dataclass(frozen=True)
class Changes:
    """What was drawn for a batch, and how to do it to the images.

    Attributes:
        rows, columns: (n, height) and (n, width), which pixel each one is taken from; None moves nothing.
        theta: (n, 2, 3), of `affine_grid`; None interpolates nothing.
        factors: (n,) of brightness, contrast and saturation, in this order.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    theta: Tensor | None = None
    factors: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Changes":
        """Return them on a device, without waiting for it."""

        def moved(drawn: Tensor | None) -> Tensor | None:
            return None if drawn is None else to_device(drawn, device)

        factors = {name: to_device(drawn, device) for name, drawn in self.factors.items()}
        return Changes(moved(self.rows), moved(self.columns), moved(self.theta), factors)

    def part(self, some: slice) -> "Changes":
        """Return those of some of the images."""
        rows, columns, theta = (None if x is None else x[some] for x in (self.rows, self.columns, self.theta))
        return Changes(rows, columns, theta, {name: drawn[some] for name, drawn in self.factors.items()})

    @staticmethod
    def joined(changes: "Sequence[Changes]") -> "Changes":
        """Return the changes of several batches, one after the other, that follow one `AugmentSpec`."""

        def joint(parts: Iterable[Tensor | None]) -> Tensor | None:
            given = [part for part in parts if part is not None]
            return torch.cat(given) if given else None

        return Changes(
            rows=joint(one.rows for one in changes),
            columns=joint(one.columns for one in changes),
            theta=joint(one.theta for one in changes),
            factors={name: torch.cat([one.factors[name] for one in changes]) for name in changes[0].factors},
        )

    def apply(self, pixels: Tensor) -> Tensor:
        """Return changed images in 0 … 1.

        Args:
            pixels: (n, channels, height, width) uint8, or float in 0 … 1; on the device of the changes.
        """
        if self.rows is not None and self.columns is not None:
            pixels = _moved_by_pixels(pixels, self.rows, self.columns)  # a quarter of the bytes of floats
        images = scale_pixels(pixels) if pixels.dtype == torch.uint8 else pixels
        if self.theta is not None:
            grid = _affine_grid(self.theta.to(images), *images.shape[2:])
            images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        for name, factors in self.factors.items():
            factors = factors.to(images).view(-1, 1, 1, 1)
            images = (factors * images + (1 - factors) * _reference(name, images)).clamp(0, 1)
        return images


def _affine_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """Return where every pixel is taken from, (n, height, width, 2), in -1 … 1 between the images' edges.

    What `F.affine_grid` does by a matrix product, which GPUs may compute in 10 bits (`precision: tf32`).

    Args:
        theta: (n, 2, 3).
    """
    x = (2 * torch.arange(width, device=theta.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=theta.device) + 1) / height - 1
    of_x, of_y, shift = theta.view(-1, 1, 1, 2, 3).unbind(-1)
    return of_x * x.view(1, 1, -1, 1) + of_y * y.view(1, -1, 1, 1) + shift


def augment(images: Tensor, spec: AugmentSpec, *, generator: torch.Generator) -> Tensor:
    """Change every image on its own, as `draw_changes` and `Changes.apply` do one after the other."""
    return draw_changes(spec, images.shape, generator=generator).to(images.device).apply(images)


def draw_changes(spec: AugmentSpec, shape: Sequence[int], *, generator: torch.Generator) -> Changes:
    """Draw what `AugmentSpec` describes for every image of a batch.

    Flips and shifts by whole pixels are exact; where more is asked for, all geometry together is one bilinear
    interpolation.

    Args:
        shape: of the batch: (n, channels, height, width).
        generator: on the CPU.

    Raises:
        SpecError: a shift is not smaller than the image.
    """
    if spec == AugmentSpec():
        return Changes()
    n, n_channels, height, width = shape
    if spec.shift_px >= min(height, width):
        raise SpecError(
            f"training.augment.shift_px must be below the side of the images, {min(height, width)}, "
            f"got {spec.shift_px}"
        )
    is_flipped = torch.rand(n, generator=generator) < (0.5 if spec.horizontal_flip else 0.0)
    shifts = torch.randint(-spec.shift_px, spec.shift_px + 1, (2, n, 1), generator=generator)
    is_upset = torch.rand(n, generator=generator) < (0.5 if spec.vertical_flip else 0.0)
    rows = columns = theta = None
    if not _is_exact(spec):
        signs = torch.stack([1.0 - 2.0 * is_flipped, 1.0 - 2.0 * is_upset], dim=1)
        theta = _draw_theta(spec, (n, height, width), shifts[:, :, 0].T, signs, generator)
    elif spec.horizontal_flip or spec.vertical_flip or spec.shift_px:
        rows = _reflected(torch.arange(height) + shifts[0], height)
        columns = _reflected(torch.arange(width) + shifts[1], width)
        rows = torch.where(is_upset[:, None], rows.flip(1), rows)
        columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
    return Changes(rows, columns, theta, _draw_factors(spec, n, n_channels, generator))


def _is_exact(spec: AugmentSpec) -> bool:
    return spec.rotation_degrees == 0 and spec.scale == (1.0, 1.0) and spec.crop_area == (1.0, 1.0)


def _moved_by_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Take every pixel from a row and a column of its own image."""
    n, channels = images.shape[:2]
    sample = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Fold positions beyond the border back into 0 … size - 1, the border itself not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def _draw_theta(
    spec: AugmentSpec,
    shape: tuple[int, int, int],
    shifts: Tensor,
    signs: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draw a crop, a flip, a turn, a magnification and a shift as one affine map, (n, 2, 3).

    Every output pixel is followed back through the changes: shifted, turned and shrunk about the centre,
    flipped, and placed in the crop. Coordinates run from -1 to 1 over an image.

    Args:
        shape: n, height and width.
        shifts: (n, 2) rows and columns; what a shift uncovers is filled by reflection.
        signs: (n, 2), -1 where x or y is flipped.
    """
    n, height, width = shape
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
    return torch.cat([linear, offset[:, :, None]], dim=2)


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


def _draw_factors(
    spec: AugmentSpec, n: int, n_channels: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw how brightness, contrast and saturation change, as torchvision's ColorJitter does each."""
    amounts = {name: getattr(spec, name) for name in ("brightness", "contrast", "saturation")}
    if n_channels == 1:
        del amounts["saturation"]
    return {
        name: _uniform(n, 1 - amount, 1 + amount, generator) for name, amount in amounts.items() if amount
    }


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
