"""Maps over the image that a stage gives: its activations, and Grad-CAM, which weighs them by a class."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.networks.class_scores import as_array, check_targets, quiet
from trainables.architectures.stages import Network

GRAD_CAM_LEAST_SIDE = 4  # positions; a coarser map says nothing once it is spread over the image


def grad_cam(network: Network, images: Tensor, targets: Tensor, *, stage: str) -> np.ndarray:
    """Weigh the maps of a stage by the mean gradient of the logit, add them and keep what is above 0.

    Selvaraju et al. 2017, equations 1 and 2, at the stage's probe; spread over the image bilinearly. Of
    tokens those of the image form the map. A class token's network looks at no other token of its last
    stage, so there the map is 0 throughout; use an earlier stage.

    captum's version takes the second dimension for the channels and reads modules that work in place after
    they were overwritten; hence an own one.

    Raises:
        KeyError: the network has no such stage.
        ValueError: the stage gives no map.
    """
    check_targets(images, targets)
    with quiet(network.module), _stage_outputs(network, [stage]) as outputs:
        logits = network.module(images.clone())
        output = outputs[stage]
        chosen = logits.gather(1, targets[:, None]).sum()
        (derivative,) = torch.autograd.grad(chosen, output)
        maps, slopes = (_as_map(tensor.detach(), network, stage) for tensor in (output, derivative))
        weights = slopes.mean(dim=(2, 3), keepdim=True)
        weighed = F.relu((weights * maps).sum(dim=1, keepdim=True))
        spread = F.interpolate(weighed, size=images.shape[2:], mode="bilinear", align_corners=False)
    return as_array(spread[:, 0])


def stage_activations(network: Network, images: Tensor, *, stage: str | None = None) -> np.ndarray:
    """Return the maps (n, channels, h, w) of a stage, by default the first; in their own resolution.

    Raises:
        KeyError, ValueError: as `grad_cam`.
    """
    stage = stage or network.stages[0].name
    with quiet(network.module), _stage_outputs(network, [stage]) as outputs, torch.no_grad():
        network.module(images.clone())
        return as_array(_as_map(outputs[stage], network, stage))


def grad_cam_stage(network: Network, images: Tensor) -> str:
    """Name the last stage of the backbone whose map still has 4 × 4 positions, else the one with most."""
    with quiet(network.module), _stage_outputs(network, network.backbone) as outputs, torch.no_grad():
        network.module(images[:1].clone())
        sides = {name: min(_as_map(outputs[name], network, name).shape[2:]) for name in network.backbone}
    fine = [stage for stage, side in sides.items() if side >= GRAD_CAM_LEAST_SIDE]
    return fine[-1] if fine else max(sides, key=lambda stage: sides[stage])


@contextmanager
def _stage_outputs(network: Network, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Catch the outputs of stages' probes, by the stage's name; each is where a gradient can start."""
    outputs: dict[str, Tensor] = {}

    def catcher(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def catch(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            outputs[name] = output.detach().requires_grad_()
            # What follows works on a copy, in place as it likes; detached, the way back ends here.
            return outputs[name].clone()

        return catch

    probes = {name: network.module.get_submodule(network.stage(name).probe) for name in names}
    handles = [probe.register_forward_hook(catcher(name)) for name, probe in probes.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _as_map(output: Tensor, network: Network, name: str) -> Tensor:
    """Return (n, channels, h, w) of a stage's output; tokens of the image form a square."""
    if output.ndim > 2 and network.stage(name).is_channels_last:
        output = output.movedim(-1, 1)
    if output.ndim == 3:
        n_prefix = getattr(network.module, "num_prefix_tokens", 0)
        side = isqrt(output.shape[2] - n_prefix)
        if side * side == output.shape[2] - n_prefix:
            return output[:, :, n_prefix:].unflatten(2, (side, side))
    if output.ndim != 4:
        raise ValueError(
            f"stage {name} gives no map over the image, but {tuple(output.shape)}; name another stage of "
            f"{', '.join(network.backbone)}"
        )
    return output
