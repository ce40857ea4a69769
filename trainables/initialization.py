"""The weights a training starts from.

A network arrives with the framework's random weights; an initialization overwrites some stages in place
and never touches the head.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from trainables.architectures.architecture import HEAD
from trainables.architectures.stages import Network
from trainables.errors import WeightsError
from trainables.gabor import SMALLEST_KERNEL_PX, gabor_bank
from trainables.source_fit import Source, check_fit
from trainables.spec import InitSpec

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
_SAMPLED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def initialize(
    network: Network,
    init: InitSpec,
    *,
    source_state: Source | None,
    generator: torch.Generator,
    whole: Network | None = None,
) -> None:
    """Give a network, which holds its random weights already, the weights that `init` asks for.

    Args:
        init: as it stands in a resolved spec (a depth is a number).
        source_state: the pretrained weights, under the network's own names; None for `random`, and for a
            `gabor` that keeps its scale. Its head may have any shape or be absent.
        generator: on the CPU; draws what is drawn.
        whole: the network before it was truncated, perhaps on the meta device: the source may hold all its
            stages. None if nothing was dropped.

    Raises:
        WeightsError: the source does not fit the network, or the network has no place for Gabor filters;
            nothing has been changed.
    """
    if init.kind not in ("random", "gabor") and source_state is None:
        raise ValueError(f"init.kind {init.kind} needs source_state")
    copied, drawn = _copied_stages(network, init), _drawn_keys(network, init)
    if source_state is not None:
        check_fit(network, source_state, copied=copied, drawn=drawn, whole=whole or network)
    with torch.no_grad():
        INITIALIZATIONS[init.kind](network, init, source_state or {}, generator)


def _copied_stages(network: Network, init: InitSpec) -> tuple[str, ...]:
    if init.kind != "transfusion":
        return network.backbone if init.kind == "pretrained" else ()
    if not isinstance(init.depth, int) or init.depth > len(network.backbone):
        raise ValueError(f"init must be resolved: its depth a number of stages, got {init.depth!r}")
    return network.backbone[: init.depth]


def _drawn_keys(network: Network, init: InitSpec) -> tuple[str, ...]:
    """Return the keys of the source of which only mean and variance are used."""
    if init.kind == "gabor":
        return (f"{_first_convolution(network)[0]}.weight",)
    if "mean_var" not in (init.kind, init.rest):
        return ()
    modules = _sampled_modules(network, init)
    return tuple(
        f"{name}.{leaf}" for name, module in modules for leaf, _ in module.named_parameters(recurse=False)
    )


def _leave_random(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    """Keep the framework's random weights."""


def _copy_backbone(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    _copy_stages(network, network.backbone, source)


def _transfuse(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    """Copy the first `init.depth` stages (Raghu et al. 2019, figure 7); all stages stay trainable.

    With `rest: mean_var` the whole backbone is sampled before the copy, so that trials of one seed and
    different depths have the same weights wherever both are sampled.
    """
    if init.rest == "mean_var":
        _sample_backbone(network, init, source, generator)
    _copy_stages(network, _copied_stages(network, init), source)


def _sample_backbone(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    """Draw every convolution and linear tensor from a normal with the source tensor's mean and variance.

    What the paper did with norm layers is not known. Here scale and shift are reset to 1 and 0, or with
    `init.norm` mean_var drawn like the weights. Running statistics are always reset to 0 and 1: drawn like
    the rest, the running variances would in part be negative, and the network NaN when evaluated.
    Parameters of any other layer (the class token of a ViT, layer scales) keep the framework's values.
    """
    for _, module in _backbone_modules(network):
        if isinstance(module, _NORMS):
            module.reset_parameters()
    for name, module in _sampled_modules(network, init):
        for leaf, parameter in module.named_parameters(recurse=False):
            pretrained = source[f"{name}.{leaf}"].to("cpu", torch.float64)
            noise = torch.randn(parameter.shape, generator=generator)
            # correction=0: the sd of a single value is 0, not NaN.
            parameter.copy_(pretrained.mean() + pretrained.std(correction=0) * noise)


def _sampled_modules(network: Network, init: InitSpec) -> Iterator[tuple[str, nn.Module]]:
    kinds = (*_SAMPLED, *_NORMS) if init.norm == "mean_var" else _SAMPLED
    return ((name, module) for name, module in _backbone_modules(network) if isinstance(module, kinds))


def _backbone_modules(network: Network) -> Iterator[tuple[str, nn.Module]]:
    head = network.stage(HEAD)
    return ((n, module) for n, module in network.module.named_modules() if not head.holds(f"{n}.weight"))


def _draw_gabors(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    """Make the first convolution a bank of Gabor filters (Raghu et al. 2019); the rest is random.

    The bank has the standard deviation of the source's first convolution, or else of the random weights it
    replaces, so that a comparison of the two is not one of scales.
    """
    name, convolution = _first_convolution(network)
    n_filters, channels, kernel_px, _ = convolution.weight.shape
    bank = gabor_bank(n_filters, channels, kernel_px, generator=generator)
    like = source.get(f"{name}.weight", convolution.weight).to("cpu", torch.float64)
    convolution.weight.copy_(bank * (like.std(correction=0) / bank.std(correction=0)))


def _first_convolution(network: Network) -> tuple[str, nn.Conv2d]:
    stage = network.stages[0]
    for name, module in network.module.named_modules():
        if isinstance(module, nn.Conv2d) and stage.holds(f"{name}.weight"):
            side = min(module.kernel_size)
            if side < SMALLEST_KERNEL_PX:
                raise WeightsError(
                    f"init.kind gabor: the first convolution must be at least {SMALLEST_KERNEL_PX}x"
                    f"{SMALLEST_KERNEL_PX} to hold a filter, got {side}x{side} ({name}); "
                    "use another architecture"
                )
            return name, module
    raise WeightsError(
        f"init.kind gabor: the first stage must hold a convolution, got none in {stage.name}; "
        "use another architecture"
    )


def _copy_stages(network: Network, stages: tuple[str, ...], source: Source) -> None:
    for stage in stages:
        for key, value in network.stage_state(stage).items():
            if key in source:
                value.copy_(source[key])


INITIALIZATIONS: dict[str, Callable[[Network, InitSpec, Source, torch.Generator], None]] = {
    "random": _leave_random,
    "pretrained": _copy_backbone,
    "mean_var": _sample_backbone,
    "transfusion": _transfuse,
    "gabor": _draw_gabors,
}
