"""What a network costs per image, counted on the meta device: no weights are drawn and no image is needed."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.architectures.spec import ArchitectureSpec
from trainables.architectures.stages import Network, build_network
from trainables.freezing import freeze, set_training_mode
from trainables.operations import Operations
from trainables.spec import TrainableSpec

# Batch norm refuses a lone value per channel.
COUNTED_IMAGES = 2
# Place of `output_mask` after the weights among the arguments of aten's convolution_backward.
OUTPUT_MASK = 7


def count_operations(
    architecture: ArchitectureSpec, trainable: TrainableSpec, *, size_px: int, channels: int, n_outputs: int
) -> Operations:
    """Count the operations of convolutions and matrix products, which are nearly all, and what is kept.

    Args:
        trainable: resolved for this network: what does not learn needs no gradient of its weights.
    """
    with torch.device("meta"):
        network = build_network(architecture, n_outputs=n_outputs, channels=channels)
        images = torch.empty(COUNTED_IMAGES, channels, size_px, size_px)
    freeze(network, trainable)
    parameters = list(network.module.parameters())
    return Operations(
        forward_flops=_forward_flops(network.module, images),
        training_flops=_training_flops(network, trainable, images),
        n_params=sum(p.numel() for p in parameters),
        n_trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        activation_bytes=_kept_bytes(network, trainable, images),
    )


def _forward_flops(module: nn.Module, images: Tensor) -> int:
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(images)
    return int(counter.get_total_flops() // COUNTED_IMAGES)


def _training_flops(network: Network, trainable: TrainableSpec, images: Tensor) -> int:
    set_training_mode(network, trainable)
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        _total(network.module(images)).backward()
    network.module.zero_grad(set_to_none=True)
    return int(counter.get_total_flops() // COUNTED_IMAGES)


def _convolution_backward_flops(
    grad_shape: Sequence[int], images_shape: Sequence[int], weight_shape: Sequence[int], *more: Any, **_: Any
) -> int:
    """Return what the gradients of a convolution cost: each as much as the forward pass.

    torch's own formula takes a grouped convolution for a whole one, a factor of hundreds in a depthwise one.
    """
    wants_images, wants_weight, _ = more[OUTPUT_MASK]
    return 2 * math.prod(grad_shape) * math.prod(weight_shape[1:]) * (wants_images + wants_weight)


def _kept_bytes(network: Network, trainable: TrainableSpec, images: Tensor) -> int:
    """Return the bytes that autograd saves of one image, each storage once, weights left out."""
    weights = {p.untyped_storage()._cdata for p in network.module.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage's address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    set_training_mode(network, trainable)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _total(network.module(images))
    return sum(kept.values()) // COUNTED_IMAGES


def _total(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return a scalar of all heads' logits, so that a gradient flows through each."""
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack([head.sum() for head in heads]).sum()
