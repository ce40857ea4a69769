"""What batch normalization needs from a training."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from trainables.architectures.stages import Network
from trainables.errors import SpecError

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def set_batch_norm_momentum(network: Network, kept: float | None) -> None:
    """Keep this share of the old running statistics; None leaves the architecture's own."""
    if kept is not None:
        for module in network.module.modules():
            if isinstance(module, BATCH_NORMS):
                module.momentum = 1 - kept  # torch's momentum is the share of the new statistics


@contextmanager
def lone_values_named() -> Iterator[None]:
    """Say what to do where batch norm has one value of a channel, from which it can take no variance.

    Raises:
        SpecError: in place of torch's ValueError.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise SpecError(
            "training.batch_size and micro_batch_size must be at least 2 where batch norm looks at one "
            "position of an image, as the last stages do at this dataset.size_px"
        ) from None
