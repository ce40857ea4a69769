"""The score of a class as a function of pixels, of a network that is left as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainables.errors import unknown_choice

Score = Literal["logit", "softmax", "sigmoid"]
SCORES: dict[Score, Callable[[Tensor], Tensor]] = {
    "logit": lambda logits: logits,
    "softmax": lambda logits: torch.softmax(logits, dim=1),
    "sigmoid": torch.sigmoid,
}


@contextmanager
def quiet(module: nn.Module) -> Iterator[None]:
    """Put a network into eval mode without gradients of its parameters; give it back as it was."""
    modes = [(part, part.training) for part in module.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        module.eval().requires_grad_(False)
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, required in wanted:
            parameter.requires_grad_(required)


@contextmanager
def scores_of(
    module: nn.Module, images: Tensor, targets: Tensor, score: Score
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Give the scores as a function of pixels, and pixels that take gradients; both for captum."""
    if score not in SCORES:
        raise ValueError(unknown_choice("score", score, SCORES))
    check_targets(images, targets)
    # The clone lets a first module work in place, which a tensor that takes gradients refuses.
    with quiet(module):
        yield lambda pixels: SCORES[score](module(pixels.clone())), images.detach().clone().requires_grad_()


def check_targets(images: Tensor, targets: Tensor) -> None:
    """Refuse what is not one class index per image.

    Raises:
        ValueError: says what came.
    """
    if targets.shape != images.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets must be one class index (int64) per image, ({len(images)},), got "
            f"{targets.dtype} {tuple(targets.shape)}"
        )


def as_array(maps: Tensor) -> np.ndarray:
    return maps.detach().to("cpu", torch.float32).numpy()
