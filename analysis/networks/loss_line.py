"""The loss along straight lines between weights: initialization to solution, solution to solution.

Goodfellow et al. 2015 looked along the line from the initialization; Neyshabur et al. 2020 found no barrier
between two networks fine-tuned from the same pretrained weights, and one between networks from random
weights. Batch-norm statistics belong to one network and mean nothing in between, so they are estimated
anew at every point; without that, a barrier of their own making stands in the middle.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from analysis.load import FULL_TRAINING
from analysis.networks.batch_statistics import batch_norms, estimate_batch_norm
from analysis.networks.comparisons import FINAL, INITIAL, Comparison, Side
from analysis.networks.state_dicts import StateDict, entry
from trainables.architectures.stages import Network
from trainables.augmentation import normalize_pixels, scale_pixels
from trainables.datasets.loading import Dataset, Split
from trainables.objectives import Objective
from trainables.scores import score
from trainables.seeding import generator

LOW, HIGH, N_POINTS = -0.25, 1.25, 13
BATCH_IMAGES = 64
LINE_METRICS = ("accuracy", "auroc")
FROM_START, BETWEEN_SEEDS = "initialization to solution", "between solutions"


@dataclass(frozen=True)
class LineImages:
    """The fixed images a line is measured on.

    Attributes:
        calibration_batches: normalised training images without augmentation, in batches of one size, from
            which batch-norm statistics are estimated.
        images: (n_images, channels, height, width) normalised.
        labels: as in `trainables.datasets.loading.Split`.
    """

    calibration_batches: tuple[Tensor, ...]
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class LossLine:
    """The loss along a line.

    Attributes:
        points: alpha (0 at the first weights, 1 at the second), loss, accuracy and auroc, one row per point.
            NaN where a metric is not defined on the images, or the logits are not finite.
        barrier: see `barrier_height`.
        n_images, n_calibration: how many images it was measured on.
    """

    points: pd.DataFrame
    barrier: float
    n_images: int
    n_calibration: int


def line_alphas(n_points: int = N_POINTS, *, low: float = LOW, high: float = HIGH) -> tuple[float, ...]:
    """Return evenly spaced points from `low` to `high`, and both ends, 0 and 1.

    Raises:
        ValueError: fewer than two points, or a range that does not hold both ends.
    """
    if n_points < 2 or not low <= 0 < 1 <= high:
        raise ValueError(
            f"loss line: expected at least 2 points on a range that holds 0 and 1, got {n_points} from {low} "
            f"to {high}"
        )
    spaced = np.concatenate([np.linspace(low, high, n_points), [0.0, 1.0]])
    return tuple(np.unique(spaced.round(12)).tolist())


def plan_lines(finished: pd.DataFrame) -> list[Comparison]:
    """Decide which lines to measure, from the rows of finished trials: few, as each costs many passes.

    Of every cell in which all stages were trained: from initialization to solution for its first seed, and
    between the solutions of its first two seeds.
    """
    rows = finished[finished["protocol"] == FULL_TRAINING]
    planned = []
    for (setting, init), cell in rows.groupby(["setting", "init"], sort=False):
        trials = cell.sort_values("seed").head(2).to_dict("records")
        start, *ends = (
            Side(trial["trial_id"], str(init), int(trial["seed"]), checkpoint)
            for trial, checkpoint in [(trials[0], INITIAL), *((trial, FINAL) for trial in trials)]
        )
        facts = (str(setting), trials[0]["architecture"], trials[0]["dataset"])
        planned.append(Comparison(FROM_START, *facts, start, ends[0]))
        if len(ends) == 2:
            planned.append(Comparison(BETWEEN_SEEDS, *facts, ends[0], ends[1]))
    return planned


def line_images(
    dataset: Dataset,
    *,
    n_images: int = 512,
    n_calibration: int = 512,
    batch_size: int = BATCH_IMAGES,
    seed: int = 0,
    device: torch.device,
) -> LineImages:
    """Choose test images to measure on and training images to calibrate with; the same for every line.

    Of small splits all images are taken; calibration images that do not fill a batch are left out, because
    every batch weighs the same in the statistics.
    """
    calibration = _chosen(dataset, dataset.train, n_calibration, generator(seed, "calibration"), device)
    size = min(batch_size, len(calibration))
    whole = calibration[: len(calibration) // size * size]
    places = _places(dataset.test, n_images, generator(seed, "loss line"))
    return LineImages(
        tuple(whole.split(size)),
        _pixels(dataset, dataset.test, places, device),
        torch.from_numpy(np.array(dataset.test.labels[places])).to(device),
    )


def loss_line(
    network: Network,
    weights_a: StateDict,
    weights_b: StateDict,
    *,
    calibration_batches: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    objective: Objective,
    task: str,
    referable_grade: int | None = None,
    alphas: Sequence[float] | None = None,
) -> LossLine:
    """Measure the loss at (1 − alpha) · a + alpha · b; the network is given back as it was.

    At every point all batch-norm statistics are estimated anew: reset, then the mean over the calibration
    batches of the batch means and variances, with dropout and stochastic depth off. So the ends too have
    estimated statistics and not those of their training. Networks without batch norm are evaluated as they
    are. Auxiliary heads take no part. Whole numbers (batch counters) are not interpolated.

    Args:
        network: on the device of the images.
        calibration_batches: normalised training images, at least two a batch; not used without batch norm.
        images: (n, channels, height, width), normalised.
        labels: as in `trainables.datasets.loading.Split`.
        alphas: 0 and 1 among them; default `line_alphas()`.

    Raises:
        ValueError: state dicts of another network, no images, alphas without both ends, or batch norm
            without calibration batches of at least two images.
    """
    module = network.module
    alphas = line_alphas() if alphas is None else alphas
    _check_inputs(images, labels, alphas)
    rows = []
    with _kept_as_it_was(module), torch.no_grad():
        for alpha in alphas:
            module.load_state_dict(interpolated(module, weights_a, weights_b, alpha=alpha))
            estimate_batch_norm(module, calibration_batches)
            logits = torch.cat([module(batch).float() for batch in images.split(BATCH_IMAGES)])
            scores = objective.scores(logits).cpu().numpy()
            metrics = score(task, scores, labels.cpu().numpy(), referable_grade=referable_grade)
            rows.append(
                {"alpha": float(alpha), "loss": float(objective.loss(logits, labels))}
                | {name: metrics[name] for name in LINE_METRICS}
            )
    points = pd.DataFrame(rows, columns=["alpha", "loss", *LINE_METRICS])
    n_calibration = sum(map(len, calibration_batches)) if batch_norms(module) else 0
    barrier = barrier_height(points["alpha"].to_numpy(), points["loss"].to_numpy())
    return LossLine(points, barrier, len(images), n_calibration)


def interpolated(
    module: nn.Module, weights_a: StateDict, weights_b: StateDict, *, alpha: float
) -> dict[str, Tensor]:
    """Return (1 − alpha) · a + alpha · b of all entries that are no whole numbers; those are a's.

    Exactly a at 0 and b at 1. Computed in float64, beyond the ends too.

    Raises:
        ValueError: the state dicts are of another network.
    """
    mixed = {}
    for name, own in module.state_dict().items():
        a, b = (entry(weights, name, shape=own.shape).to(own.device) for weights in (weights_a, weights_b))
        mixed[name] = (
            ((1 - alpha) * a.double() + alpha * b.double()).to(own.dtype) if a.is_floating_point() else a
        )
    return mixed


def barrier_height(alphas: np.ndarray, losses: np.ndarray) -> float:
    """Return the most by which the loss between the ends exceeds the straight line through the losses there.

    As in Frankle et al. 2020, but against the line between both ends and not their mean (Entezari et al.
    2022), so that a monotone descent has none. 0 if the loss lies nowhere above that line; infinite where
    it is; NaN where a loss between the ends is NaN, an end is not finite, or there is no point between.

    Args:
        alphas: (n,) with 0 and 1 among them, in any order.
        losses: (n,)

    Raises:
        ValueError: an end is missing.
    """
    ends = [losses[alphas == end] for end in (0, 1)]
    if any(len(found) != 1 for found in ends):
        raise ValueError(
            f"barrier: expected alpha 0 and alpha 1 once each among the points, got {alphas.tolist()}"
        )
    first, last = (float(found[0]) for found in ends)
    between = (alphas > 0) & (alphas < 1)
    if not (math.isfinite(first) and math.isfinite(last) and between.any()):
        return math.nan
    excess = losses[between] - ((1 - alphas[between]) * first + alphas[between] * last)
    return float(np.max(excess, initial=0.0))


@contextmanager
def _kept_as_it_was(module: nn.Module) -> Iterator[None]:
    state = copy.deepcopy(module.state_dict())
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        module.load_state_dict(state)
        for part, mode in modes:
            part.training = mode


def _check_inputs(images: Tensor, labels: Tensor, alphas: Sequence[float]) -> None:
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            f"loss line: expected images with a label each, got {len(images)} images and {len(labels)} labels"
        )
    if sorted(alpha for alpha in alphas if alpha in (0, 1)) != [0, 1]:
        raise ValueError(f"loss line: expected 0 and 1, once each, among the alphas, got {list(alphas)}")


def _chosen(dataset: Dataset, split: Split, n: int, drawn: torch.Generator, device: torch.device) -> Tensor:
    return _pixels(dataset, split, _places(split, n, drawn), device)


def _places(split: Split, n: int, drawn: torch.Generator) -> np.ndarray:
    # Sorted, because a memory-mapped array is read fastest in its own order.
    return np.sort(torch.randperm(len(split.images), generator=drawn)[:n].numpy())


def _pixels(dataset: Dataset, split: Split, places: np.ndarray, device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.array(split.images[places])).to(device)
    return normalize_pixels(scale_pixels(pixels), mean=dataset.mean, sd=dataset.sd)
