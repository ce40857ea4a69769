"""Where a network looks: maps over the image of what a class's score depends on.

Every method takes normalised float32 images (n, channels, h, w) on the network's device and one class index
per image, (n,), and returns maps (n, h, w), float32 and at least 0, in the method's own unit: two images
can be compared. `for_display` scales them for the eye. What is explained is the class's logit, of labels the
label's. The network runs in eval mode and is left as it was: mode, gradients, hooks and weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import Tensor, nn

from analysis.networks.class_scores import Score, as_array, scores_of
from analysis.networks.stage_maps import grad_cam, grad_cam_stage
from trainables.architectures.stages import Network
from trainables.errors import unknown_choice
from trainables.seeding import seeded

BATCH_IMAGES = 64
DISPLAY_PERCENTILE = 99.0


def gradient(module: nn.Module, images: Tensor, targets: Tensor, *, score: Score = "logit") -> np.ndarray:
    """Return the largest |d score / d pixel| over the channels (Simonyan et al. 2013, section 3.1).

    Args:
        score: the paper's is the logit. A probability, softmax or for labels sigmoid, flattens out where
            the network is certain and, with softmax, also tells what speaks against the other classes.
    """
    with scores_of(module, images, targets, score) as (scores, pixels):
        gradients = Saliency(scores).attribute(pixels, target=targets)
    return as_array(gradients.amax(dim=1))


def smooth_grad(
    module: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    n_draws: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> np.ndarray:
    """Average the logit's signed gradient over noisy copies of the image (Smilkov et al. 2017).

    The map is the largest |mean gradient| over the channels, as of `gradient`.

    Args:
        noise: standard deviation, as a share of the image's own range (max - min); the paper advises 0.1
            to 0.2. An image of one value has no range, and gets its plain gradient.
        seed: with the place of an image among `images` it decides the draws.
    """
    gradients = torch.empty_like(images)
    with scores_of(module, images, targets, "logit") as (scores, pixels):
        smoothed = NoiseTunnel(Saliency(scores))
        for i, image in enumerate(pixels.detach()):
            with seeded(seed, "smooth_grad", i):
                gradients[i] = smoothed.attribute(
                    image.unsqueeze(0).requires_grad_(),
                    target=targets[i : i + 1],
                    nt_type="smoothgrad",
                    nt_samples=n_draws,
                    stdevs=noise * float(image.max() - image.min()),
                    abs=False,
                )
    return as_array(gradients.abs().amax(dim=1))


def integrated_attributions(
    module: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    baseline: Sequence[float] | None = None,
    n_steps: int = 50,
) -> np.ndarray:
    """Return the signed attribution of every value of the images, (n, channels, h, w).

    Sundararajan et al. 2017: over an image they add up to its logit less that of the baseline, up to the
    error of an integral by `n_steps` Gauss–Legendre points.

    Args:
        baseline: a normalised value per channel; None for 0, the mean of the normalisation. Black is
            `black_baseline(mean, sd)`, which on X-rays hides what is dark.
    """
    n_channels = images.shape[1]
    values = [0.0] * n_channels if baseline is None else list(baseline)
    if len(values) != n_channels:
        raise ValueError(
            f"integrated gradients: the baseline must have one value per channel, got {len(values)} for "
            f"{n_channels} channels"
        )
    blank = torch.tensor(values).to(images).view(1, -1, 1, 1).expand(1, *images.shape[1:])
    with scores_of(module, images, targets, "logit") as (scores, pixels):
        attributions = IntegratedGradients(scores).attribute(
            pixels,
            baselines=blank,
            target=targets,
            n_steps=n_steps,
            internal_batch_size=max(BATCH_IMAGES, len(images)),
        )
    return as_array(attributions)


def integrated_gradients(
    module: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    baseline: Sequence[float] | None = None,
    n_steps: int = 50,
) -> np.ndarray:
    """Return |sum over the channels| of the integrated attributions: pixels for and against look alike."""
    attributions = integrated_attributions(module, images, targets, baseline=baseline, n_steps=n_steps)
    return np.abs(attributions.sum(axis=1))


def black_baseline(mean: Sequence[float], sd: Sequence[float]) -> tuple[float, ...]:
    """Return the normalised value per channel of a black image."""
    return tuple(-m / s for m, s in zip(mean, sd, strict=True))


@dataclass(frozen=True)
class Method:
    """A way to explain a prediction, with its usual settings.

    Attributes:
        title: for people.
        explain: called as `explain(network, images, targets)`.
        settings: what was chosen, as a caption says it.
    """

    title: str
    explain: Callable[[Network, Tensor, Tensor], np.ndarray]
    settings: str


METHODS: dict[str, Method] = {
    "gradient": Method(
        "Gradient",
        lambda network, images, targets: gradient(network.module, images, targets),
        "largest |gradient| of the logit over the channels",
    ),
    "smooth_grad": Method(
        "SmoothGrad",
        lambda network, images, targets: smooth_grad(network.module, images, targets),
        "mean gradient of the logit over 25 noisy copies, noise 15 % of the image's range",
    ),
    "integrated_gradients": Method(
        "Integrated gradients",
        lambda network, images, targets: integrated_gradients(network.module, images, targets),
        "from the mean of the normalisation, 50 steps, magnitude of the sum over the channels",
    ),
    "grad_cam": Method(
        "Grad-CAM",
        lambda network, images, targets: grad_cam(
            network, images, targets, stage=grad_cam_stage(network, images)
        ),
        "at the last stage whose map has at least 4 × 4 positions",
    ),
    "gradient_of_probability": Method(
        "Gradient of the probability",
        lambda network, images, targets: gradient(network.module, images, targets, score="softmax"),
        "largest |gradient| of the softmax probability over the channels",
    ),
}


def explain(network: Network, images: Tensor, targets: Tensor, *, method: str) -> np.ndarray:
    """Return the maps (n, h, w) of a method of `METHODS`.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(unknown_choice("method", method, METHODS))
    return METHODS[method].explain(network, images, targets)


@dataclass(frozen=True)
class ExplainedImages:
    """Images, what they are and are taken for, and why.

    Attributes:
        images: uint8, (n, channels, h, w).
        labels: what each image is, (n,).
        predicted: what the network of each initialization takes it for, (n,) each.
        maps: raw maps (n, h, w), at least 0, by method (a key of `METHODS`, or a title) and initialization.
    """

    images: np.ndarray
    labels: Sequence[str]
    predicted: Mapping[str, Sequence[str]]
    maps: Mapping[str, Mapping[str, np.ndarray]]


class Displayed(NamedTuple):
    """Maps for the eye: values from 0 to 1, and how many maps are 0 throughout."""

    maps: np.ndarray
    n_blank: int


def for_display(maps: np.ndarray) -> Displayed:
    """Scale each map (n, h, w) so that its 99th percentile, or else its maximum, becomes 1; clip there.

    A single bright pixel so leaves the rest visible. A map of zeros stays one: min-max scaling would hide
    it or divide by 0.

    Raises:
        ValueError: a value is negative or not finite.
    """
    if not (np.isfinite(maps).all() and (maps >= 0).all()):
        raise ValueError("maps for display must be finite and at least 0, got a map that is not")
    flat = maps.reshape(len(maps), maps.shape[1] * maps.shape[2])
    largest = flat.max(axis=1)
    percentile = np.percentile(flat, DISPLAY_PERCENTILE, axis=1)
    scale = np.where(percentile > 0, percentile, largest)
    safe = np.where(scale > 0, scale, 1.0)[:, None, None]
    return Displayed(np.minimum(maps / safe, 1).astype(np.float32), int((largest == 0).sum()))
