"""Networks of timm, under timm's own module names; their stages are what timm's feature info tells."""

from itertools import pairwise
from typing import Any

import timm
import torch
from torch import nn

from trainables.architectures.catalog import HEAD, Architecture, Stage
from trainables.architectures.spec import ArchitectureSpec
from trainables.errors import SpecError, suggestion

PREFIX = "timm/"


def build_timm(spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Module:
    """Build a network with timm's random weights; its first convolution is made for `channels` by timm."""
    network: nn.Module = timm.create_model(
        spec.name.removeprefix(PREFIX), pretrained=False, num_classes=n_outputs, in_chans=channels
    )
    return network


def describe_timm(name: str) -> Architecture:
    """Return the entry of `timm/<name>`.

    A stage ends with a module that timm lists as a feature; what follows the last one, but for the
    classifier, belongs to the last stage.

    Raises:
        SpecError: timm has no such network, or does not tell its stages.
    """
    model = name.removeprefix(PREFIX)
    if not timm.is_model(model):
        known = [f"{PREFIX}{other}" for other in timm.list_models()]
        raise SpecError(
            f"architecture: timm {timm.__version__} has no network {model!r}{suggestion(name, known)}"
        )
    with torch.device("meta"):
        network = timm.create_model(model, pretrained=False)
    features = _features(network)
    if len(features) < 2:
        raise SpecError(
            f"architecture: timm does not tell the stages of {model!r}; use another network, or declare it "
            "in a package of your own (entry point transfusion.architectures)"
        )
    config: dict[str, Any] = network.pretrained_cfg
    classifier = config.get("classifier")
    head = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    is_fixed = bool(config.get("fixed_input_size"))
    return Architecture(
        "trainables.architectures.timm_networks:build_timm",
        _stages(network, features, head),
        smallest_px=config["input_size"][-1] if is_fixed else 32,
        published=tuple(f"{PREFIX}{full}" for full in _published(model)),
    )


def _published(model: str) -> list[str]:
    """Return the names of published weights, those trained on ImageNet-1k alone first."""
    names = timm.list_pretrained(f"{model.split('.')[0]}.*")
    return sorted(names, key=lambda name: not name.endswith("_in1k") or "_ft_" in name)


def _features(network: nn.Module) -> list[str]:
    info = getattr(network, "feature_info", [])
    entries = info if isinstance(info, list) else getattr(info, "info", [])
    return [entry["module"] for entry in entries if entry.get("module")]


def _stages(network: nn.Module, features: list[str], head: tuple[str, ...]) -> tuple[Stage, ...]:
    """Cut the entries of the state dict, which are in the order of the modules, after each feature."""
    keys = [key for key in network.state_dict() if not any(key.startswith(f"{path}.") for path in head)]
    ends = [_last_key(keys, feature, network) + 1 for feature in features]
    ends[-1] = len(keys)
    stages = [
        Stage(f"block{number}", _owners(network, keys[start:end]), feature)
        for number, ((start, end), feature) in enumerate(
            zip(pairwise([0, *ends]), features, strict=True), start=1
        )
    ]
    return (*stages, Stage(HEAD, head, head[0]))


def _last_key(keys: list[str], feature: str, network: nn.Module) -> int:
    """Return the place of the last entry of a feature, or of what comes before one without weights."""
    within = [i for i, key in enumerate(keys) if key.startswith(f"{feature}.")]
    if within:
        return within[-1]
    names = [name for name, module in network.named_modules()]
    before = set(names[: names.index(feature)])
    return max(i for i, key in enumerate(keys) if key.rsplit(".", 1)[0] in before)


def _owners(network: nn.Module, keys: list[str]) -> tuple[str, ...]:
    """Return the modules that hold the entries, or the entry itself where that is the network."""
    modules = dict(network.named_modules())
    owners = (
        key.rsplit(".", 1)[0] if key.rsplit(".", 1)[0] in modules and "." in key else key for key in keys
    )
    return tuple(dict.fromkeys(owners))
