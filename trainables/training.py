"""The training loop: optimizer steps, evaluations, and a state that can be taken and given back.

No callbacks and no I/O: `trial.py` decides when to evaluate, to checkpoint and to stop.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.architectures.stages import Network
from trainables.augmentation import augment, normalize_pixels
from trainables.checkpoints import Contents, pack_optimizer, unpack_optimizer
from trainables.datasets.loading import Dataset, Split
from trainables.errors import NotFiniteError
from trainables.objectives import build_objective, score
from trainables.seeding import derive_seed, generator
from trainables.spec import Adam, CosineSchedule, EvaluationSpec, Sgd, StepSchedule, TrainingSpec

EVALUATION_BATCH = 256
# Losses stay on the device until they are looked at; the exact step of the first bad one is still named.
STEPS_BETWEEN_LOSS_CHECKS = 100
SELECTION_FACTS = ("value", "step", "mark", "evaluations_since")


@dataclass(frozen=True)
class Predictions:
    """A network's output on one split.

    Attributes:
        scores: (n_samples, n_classes) probabilities.
        metrics: auroc, auprc, accuracy, f1 and loss.
    """

    scores: np.ndarray
    metrics: dict[str, float]


@dataclass
class Selection:
    """The best evaluation so far."""

    metric: str
    value: float = math.nan
    step: int = 0
    mark: float = math.nan
    evaluations_since: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def consider(self, value: float, step: int, network: Network, *, min_delta: float) -> bool:
        """Keep the weights if `value` is the best so far; say whether it was.

        An improvement of at most `min_delta` is kept too, but does not restart the patience, which counts
        from the last value that was better by more (`mark`).
        """
        if self._gain(value, self.mark) > min_delta:
            self.mark, self.evaluations_since = value, 0
        elif self.weights:
            self.evaluations_since += 1
        is_better = self._gain(value, self.value) > 0
        if is_better or not self.weights:
            self.value, self.step = value, step
            self.weights = {k: v.detach().cpu().clone() for k, v in network.module.state_dict().items()}
        return is_better

    def _gain(self, value: float, reference: float) -> float:
        """By how much `value` is better; infinite against NaN, and NaN is never better."""
        if math.isnan(value):
            return -math.inf
        if math.isnan(reference):
            return math.inf
        return reference - value if self.metric == "val_loss" else value - reference


def evaluation_steps(spec: EvaluationSpec, total_steps: int) -> tuple[int, ...]:
    """Return the steps after which the validation split is scored, ascending, 0 and the last included."""
    if total_steps == 0:
        return (0,)
    if spec.spacing == "log":
        grid = np.geomspace(1, total_steps, spec.points)
    else:
        grid = np.linspace(total_steps / spec.points, total_steps, spec.points)
    return tuple(sorted({0, total_steps, *(round(step) for step in grid)}))


def learning_rate(spec: TrainingSpec, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
    """Return the rate of optimizer step `step` (0-based)."""
    schedule = spec.schedule
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return spec.optimizer.lr * (step + 1) / warmup
    if isinstance(schedule, StepSchedule):
        passed = sum(step >= round(m * steps_per_epoch) for m in schedule.milestones_epochs)
        return spec.optimizer.lr * schedule.factor**passed
    if isinstance(schedule, CosineSchedule):
        done = (step - warmup) / max(1, total_steps - warmup)
        return spec.optimizer.lr * 0.5 * (1 + math.cos(math.pi * done))
    return spec.optimizer.lr


class Training:
    """One network on its way from initialization to the last step.

    Args:
        network: initialized, on `device`.
        seed: of batch order, augmentation and dropout.

    The training split is shuffled anew for every epoch; the samples left over when it does not divide
    into batches sit that epoch out, so that batch normalization never sees a lone sample.
    """

    def __init__(
        self, network: Network, dataset: Dataset, spec: TrainingSpec, *, seed: int, device: torch.device
    ) -> None:
        self.network, self.dataset, self.spec, self.seed, self.device = network, dataset, spec, seed, device
        n_train = len(dataset.train.labels)
        self.batch_size = min(spec.batch_size, n_train)
        self.steps_per_epoch = n_train // self.batch_size
        self.total_steps = (
            spec.steps if spec.steps is not None else round((spec.epochs or 0) * self.steps_per_epoch)
        )
        self.objective = build_objective(dataset.task, label_smoothing=spec.label_smoothing)
        self.optimizer = _build_optimizer(spec.optimizer, network)
        self.selection = Selection(spec.selection_metric)
        self.step = 0
        self.seconds = 0.0
        self._loss_sum, self._loss_count = 0.0, 0
        self._unread_losses: list[Tensor] = []
        self._drawn_order: tuple[int, np.ndarray] | None = None

    def train_until(self, step: int, *, pause: Callable[[], bool] = lambda: False) -> bool:
        """Take optimizer steps up to `step`.

        Args:
            pause: asked after every optimizer step; True stops there, between two steps.

        Returns:
            True if `step` was reached, False if paused.

        Raises:
            NotFiniteError: the loss became NaN or infinite.
        """
        began = time.perf_counter()
        self.network.module.train()
        try:
            while self.step < step:
                self._take_step()
                if len(self._unread_losses) >= STEPS_BETWEEN_LOSS_CHECKS:
                    self._read_losses()
                if pause():
                    break
            self._read_losses()
        finally:
            self.seconds += time.perf_counter() - began
        return self.step >= step

    def _take_step(self) -> None:
        rate = self._rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, labels = self._training_batch()
        torch.manual_seed(derive_seed(self.seed, "dropout", self.step))
        loss = self.objective.loss(self.network.module(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._unread_losses.append(loss.detach())
        self.step += 1

    def _rate(self, step: int) -> float:
        return learning_rate(
            self.spec, step, steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps
        )

    def _training_batch(self) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(self.step, self.steps_per_epoch)
        chosen = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        images, labels = self._batch(self.dataset.train, chosen)
        return augment(
            images, self.spec.augment, generator=generator(self.seed, "augment", self.step)
        ), labels

    def _order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch's samples, drawn once an epoch."""
        if self._drawn_order is None or self._drawn_order[0] != epoch:
            n_train = len(self.dataset.train.labels)
            drawn = torch.randperm(n_train, generator=generator(self.seed, "order", epoch)).numpy()
            self._drawn_order = (epoch, drawn)
        return self._drawn_order[1]

    def _batch(self, split: Split, chosen: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.array(split.images[chosen])).to(self.device)
        images = normalize_pixels(pixels, mean=self.dataset.mean, sd=self.dataset.sd)
        return images, torch.from_numpy(np.array(split.labels[chosen])).to(self.device)

    def _read_losses(self) -> None:
        if not self._unread_losses:
            return
        losses = torch.stack(self._unread_losses).double().cpu()
        self._unread_losses.clear()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step = self.step - len(losses) + int(bad[0]) + 1
            raise NotFiniteError(
                f"train_loss became {float(losses[int(bad[0])])} at step {step} "
                f"(lr={self._rate(step - 1):.3g}); the trial is marked failed"
            )
        # One by one, so that the sum does not depend on where a pause fell.
        for loss in losses.tolist():
            self._loss_sum += loss
        self._loss_count += len(losses)

    def evaluate(self) -> dict[str, float]:
        """Score the validation split, remember the weights if they are the best, and return the metrics.

        `train_loss` is the mean over the steps since the last evaluation, absent before the first step.
        """
        metrics = {f"val_{name}": value for name, value in self.measure(self.dataset.val).metrics.items()}
        metrics |= {"images_seen": float(self.step * self.batch_size), "train_seconds": self.seconds}
        if self._loss_count:
            metrics["train_loss"] = self._loss_sum / self._loss_count
        self._loss_sum, self._loss_count = 0.0, 0
        stopping = self.spec.early_stopping
        self.selection.consider(
            metrics[self.spec.selection_metric],
            self.step,
            self.network,
            min_delta=stopping.min_delta if stopping else 0.0,
        )
        return metrics

    @property
    def should_stop_early(self) -> bool:
        """Whether the selection metric has stopped improving, as the spec defines it."""
        stopping = self.spec.early_stopping
        return stopping is not None and self.selection.evaluations_since >= stopping.patience

    @torch.inference_mode()
    def logits(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return (n_samples, n_classes) logits and the labels of a split, batch norm in eval mode."""
        self.network.module.eval()
        logits, labels = [], []
        for start in range(0, len(split.labels), EVALUATION_BATCH):
            images, batch_labels = self._batch(split, slice(start, start + EVALUATION_BATCH))
            logits.append(self.network.module(images))
            labels.append(batch_labels)
        return torch.cat(logits), torch.cat(labels)

    def predict(self, split: Split) -> np.ndarray:
        """Return the (n_samples, n_classes) probabilities of a split with the present weights."""
        logits, _ = self.logits(split)
        return self.objective.scores(logits).cpu().numpy()

    def measure(self, split: Split) -> Predictions:
        """Score a split with the present weights, without augmentation."""
        logits, labels = self.logits(split)
        scores = self.objective.scores(logits).cpu().numpy()
        loss = float(self.objective.loss(logits, labels))
        return Predictions(scores, {**score(self.dataset.task, scores, split.labels), "loss": loss})

    def take_state(self) -> Contents:
        """Return everything that is needed to go on bit-equal (`restore_state`)."""
        optimizer_tensors, optimizer_plain = pack_optimizer(self.optimizer)
        tensors = {
            **_prefixed("model", self.network.module.state_dict()),
            **_prefixed("optimizer", optimizer_tensors),
            **_prefixed("best", self.selection.weights),
        }
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
            "best": [getattr(self.selection, name) for name in SELECTION_FACTS],
            "optimizer": optimizer_plain,
        }
        return Contents(tensors, facts)

    def restore_state(self, state: Contents) -> None:
        """Continue where `take_state` was called, on a training of the same spec and dataset."""
        facts = state.facts
        self.network.module.load_state_dict(_unprefixed("model", state.tensors))
        unpack_optimizer(self.optimizer, _unprefixed("optimizer", state.tensors), facts["optimizer"])
        self.step, self.seconds = facts["step"], facts["seconds"]
        self._loss_sum, self._loss_count = facts["loss_sum"], facts["loss_count"]
        self.selection = Selection(
            self.spec.selection_metric,
            **dict(zip(SELECTION_FACTS, facts["best"], strict=True)),
            weights=_unprefixed("best", state.tensors),
        )


def _build_optimizer(spec: Sgd | Adam, network: Network) -> torch.optim.Optimizer:
    parameters = [p for p in network.module.parameters() if p.requires_grad]
    if isinstance(spec, Sgd):
        return torch.optim.SGD(
            parameters,
            lr=spec.lr,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            weight_decay=spec.weight_decay,
        )
    return torch.optim.Adam(
        parameters,
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
    )


def _prefixed(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
