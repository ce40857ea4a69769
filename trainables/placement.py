"""Where the images of a split lie while a network sees them.

On a GPU that has room they lie in its memory, and a process keeps them there for all trials it runs on
that data; otherwise they stay where they are, usually mapped from the packed file, whose pages all
processes of a machine share.
"""

from collections.abc import Iterable
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.image_rows import ImageRows
from trainables.datasets.loading import Split
from trainables.devices import to_device

# Of the memory that a process may have of a GPU: the rest is for networks.
LARGEST_SHARE = 0.4
COPIED_AT_ONCE = 1024


class Placed(Protocol):
    """A split, wherever it lies."""

    def take(self, chosen: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        """Return (n, channels, size_px, size_px) uint8 images and labels, on the device of the network."""


class OnHost:
    """A split in the memory of the machine, or mapped; what is taken is copied to the device."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._split, self._device = split, device

    def take(self, chosen: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        """Return images and labels."""
        # torch wants no read-only memory: what is a view of a mapped file is copied.
        taken = (
            np.require(part[chosen], requirements="W") for part in (self._split.images, self._split.labels)
        )
        images, labels = (to_device(torch.from_numpy(part), self._device) for part in taken)
        return images, labels


class OnDevice:
    """A split in the memory of the GPU; of grey images that stand for colours, one plane."""

    def __init__(self, split: Split, device: torch.device) -> None:
        images = split.images
        self._n_channels, self._device = images.shape[1], device
        n_planes = _n_planes(images)
        self._images = torch.empty(
            (len(images), n_planes, *images.shape[2:]), dtype=torch.uint8, device=device
        )
        # Piece by piece, so that the whole is never copied in the memory of the machine.
        for start in range(0, len(images), COPIED_AT_ONCE):
            some = np.array(images[start : start + COPIED_AT_ONCE][:, :n_planes])
            self._images[start : start + COPIED_AT_ONCE] = torch.from_numpy(some).to(device)
        self._labels = torch.from_numpy(np.array(split.labels)).to(device)

    @property
    def nbytes(self) -> int:
        """What the images take."""
        return self._images.nbytes

    def take(self, chosen: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        """Return images and labels."""
        if isinstance(chosen, slice):
            images, labels = self._images[chosen], self._labels[chosen]
        else:
            places = to_device(torch.from_numpy(chosen), self._device)
            images, labels = self._images[places], self._labels[places]
        return images.expand(-1, self._n_channels, -1, -1), labels


_ON_DEVICE: "dict[torch.device, WeakKeyDictionary[Split, OnDevice]]" = {}
_gpu_share = 1.0


def set_gpu_share(share: float) -> None:
    """Say which part of a GPU is meant for this process, for what is placed from now on."""
    global _gpu_share
    _gpu_share = share


def place(split: Split, device: torch.device, *, may_fill: bool = True) -> Placed:
    """Place a split for networks on `device`, in its memory if it is a GPU with room.

    Args:
        may_fill: False leaves the GPU's memory to the network.
    """
    if device.type != "cuda":
        return OnHost(split, device)
    there = _ON_DEVICE.setdefault(device, WeakKeyDictionary())
    if not may_fill:
        there.clear()
        return OnHost(split, device)
    found = there.get(split)
    if found is not None:
        return found
    needed = len(split.images) * _n_planes(split.images) * split.images.shape[2] * split.images.shape[3]
    if needed > _room(device, there.values()):
        return OnHost(split, device)
    try:
        placed = there[split] = OnDevice(split, device)
    except torch.OutOfMemoryError:  # another process on this GPU was quicker
        return OnHost(split, device)
    return placed


def _room(device: torch.device, placed: Iterable[OnDevice]) -> float:
    """Return how many bytes of images may still be placed."""
    taken = sum(one.nbytes for one in placed)
    free, total = torch.cuda.mem_get_info(device)
    # What torch keeps of what was freed, to use it again.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return LARGEST_SHARE * min(free + taken, _gpu_share * total) - taken


def is_anything_placed(device: torch.device) -> bool:
    """Say whether this process keeps images in the memory of a GPU, for this trial or from earlier ones."""
    return len(_ON_DEVICE.get(device, ())) > 0


def _n_planes(images: np.ndarray | ImageRows) -> int:
    """Return how many planes of an image differ: one where grey stands for colours."""
    pixels = images.pixels if isinstance(images, ImageRows) else images
    return 1 if pixels.strides[1] == 0 else pixels.shape[1]
