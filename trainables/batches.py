"""The batches of a training: which images, in which order, changed how, on the device in time."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.augmentation import Changes, draw_changes, normalization, scale_pixels
from trainables.datasets.loading import Dataset
from trainables.placement import OnDevice, place
from trainables.seeding import generator
from trainables.spec import TrainingSpec


@dataclass(frozen=True)
class Drawn:
    """A batch before it is fetched: the numbers of its images, and what is done to them."""

    chosen: np.ndarray
    changes: Changes


class Batches:
    """The training batches of one seed, by the number of their step.

    The training split is shuffled anew for every epoch; the samples left over when it does not divide
    into batches sit that epoch out.

    Args:
        seed: of the order and of the augmentation.
        sample_weights: (n_train,), in proportion to which images are drawn, with replacement; None takes each
            once an epoch.
        may_fill: whether the images may be placed in the memory of a GPU.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: TrainingSpec,
        *,
        seed: int,
        device: torch.device,
        sample_weights: np.ndarray | None = None,
        may_fill: bool = True,
    ) -> None:
        self._dataset, self._spec, self._seed, self._device = dataset, spec, seed, device
        self._sample_weights = sample_weights
        n_train = len(dataset.train.labels)
        self.batch_size = min(spec.batch_size, n_train)
        self.steps_per_epoch = n_train // self.batch_size
        self._normalize = normalization(mean=dataset.mean, sd=dataset.sd, device=device)
        self._placed = place(dataset.train, device, may_fill=may_fill)
        self._drawn_order: tuple[int, np.ndarray] | None = None
        is_read_ahead = device.type == "cuda" and not self.are_on_device
        self._ahead = _ReadAhead(self, device) if is_read_ahead else None

    @property
    def are_on_device(self) -> bool:
        """Whether the images take the memory of a GPU."""
        return isinstance(self._placed, OnDevice)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the images of a step, (n, channels, size_px, size_px) normalized, and their labels."""
        return self.make(step) if self._ahead is None else self._ahead.at(step)

    def close(self) -> None:
        """Read nothing ahead any more."""
        if self._ahead is not None:
            self._ahead.close()

    def make(self, step: int) -> tuple[Tensor, Tensor]:
        """Do what `at` does, without having begun before."""
        drawn = self.draw(step)
        return self.fetch(drawn.chosen, drawn.changes)

    def draw(self, step: int) -> "Drawn":
        """Draw the batch of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = self.order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        return Drawn(chosen, self.changes(step))

    def changes(self, step: int) -> Changes:
        """Draw what is done to the images of a step."""
        shape = (self.batch_size, *self._dataset.train.images.shape[1:])
        drawn = generator(self._seed, "augment", step)
        return draw_changes(self._spec.augment, shape, generator=drawn)

    def fetch(self, chosen: np.ndarray, changes: Changes) -> tuple[Tensor, Tensor]:
        """Return training images, changed and normalized, and their labels."""
        pixels, labels = self._placed.take(chosen)
        return self.normalized(changes.to(self._device).apply(pixels)), labels

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch's samples, drawn once an epoch."""
        known = self._drawn_order  # a reader thread may replace it meanwhile
        if known is None or known[0] != epoch:
            n_train = len(self._dataset.train.labels)
            drawn = generator(self._seed, "order", epoch)
            if self._sample_weights is None:
                order = torch.randperm(n_train, generator=drawn)
            else:
                # By inverting the cumulated weights: torch.multinomial takes at most 2^24 of them.
                cumulated = torch.from_numpy(self._sample_weights).double().cumsum(0)
                places = torch.rand(n_train, generator=drawn, dtype=torch.float64) * cumulated[-1]
                order = torch.searchsorted(cumulated, places, right=True).clamp(max=n_train - 1)
            known = self._drawn_order = (epoch, order.numpy())
        return known[1]

    def normalized(self, images: Tensor) -> Tensor:
        """Return images, uint8 or in 0 … 1, as the network wants them."""
        return self._normalize(scale_pixels(images) if images.dtype == torch.uint8 else images)


class _ReadAhead:
    """Reads the next batch, and copies it on a stream of its own, while the GPU is busy with this one."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._stream = batches, torch.cuda.Stream(device)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[tuple[Tensor, Tensor, torch.cuda.Event]]] | None = None

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        begun = self._next if self._next is not None and self._next[0] == step else None
        self._next = None
        reading = begun[1] if begun is not None else self._reader.submit(self._read, step)
        images, labels, is_there = reading.result()
        now = torch.cuda.current_stream()
        # No more than two batches: the program is steps ahead of a GPU that is slower than it.
        self._next = (step + 1, self._reader.submit(self._read, step + 1, after=now.record_event()))
        now.wait_event(is_there)
        for tensor in (images, labels):
            tensor.record_stream(now)
        return images, labels

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._next = None

    def _read(
        self, step: int, *, after: torch.cuda.Event | None = None
    ) -> tuple[Tensor, Tensor, torch.cuda.Event]:
        if after is not None:
            after.synchronize()
        with torch.cuda.stream(self._stream):
            images, labels = self._batches.make(step)
            return images, labels, self._stream.record_event()
