"""Random numbers that depend on what they are for, and on nothing else.

Every draw has a name: the weights of seed 3, the batch order of epoch 7, the augmentation of step 120.
So a resumed training needs no saved generator state to go on bit-equal, and two trials of one seed share
their head and their batch order whatever their initialization.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # takes seconds, which a plan would have to wait for


def derive_seed(seed: int, *names: object) -> int:
    """Return a seed in [0, 2**63) for one use; different names give independent streams."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> "torch.Generator":
    """Return a CPU generator for one use."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Seed torch's global generators for one use, and give them back as they were."""
    import torch

    # To ask for the state of a GPU's generator would begin to use the GPU.
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(derive_seed(seed, *names))
        yield


def seed_generator_of(device: "torch.device", seed: int, *names: object) -> None:
    """Seed torch's global generator of one device.

    `torch.manual_seed` seeds those of all kinds of devices, which takes a third of a millisecond.
    """
    import torch

    of_device = torch.default_generator
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        of_device = torch.cuda.default_generators[index]
    of_device.manual_seed(derive_seed(seed, *names))
