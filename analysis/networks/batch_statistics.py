"""Batch-norm statistics for weights that were never trained, such as a mean of two networks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(module: nn.Module) -> tuple[_BatchNorm, ...]:
    """Return the batch norms of a network that keep running statistics."""
    return tuple(m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats)


def estimate_batch_norm(module: nn.Module, batches: Sequence[Tensor]) -> None:
    """Set running statistics to the plain mean over the batches; leave the module in eval mode.

    Only batch norms are in training mode meanwhile: dropout and auxiliary heads stay off. A module without
    batch norm is not run.

    Args:
        batches: of one size, because every batch counts the same; at least two images each.

    Raises:
        ValueError: no batches, or batches too small to have a variance.
    """
    norms = batch_norms(module)
    module.eval()
    if not norms:
        return
    if not batches or min(map(len, batches)) < 2:
        raise ValueError(
            "batch norm: its statistics are estimated from batches of at least 2 images, got "
            f"{'no batch' if not batches else f'batches of {[len(batch) for batch in batches]}'}; "
            "give more calibration images"
        )
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch: a cumulative average
            norm.train()
        with torch.no_grad():
            for batch in batches:
                module(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
