"""The optimizers a spec can name."""

import torch

from trainables.architectures.stages import Network
from trainables.spec import Adam, Sgd


def build_optimizer(spec: Sgd | Adam, network: Network) -> torch.optim.Optimizer:
    """Return the optimizer of the weights that learn.

    On a GPU all weights are updated by a kernel or two; on a processor that gains nothing.
    """
    parameters = [p for p in network.module.parameters() if p.requires_grad]
    is_fused = any(parameter.is_cuda for parameter in parameters) or None
    if isinstance(spec, Sgd):
        return torch.optim.SGD(
            parameters,
            lr=spec.lr,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            weight_decay=spec.weight_decay,
            fused=is_fused,
        )
    return torch.optim.Adam(
        parameters,
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        fused=is_fused,
    )
