"""The weights a training starts from.

A network arrives with the framework's random weights; an initialization overwrites some stages in place
and never touches the head.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from trainables.architectures.stages import Network
from trainables.errors import WeightsError
from trainables.spec import HEAD, InitSpec

_LISTED = 6
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
_SAMPLED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Source = Mapping[str, Tensor]


def initialize(
    network: Network, init: InitSpec, *, source_state: Source | None, generator: torch.Generator
) -> None:
    """Give a network, which holds its random weights already, the weights that `init` asks for.

    Args:
        init: as it stands in a resolved spec (a depth is a number).
        source_state: the pretrained weights, under the network's own names; None for `random`. Its head
            may have any shape or be absent.
        generator: on the CPU; draws what is drawn.

    Raises:
        WeightsError: the source does not fit the network; nothing has been changed.
    """
    if init.kind != "random":
        if source_state is None:
            raise ValueError(f"init.kind {init.kind} needs source_state")
        _check_fit(network, source_state)
    with torch.no_grad():
        INITIALIZATIONS[init.kind](network, init, source_state or {}, generator)


def _leave_random(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    """Keep the framework's random weights."""


def _copy_backbone(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    _copy_stages(network, network.backbone, source)


def _transfuse(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    """Copy the first `init.depth` stages (Raghu et al. 2019, figure 7); all stages stay trainable.

    With `rest: mean_var` the whole backbone is sampled before the copy, so that trials of one seed and
    different depths have the same weights wherever both are sampled.
    """
    if not isinstance(init.depth, int) or init.depth > len(network.backbone):
        raise ValueError(f"init must be resolved: its depth a number of stages, got {init.depth!r}")
    if init.rest == "mean_var":
        _sample_backbone(network, init, source, generator)
    _copy_stages(network, network.backbone[: init.depth], source)


def _sample_backbone(network: Network, init: InitSpec, source: Source, generator: torch.Generator) -> None:
    """Draw every convolution and linear tensor from a normal with the source tensor's mean and sd.

    What the paper did with batch norm is not known. Here its affine part is reset to 1 and 0 and its
    statistics to 0 and 1: sampled like the rest, the running variances would be negative, and the network
    NaN when evaluated.
    """
    for stage in network.backbone:
        for path in network.stage(stage).modules:
            for name, module in network.module.get_submodule(path).named_modules(prefix=path):
                _sample_module(name, module, source, generator)


def _sample_module(name: str, module: nn.Module, source: Source, generator: torch.Generator) -> None:
    if isinstance(module, _NORMS):
        module.reset_parameters()
        return
    for leaf, parameter in module.named_parameters(prefix=name, recurse=False):
        if not isinstance(module, _SAMPLED):
            raise TypeError(f"mean_var has no rule for {leaf}, a parameter of a {type(module).__name__}")
        pretrained = source[leaf].to("cpu", torch.float64)
        noise = torch.randn(parameter.shape, generator=generator)
        # correction=0: the sd of a single value is 0, not NaN.
        parameter.copy_(pretrained.mean() + pretrained.std(correction=0) * noise)


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
}


def _check_fit(network: Network, source: Source) -> None:
    """Compare pretrained weights with the backbone of a network, whatever part of them will be used.

    Raises:
        WeightsError: a key is missing or unexpected, or a tensor has another shape or is not finite; names
            the keys and says what to do.
    """
    expected = {key: value for stage in network.backbone for key, value in network.stage_state(stage).items()}
    given = {key: value for key, value in source.items() if not network.stage(HEAD).holds(key)}
    missing = [key for key in expected.keys() - given.keys() if not _may_lack(key)]
    unexpected = list(given.keys() - expected.keys())
    shared = expected.keys() & given.keys()
    misshapen = [key for key in shared if given[key].shape != expected[key].shape]
    not_finite = [key for key in shared if not given[key].isfinite().all()]
    shapes = [
        f"{key} must have shape {tuple(expected[key].shape)}, got {tuple(given[key].shape)}"
        for key in misshapen
    ]
    parts = {"missing": missing, "unexpected": unexpected, "shape": shapes, "not finite": not_finite}
    report = "; ".join(f"{title}: {_list(keys)}" for title, keys in parts.items() if keys)
    if report:
        advice = _advice(missing + unexpected, [(expected[key], given[key]) for key in misshapen])
        raise WeightsError(f"the pretrained weights do not fit the network. {report}. {advice}")


def _may_lack(key: str) -> bool:
    # Files older than PyTorch 0.4.1, some of torchvision's among them, lack this counter of batch norms.
    return key.endswith(".num_batches_tracked")


def _list(keys: list[str]) -> str:
    keys = sorted(keys)
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more


def _advice(misnamed: list[str], misshapen: list[tuple[Tensor, Tensor]]) -> str:
    if misnamed:
        return "Use weights of this architecture, with the keys of its state_dict and no prefix before them."
    if len(misshapen) == 1:
        expected, given = misshapen[0]
        if expected.dim() == given.dim() == 4 and {expected.shape[1], given.shape[1]} == {1, 3}:
            return f"The weights are for images of {given.shape[1]} channel(s): set dataset.channels to that."
    if misshapen:
        return "Use weights of this architecture."
    return "The training they come from has diverged; use other weights."
