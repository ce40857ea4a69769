"""The training loop: optimizer steps, evaluations, and a state that can be taken and given back.

No callbacks and no I/O: `gradient_trial.py` decides when to evaluate, to checkpoint and to stop.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.architectures.stages import Network
from trainables.batch_norm import lone_values_named, set_batch_norm_momentum
from trainables.batches import Batches
from trainables.checkpoints import Contents, pack_optimizer, unpack_optimizer
from trainables.compiling import Compiled
from trainables.datasets.loading import Dataset, Split
from trainables.errors import NotFiniteError
from trainables.freezing import freeze, set_training_mode
from trainables.objectives import balanced_weights, build_objective
from trainables.optimizers import build_optimizer
from trainables.placement import place
from trainables.precision import computing
from trainables.schedules import learning_rate
from trainables.scores import score
from trainables.seeding import seed_generator_of
from trainables.selection import Selection, check_selectable
from trainables.spec import Precision, TrainingSpec

# Of an evaluation, at once: 256 images of 224 px, fewer of larger ones.
MOST_IMAGES, MOST_PIXELS = 256, 256 * 224 * 224
# Losses stay on the device until they are looked at; the exact step of the first bad one is still named.
STEPS_BETWEEN_LOSS_CHECKS = 100
SELECTION_FACTS = ("value", "step", "mark", "evaluations_since")


@dataclass(frozen=True)
class Predictions:
    """A network's output on one split.

    Attributes:
        scores: (n_samples, n_classes) probabilities.
        metrics: those of `trainables.scores.score`, and loss.
    """

    scores: np.ndarray
    metrics: dict[str, float]


class Training:
    """One network on its way from initialization to the last step.

    Args:
        network: initialized, on `device`.
        seed: of batch order, augmentation and dropout.
        sample_weights: (n_train,), in proportion to which the training images are drawn, with replacement;
            None takes each once an epoch.
        may_fill: whether images may be placed in the memory of a GPU.
        is_compiled: whether the passes of the training are compiled, if they can be.
        has_optimizer: whether it takes steps itself. Without, it is there two seconds earlier: torch's
            optimizers import its compiler.

    Attributes:
        notices: what went otherwise than asked for, for people.

    Micro-batches differ by one sample at most, so that batch normalization sees a lone sample only where one
    is asked for.
    """

    def __init__(
        self,
        network: Network,
        dataset: Dataset,
        spec: TrainingSpec,
        *,
        seed: int,
        device: torch.device,
        sample_weights: np.ndarray | None = None,
        may_fill: bool = True,
        is_compiled: bool = False,
        has_optimizer: bool = True,
    ) -> None:
        self.network, self.dataset, self.spec, self.seed, self.device = network, dataset, spec, seed, device
        self.may_fill = may_fill
        self.batches = Batches(
            dataset, spec, seed=seed, device=device, sample_weights=sample_weights, may_fill=may_fill
        )
        self.batch_size, self.steps_per_epoch = self.batches.batch_size, self.batches.steps_per_epoch
        self.total_steps = (
            spec.steps if spec.steps is not None else round((spec.epochs or 0) * self.steps_per_epoch)
        )
        self.micro_batch_size = min(spec.micro_batch_size or self.batch_size, self.batch_size)
        self._images_at_once = max(1, min(MOST_IMAGES, MOST_PIXELS // dataset.train.images[0][0].size))
        self.objective = build_objective(
            dataset.task,
            label_smoothing=spec.label_smoothing,
            class_weights=_class_weights(spec, dataset),
            device=device,
        )
        self.memory_format = memory_format_of(spec.precision, device)
        network.module.to(memory_format=self.memory_format)
        freeze(network, spec.trainable)
        set_batch_norm_momentum(network, spec.batch_norm_momentum)
        if has_optimizer:
            self.optimizer = build_optimizer(spec.optimizer, network)
        self.selection = Selection(spec.selection_metric)
        self.compiled = Compiled(network.module) if is_compiled else None
        self.notices: list[str] = []
        self.step = 0
        self.seconds = 0.0
        # Of this object alone, without what it took over from a state.
        self.training_seconds, self.images_trained = 0.0, 0
        self.scoring_seconds, self.images_scored = 0.0, 0
        self.compiling_seconds = 0.0
        self.most_companions = 0
        self._loss_sum, self._loss_count = 0.0, 0
        self._unread_losses: list[Tensor] = []

    def train_until(self, step: int, *, pause: Callable[[], bool] = lambda: False) -> bool:
        """Take optimizer steps up to `step`.

        Args:
            pause: asked after every optimizer step; True stops there, between two steps.

        Returns:
            True if `step` was reached, False if paused.

        Raises:
            NotFiniteError: the loss became NaN or infinite.
        """
        set_training_mode(self.network, self.spec.trainable)
        began, compiling_before = time.perf_counter(), self.compiling_seconds
        try:
            while self.step < step:
                self.note_step(self._take_step())
                if self.are_losses_due:
                    self.read_losses()
                if pause():
                    break
            self.read_losses()
        finally:
            compiling = self.compiling_seconds - compiling_before
            self.spend(time.perf_counter() - began - compiling)
        return self.step >= step

    def note_step(self, loss: Tensor, *, n_companions: int = 0) -> None:
        """Count a step that was taken, here or by a `trainables.stack.Stack` with companions."""
        self._unread_losses.append(loss)
        self.most_companions = max(self.most_companions, n_companions)
        self.step += 1
        self.images_trained += self.batch_size

    def spend(self, seconds: float) -> None:
        """Count seconds of steps; of a member of a stack, its share of them."""
        self.seconds += seconds
        self.training_seconds += seconds

    def _take_step(self) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self._seed_dropout()
        self.optimizer.zero_grad(set_to_none=True)
        with lone_values_named():
            is_first = self.compiled is not None and not self.compiled.has_run
            loss = self._compile() if is_first else self._accumulate_gradient()
        if self.spec.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.learning_parameters().values(), self.spec.gradient_clip)
        self.optimizer.step()
        return loss

    def _compile(self) -> Tensor:
        """Accumulate the gradient of a first step, compiled; if that cannot be, go on plainly and say why."""
        assert self.compiled is not None, "asked for"
        began = time.perf_counter()
        found = self.compiled.try_first(self._accumulate_gradient)
        self.compiling_seconds += time.perf_counter() - began
        if isinstance(found, Tensor):
            return found
        self.compiled = None
        self.notices.append(f"its network is not compiled: {found}")
        self.optimizer.zero_grad(set_to_none=True)
        self._seed_dropout()
        return self._accumulate_gradient()

    def _seed_dropout(self) -> None:
        seed_generator_of(self.device, self.seed, "dropout", self.step)

    def _accumulate_gradient(self) -> Tensor:
        """Send the batch through the network, micro-batch by micro-batch, and return its mean loss.

        Each part weighs as much as it has in the mean of the whole, so that without batch norm the gradient
        is that of the whole batch.
        """
        images, labels = self.batches.at(self.step)
        n_parts = math.ceil(len(images) / self.micro_batch_size)
        return self.backward(images, labels, n_parts=n_parts, total=self.objective.weight(labels))

    def backward(self, images: Tensor, labels: Tensor, *, n_parts: int, total: Tensor) -> Tensor:
        """Add up the gradients of images that go through the network in parts; return their part of the loss.

        Nothing is read back from the device for it.

        Args:
            total: the weight of the labels of the whole batch, to which these may belong with others.
        """
        edges = [len(images) * part // n_parts for part in range(n_parts + 1)]
        loss = torch.zeros((), device=self.device)
        for part in (slice(start, stop) for start, stop in pairwise(edges)):
            share = self.objective.weight(labels[part]) / torch.where(total == 0, 1.0, total)
            of_part = self.loss_of(self.forward(images[part]), labels[part]) * share
            of_part.backward()
            loss += of_part.detach()
        return loss

    def loss_of(self, outputs: Any, labels: Tensor) -> Tensor:
        """Return the loss of the main head, and with their weight those of auxiliary heads.

        Args:
            outputs: of the module in training mode: logits (n, n_classes), or a tuple of them.
        """
        main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = self.objective.loss(widened(main), labels)
        for logits in auxiliary:
            loss = loss + self.network.auxiliary_weight * self.objective.loss(widened(logits), labels)
        return loss

    def forward(self, images: Tensor) -> Any:
        """Return the outputs of the network, which is in the mode it was left in."""
        module = self.network.module
        run = self.compiled if self.compiled is not None and module.training else module
        with self.computing():
            return run(images.contiguous(memory_format=self.memory_format))

    def computing(self) -> torch.autocast:
        """Return the context in which the network is run, in the precision of the spec."""
        return computing(self.spec.precision, self.device)

    def learning_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that learn, by name, in the order in which the optimizer has them."""
        return {name: p for name, p in self.network.module.named_parameters() if p.requires_grad}

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate(self.step)

    def _rate(self, step: int) -> float:
        return learning_rate(
            self.spec, step, steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps
        )

    @property
    def are_losses_due(self) -> bool:
        """Whether enough losses wait on the device to be looked at."""
        return len(self._unread_losses) >= STEPS_BETWEEN_LOSS_CHECKS

    def read_losses(self) -> None:
        """Look at the losses since the last time.

        Raises:
            NotFiniteError: one is NaN or infinite; names its step.
        """
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

        Raises:
            SpecError: the selection metric is not defined on the validation split.
        """
        on_val = self.measure(self.dataset.val)
        metrics = {f"val_{name}": value for name, value in on_val.metrics.items()}
        if np.isfinite(on_val.scores).all():
            check_selectable(self.spec.selection_metric, metrics)
        metrics |= {"images_seen": float(self.step * self.batch_size), "train_seconds": self.seconds}
        if self._loss_count:
            metrics["train_loss"] = self._loss_sum / self._loss_count
        self._loss_sum, self._loss_count = 0.0, 0
        stopping = self.spec.early_stopping
        self.selection.consider(
            metrics.get(self.spec.selection_metric, math.nan),
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
        logits: list[Tensor] = []
        labels: list[Tensor] = []
        placed, start = place(split, self.device, may_fill=self.may_fill), 0
        while start < len(split.labels):
            try:
                pixels, batch_labels = placed.take(slice(start, start + self._images_at_once))
                logits.append(self.forward(self.batches.normalized(pixels)).float())
            except torch.OutOfMemoryError:
                if self._images_at_once == 1:
                    raise
                self._images_at_once = math.ceil(self._images_at_once / 2)
                continue
            labels.append(batch_labels)
            start += len(batch_labels)
        return torch.cat(logits), torch.cat(labels)

    def predict(self, split: Split) -> np.ndarray:
        """Return the (n_samples, n_classes) probabilities of a split with the present weights."""
        with self._scoring(split):
            logits, _ = self.logits(split)
            return self.objective.scores(logits).cpu().numpy()

    def measure(self, split: Split) -> Predictions:
        """Score a split with the present weights, without augmentation."""
        grade = self.dataset.referable_grade
        with self._scoring(split):
            logits, labels = self.logits(split)
            scores = self.objective.scores(logits).cpu().numpy()
            loss = float(self.objective.loss(logits, labels))
            metrics = score(self.dataset.task, scores, split.labels, referable_grade=grade)
            return Predictions(scores, {**metrics, "loss": loss})

    @contextmanager
    def _scoring(self, split: Split) -> Iterator[None]:
        """Count the images of a split that is scored, and the seconds it takes."""
        began = time.perf_counter()
        yield
        self.scoring_seconds += time.perf_counter() - began
        self.images_scored += len(split.labels)

    def close(self) -> None:
        """Free what does not go with this object."""
        self.batches.close()

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
            "micro_batch_size": self.micro_batch_size,
        }
        return Contents(tensors, facts)

    def restore_state(self, state: Contents) -> None:
        """Continue where `take_state` was called, on a training of the same spec and dataset."""
        facts = state.facts
        self.network.module.load_state_dict(_unprefixed("model", state.tensors))
        unpack_optimizer(self.optimizer, _unprefixed("optimizer", state.tensors), facts["optimizer"])
        self.step, self.seconds = facts["step"], facts["seconds"]
        # Halved for want of memory once, halved to the end: batch norm has seen it.
        self.micro_batch_size = facts.get("micro_batch_size", self.micro_batch_size)
        self._loss_sum, self._loss_count = facts["loss_sum"], facts["loss_count"]
        self.selection = Selection(
            self.spec.selection_metric,
            **dict(zip(SELECTION_FACTS, facts["best"], strict=True)),
            weights=_unprefixed("best", state.tensors),
        )


def memory_format_of(precision: Precision, device: torch.device) -> torch.memory_format:
    """Return how images and weights lie in memory: channels-last, as tensor cores want them.

    Processors convolve 0.85 to 1.5 times as fast so (docs/speed.md). GPUs compute true float32 without tensor
    cores, and cuDNN's kernels for that want it plain.
    """
    has_no_use = device.type == "cuda" and precision == "float32"
    return torch.contiguous_format if has_no_use else torch.channels_last


def widened(logits: Tensor) -> Tensor:
    """Return logits of half precision as float32, in which losses are taken."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _class_weights(spec: TrainingSpec, dataset: Dataset) -> np.ndarray | None:
    if spec.class_weights == "none":
        return None
    return balanced_weights(dataset.task, dataset.train.labels, dataset.n_outputs)


def _prefixed(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
