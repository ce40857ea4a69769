"""Which part of an image a class's score needs: the smallest region whose blurring takes the score away.

Meaningful perturbation (Fong & Vedaldi 2017), with the objective, the sums and the constants of the authors'
code. Minimised per image over a coarse mask m in [0, 1], 1 = keep:

    l1 Σ |1 - m|  +  tv Σ (∂x m² + ∂y m²)^(tv_beta / 2)  +  p(class | m · image + (1 - m) · blurred image)

The constants are for images of 224 px. Lengths (blurs, jitter, circles) scale with the side of the image, and
the mask has 28 × 28 cells whatever the side (8 px of 224), so that both sums keep their weight against the
score; a side below 28 px has a cell per pixel and so a smaller sum. The jitter is at least 1 px.

Where we differ: the gradient passes through the blur of the mask, which theirs leaves out; jitter shifts
the padded image by up to 2 px either way, where theirs enlarges it by 4 px and cuts; blurs are exact
Gaussians that renormalise at the edges; the first circle is averaged over the cells, not picked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.networks.class_scores import SCORES, Score, as_array, check_targets, quiet
from trainables.errors import unknown_choice
from trainables.seeding import generator

REFERENCE_PX = 224


@dataclass(frozen=True)
class PerturbationSettings:
    """Constants of the authors' code; lengths are for a side of 224 px.

    Attributes:
        cells: of the mask, per side.
        l1, tv: weights of sums over the cells, not of means.
        null_blur_px, mask_blur_px, circle_edge_px: standard deviations of Gaussians.
        jitter_px: how far apart two shifts of the image can be.
        circle_radii_px: of the mask to start from: the smallest that takes the score to
            `circle_share` of the way from the blurred to the original one, else the largest.
    """

    n_iterations: int = 300
    lr: float = 0.1
    l1: float = 1e-4
    tv: float = 1e-2
    tv_beta: float = 3.0
    cells: int = 28
    null_blur_px: float = 10.0
    mask_blur_px: float = 5.0
    jitter_px: float = 4.0
    circle_radii_px: tuple[int, ...] = tuple(range(0, 175, 5))
    circle_edge_px: float = 10.0
    circle_share: float = 0.01


class Perturbation(NamedTuple):
    """What was deleted, and what that did to the score of the class.

    Attributes:
        masks: (n, h, w), float32, 1 = keep, 0 = blurred away. `1 - masks` is a map as of other methods.
        original, null, masked: (n,), the class's probability of the image, of the blurred image, and of the
            image under its mask. Where null is not below original there was nothing to delete.
    """

    masks: np.ndarray
    original: np.ndarray
    null: np.ndarray
    masked: np.ndarray


def perturb(
    module: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    score: Score = "softmax",
    seed: int = 0,
    settings: PerturbationSettings | None = None,
) -> Perturbation:
    """Learn a mask per image; those of a batch do not affect each other.

    Args:
        images: normalised float32, (n, channels, side, side), on the module's device.
        targets: class indices, (n,).
        score: softmax, the authors'; sigmoid for labels. A logit has no scale to weigh against the sums.
        seed: of the jitter.

    Raises:
        ValueError: images that are not square, targets that do not fit, another score.
    """
    settings = settings or PerturbationSettings()
    if score not in ("softmax", "sigmoid"):
        raise ValueError(unknown_choice("score of a perturbation", score, ("softmax", "sigmoid")))
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"perturbation needs square images (n, channels, h, h), got {tuple(images.shape)}")
    check_targets(images, targets)

    def probability(pixels: Tensor) -> Tensor:
        return SCORES[score](module(pixels)).gather(1, targets[:, None])[:, 0]

    side = images.shape[2]
    spread = _spread(side, settings).to(images)
    null = _along_both(_blur(side, settings.null_blur_px).to(images), images)
    with quiet(module):
        cells = _circles(probability, images, null, settings)
        cells = _optimise(probability, images, null, cells, spread=spread, settings=settings, seed=seed)
        with torch.no_grad():
            masks = _along_both(spread, cells).clamp(0, 1)  # the weights of a blur add up to 1 ± 1e-7
            scores = [probability(x) for x in (images.clone(), null.clone(), _blend(masks, images, null))]
    return Perturbation(as_array(masks[:, 0]), *(as_array(of_images) for of_images in scores))


def _optimise(
    probability: Callable[[Tensor], Tensor],
    images: Tensor,
    null: Tensor,
    cells: Tensor,
    *,
    spread: Tensor,
    settings: PerturbationSettings,
    seed: int,
) -> Tensor:
    """Return the cells (n, 1, cells, cells) after gradient descent from the given ones."""
    jitter = _jitter_px(images.shape[2], settings)
    shifts = torch.randint(
        jitter + 1, (settings.n_iterations, 2), generator=generator(seed, "perturbation jitter")
    ).tolist()
    cells = cells.clone().requires_grad_()
    adam = torch.optim.Adam([cells], lr=settings.lr)
    both = _pad(torch.cat([images, null], dim=1), jitter)
    n_channels, side = images.shape[1], images.shape[2]
    for down, right in shifts:
        seen = both[:, :, down : down + side, right : right + side]
        mixed = _blend(_along_both(spread, cells), seen[:, :n_channels], seen[:, n_channels:])
        # Summed over images: each has its own cells, and Adam steps every cell by its own history.
        loss = (probability(mixed) + _penalty(cells, settings)).sum()
        (cells.grad,) = torch.autograd.grad(loss, cells)
        adam.step()
        with torch.no_grad():
            cells.clamp_(0, 1)
    return cells.detach()


def _penalty(cells: Tensor, settings: PerturbationSettings) -> Tensor:
    """Return the weighted sums over the cells of each mask, (n,)."""
    down = F.pad(cells.diff(dim=2), (0, 0, 0, 1))
    right = F.pad(cells.diff(dim=3), (0, 1))
    roughness = (down**2 + right**2) ** (settings.tv_beta / 2)
    deleted = (1 - cells).abs()
    return (settings.l1 * deleted + settings.tv * roughness).sum(dim=(1, 2, 3))


def _circles(
    probability: Callable[[Tensor], Tensor], images: Tensor, null: Tensor, settings: PerturbationSettings
) -> Tensor:
    """Return the cells of the smallest blurred circle that takes the score away, per image."""
    side = images.shape[2]
    scale = side / REFERENCE_PX
    offsets = torch.arange(side, device=images.device) - side // 2
    distances = offsets[:, None] ** 2 + offsets[None, :] ** 2
    edge = _blur(side, settings.circle_edge_px).to(images)
    chosen = torch.zeros(len(images), 1, side, side).to(images)
    is_open = torch.ones(len(images), dtype=torch.bool, device=images.device)
    with torch.no_grad():
        original, blurred = probability(images.clone()), probability(null.clone())
        enough = settings.circle_share * (original - blurred)
        for radius in settings.circle_radii_px:
            inside = (distances <= (radius * scale) ** 2).to(images)[None, None]
            mask = 1 - _along_both(edge, inside)
            chosen[is_open] = mask
            is_open &= probability(_blend(mask, images, null)) - blurred >= enough
            if not is_open.any():
                break
    return F.adaptive_avg_pool2d(chosen, min(settings.cells, side))


def _blend(masks: Tensor, images: Tensor, null: Tensor) -> Tensor:
    return masks * images + (1 - masks) * null


def _jitter_px(side: int, settings: PerturbationSettings) -> int:
    if settings.jitter_px == 0:
        return 0
    return max(1, round(settings.jitter_px * side / REFERENCE_PX))


def _pad(images: Tensor, jitter: int) -> Tensor:
    before = jitter // 2
    return F.pad(images, (before, jitter - before, before, jitter - before), mode="replicate")


def _spread(side: int, settings: PerturbationSettings) -> Tensor:
    """Return the matrix (side, cells) that enlarges a row of cells, each to a block, and blurs it."""
    n_cells = min(settings.cells, side)
    enlarged = F.interpolate(torch.eye(n_cells)[None], size=side, mode="nearest")[0].T
    return _blur(side, settings.mask_blur_px) @ enlarged


def _blur(side: int, sd_px: float) -> Tensor:
    """Return the matrix (side, side) that blurs a row by a Gaussian; what falls off the edge is left out.

    Args:
        sd_px: at a side of 224 px.
    """
    places = torch.arange(side, dtype=torch.float64)
    distances = (places[:, None] - places[None, :]) / (sd_px * side / REFERENCE_PX)
    weights = torch.exp(-(distances**2) / 2)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _along_both(matrix: Tensor, maps: Tensor) -> Tensor:
    """Apply a matrix to the columns and to the rows of maps (…, h, w)."""
    return matrix @ maps @ matrix.T
