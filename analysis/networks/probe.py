"""The probe set: the fixed images on which networks are compared and explained."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.augmentation import normalize_pixels, scale_pixels
from trainables.datasets.loading import Dataset, load_dataset
from trainables.datasets.spec import DatasetSpec
from trainables.seeding import generator


@dataclass(frozen=True)
class ProbeSet:
    """Test images in a fixed order, without augmentation.

    Attributes:
        images: uint8, (n_images, channels, size_px, size_px).
        labels: as in `trainables.datasets.loading.Split`.
        sample_ids: (n_images,) str.
        mean, sd: per channel, of the networks' normalisation.
        n_outputs: of a network trained on this dataset.
    """

    images: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
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

    Datasets that differ only in how images are resized and normalised give the same images.

    Raises:
        DataError: the dataset is not available on this machine, or damaged.
    """
    dataset = opened_dataset(spec, data_root)
    test = dataset.test
    chosen = torch.randperm(len(test.images), generator=generator(seed, "probe"))[:n_images].numpy()
    # Sorted, because a memory-mapped array is read fastest in its own order.
    chosen = np.sort(chosen)
    return ProbeSet(
        np.asarray(test.images[chosen]),
        test.labels[chosen],
        test.sample_ids[chosen],
        dataset.mean,
        dataset.sd,
        dataset.n_outputs,
    )


@lru_cache(maxsize=2)
def opened_dataset(spec: DatasetSpec, data_root: Path | None) -> Dataset:
    """Return a dataset; jobs of one dataset follow each other, so a process opens it once."""
    return load_dataset(spec, data_root=data_root)
