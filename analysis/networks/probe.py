"""The probe set: the fixed images on which two networks are compared."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.augmentation import normalize_pixels, scale_pixels
from trainables.datasets.loading import load_dataset
from trainables.datasets.spec import DatasetSpec
from trainables.seeding import generator


@dataclass(frozen=True)
class ProbeSet:
    """Images in a fixed order, without augmentation.

    Attributes:
        images: uint8, (n_images, channels, size_px, size_px).
        mean, sd: per channel, of the networks' normalisation.
        n_outputs: of a network trained on this dataset.
    """

    images: np.ndarray
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    n_outputs: int

    def batches(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """Yield normalised float32 batches in order."""
        for start in range(0, len(self.images), size):
            pixels = torch.from_numpy(np.array(self.images[start : start + size])).to(device)
            yield normalize_pixels(scale_pixels(pixels), mean=self.mean, sd=self.sd)


def load_probe(spec: DatasetSpec, *, data_root: Path | None, n_images: int, seed: int = 0) -> ProbeSet:
    """Take the first `n_images` test images in a seeded order; all of them if the split is smaller.

    Raises:
        DataError: the dataset is not available on this machine, or damaged.
    """
    dataset = load_dataset(spec, data_root=data_root)
    n_test = len(dataset.test.images)
    chosen = torch.randperm(n_test, generator=generator(seed, "probe"))[:n_images].numpy()
    # Sorted, because a memory-mapped array is read fastest in its own order.
    images = np.asarray(dataset.test.images[np.sort(chosen)])
    return ProbeSet(images, dataset.mean, dataset.sd, dataset.n_outputs)
