"""Checkpoint ensembles: the mean of the predictions of one training's best checkpoints.

CheXpert (Irvin et al. 2019) and CheXtransfer (Ke et al. 2021) report such ensembles; how many checkpoints and
which is ours to say. The candidates are the series of checkpoints that a trial keeps along its
training; the untrained network at step 0 is none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.networks.comparisons import SERIES
from analysis.networks.probe import ProbeSet
from trainables.architectures.stages import Network
from trainables.datasets.loading import Dataset
from trainables.errors import UserError
from trainables.objectives import build_objective
from trainables.scores import score
from trainables.seeding import generator

if TYPE_CHECKING:
    from trainables.record import TrialRecord

MOST_MEMBERS, FEWEST_MEMBERS = 10, 2
TOLERANCE = 0.02
"""Share of the best validation score by which a member may be worse."""
BATCH_IMAGES = 64


class NoEnsembleError(UserError):
    """A trial has no checkpoints that could form an ensemble; the message says why."""


@dataclass(frozen=True)
class Member:
    """A checkpoint of the ensemble.

    Attributes:
        checkpoint: its name in the record.
        value: of the metric it was chosen by, at its step.
    """

    checkpoint: str
    step: int
    value: float


@dataclass(frozen=True)
class CheckpointEnsemble:
    """An ensemble beside its best member.

    Attributes:
        members: best first; the first is the single network it is compared with.
        sample_ids: (n_samples,) of the test images it was measured on.
        single_scores, ensemble_scores: (n_samples, n_classes) probabilities.
        single, ensemble: the metrics of `trainables.scores.score`, NaN where not defined.
        of_members: those of each member, in their order.
    """

    members: tuple[Member, ...]
    sample_ids: np.ndarray
    single_scores: np.ndarray
    ensemble_scores: np.ndarray
    single: Mapping[str, float]
    ensemble: Mapping[str, float]
    of_members: tuple[Mapping[str, float], ...]


def choose_members(
    record: "TrialRecord", history: pd.DataFrame, *, metric: str, k: int = MOST_MEMBERS
) -> tuple[Member, ...]:
    """Return the k best checkpoints of a trial's series, best first; the earlier of equal ones.

    Args:
        history: columns step and value, of `metric`, as `RecordReader.history` gives it.
        metric: a validation metric; of val_loss the least is best, of all others the greatest.
        k: at most so many; fewer where the series is shorter.

    Raises:
        NoEnsembleError: fewer than two checkpoints of the series were also validated.
        ValueError: k is less than 2.
    """
    if k < FEWEST_MEMBERS:
        raise ValueError(f"ensemble: k must be at least {FEWEST_MEMBERS} checkpoints, got {k}")
    series = [ref for ref in record.checkpoints.values() if ref.name.startswith(SERIES) and ref.step > 0]
    values = dict(zip(history["step"], history["value"], strict=True))
    found = [Member(ref.name, ref.step, float(values.get(ref.step, math.nan))) for ref in series]
    found = [member for member in found if not math.isnan(member.value)]
    if len(found) < FEWEST_MEMBERS:
        raise NoEnsembleError(
            f"{record.spec.label}: an ensemble needs at least {FEWEST_MEMBERS} checkpoints of its training "
            f"with a {metric}, got {len(found)} of {len(series)} after step 0; keep a series of checkpoints "
            "at the steps of evaluations"
        )
    sign = 1 if metric == "val_loss" else -1
    ranked = sorted(found, key=lambda member: (sign * member.value, member.step))[:k]
    # A network that has hardly begun to learn would only spoil the mean.
    good = [m for m in ranked if sign * (m.value - ranked[0].value) <= TOLERANCE * abs(ranked[0].value)]
    if len(good) < FEWEST_MEMBERS:
        raise NoEnsembleError(
            f"{record.spec.label}: an ensemble needs at least {FEWEST_MEMBERS} checkpoints whose {metric} is "
            f"within {TOLERANCE:.0%} of the best, got those of the steps "
            f"{', '.join(f'{member.step} ({member.value:.3f})' for member in ranked)}; keep more of them"
        )
    return tuple(good)


def checkpoint_ensemble(
    network: Network,
    members: Sequence[Member],
    *,
    read_weights: Callable[[str], Mapping[str, Tensor]],
    dataset: Dataset,
    n_images: int | None = None,
    seed: int = 0,
    device: torch.device,
) -> CheckpointEnsemble:
    """Average the members' probabilities on test images, every member alike.

    Args:
        network: of the trial, on `device`; afterwards it has the weights of the last member.
        members: as `choose_members` returns them.
        read_weights: of a checkpoint's name, the state dict; called once a member.
        n_images: test images, in a seeded choice; None takes all, as a result to report should.

    Raises:
        ValueError: fewer than two members.
        CheckpointError: from `read_weights`.
    """
    if len(members) < FEWEST_MEMBERS:
        raise ValueError(f"ensemble: expected at least {FEWEST_MEMBERS} members, got {len(members)}")
    images = _test_images(dataset, n_images=n_images, seed=seed)
    to_scores = build_objective(dataset.task).scores
    total, single_scores, of_members = np.zeros((len(images.images), dataset.n_outputs)), None, []
    for member in members:
        network.module.load_state_dict(read_weights(member.checkpoint))
        logits = _logits(network, images, device)
        scores = to_scores(logits).cpu().numpy()
        total += scores
        single_scores = scores if single_scores is None else single_scores
        of_members.append(_metrics(dataset, scores, images.labels))
    assert single_scores is not None, "there are members"
    mean = total / len(members)
    return CheckpointEnsemble(
        tuple(members),
        images.sample_ids,
        single_scores,
        mean,
        of_members[0],
        _metrics(dataset, mean, images.labels),
        tuple(of_members),
    )


def ensemble_rows(ensemble: CheckpointEnsemble) -> pd.DataFrame:
    """Return one row per metric: metric, single, ensemble, n_members, n_images."""
    return pd.DataFrame(
        {
            "metric": list(ensemble.single),
            "single": list(ensemble.single.values()),
            "ensemble": [ensemble.ensemble[name] for name in ensemble.single],
            "n_members": len(ensemble.members),
            "n_images": len(ensemble.sample_ids),
        }
    )


def _test_images(dataset: Dataset, *, n_images: int | None, seed: int) -> ProbeSet:
    test = dataset.test
    chosen: np.ndarray | slice = slice(None)
    if n_images is not None:
        places = torch.randperm(len(test.images), generator=generator(seed, "ensemble"))[:n_images]
        chosen = np.sort(places.numpy())
    images, labels, sample_ids = test.images[chosen], test.labels[chosen], test.sample_ids[chosen]
    return ProbeSet(images, labels, sample_ids, dataset.mean, dataset.sd, dataset.n_outputs)


@torch.inference_mode()
def _logits(network: Network, images: ProbeSet, device: torch.device) -> Tensor:
    network.module.eval()
    return torch.cat([network.module(batch).float() for batch in images.batches(BATCH_IMAGES, device)])


def _metrics(dataset: Dataset, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return score(dataset.task, scores, labels, referable_grade=dataset.referable_grade)
