"""Networks of timm, under timm's own module names; their stages are what timm's feature info tells."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import timm
import torch
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)
from torch import nn

from trainables.architectures.architecture import HEAD, Architecture, Stage
from trainables.architectures.spec import ArchitectureSpec
from trainables.errors import SpecError, suggestion

PREFIX = "timm/"
# Tried in this order.
SIZES_PX = (32, 64, 128, 224, 256, 299, 384)


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
    if "." in model:
        plain, tag = model.split(".", 1)
        raise SpecError(
            f"architecture: {name!r} names weights ({tag}); give the network as {PREFIX}{plain} and the "
            f"weights as source: {{weights: {name}}}"
        )
    if not timm.is_model(model):
        known = [f"{PREFIX}{other}" for other in timm.list_models()]
        raise SpecError(
            f"architecture: timm {timm.__version__} has no network {model!r}{suggestion(name, known)}"
        )
    try:
        with torch.device("meta"):
            network = timm.create_model(model, pretrained=False).eval()
        features = _features(network)
        stages = _stages(network, features, _head(network))
        smallest_px = _smallest_px(network)
        outputs = _run_stages(network, stages, smallest_px)
        stages = tuple(
            replace(stage, is_channels_last=_is_channels_last(outputs[stage.name], features[stage.probe]))
            if stage.name != HEAD
            else stage
            for stage in stages
        )
    # Of more than a thousand networks some build, name or run their parts in ways of their own.
    except Exception as error:
        raise SpecError(
            f"architecture: timm does not tell the stages of {model!r} in a way that can be relied on "
            f"({error}); use another network, or declare it in a package of your own (entry point "
            "transfusion.architectures)"
        ) from error
    return Architecture(
        "trainables.architectures.timm_networks:build_timm",
        stages,
        smallest_px=smallest_px,
        is_fixed_size=bool(network.pretrained_cfg.get("fixed_input_size")),
        normalize=_normalize(network.pretrained_cfg),
        published=tuple(f"{PREFIX}{full}" for full in _published(model)),
    )


def _head(network: nn.Module) -> tuple[str, ...]:
    classifier = network.pretrained_cfg.get("classifier")  # type: ignore[union-attr, operator]
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def _normalize(config: Mapping[str, Any]) -> Literal["imagenet", "unit"] | None:
    """Return how timm's weights of a network expect pixels, None if in a way a dataset cannot be given."""
    pixels = (tuple(config["mean"]), tuple(config["std"]))
    if pixels == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        return "imagenet"
    return "unit" if pixels == (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD) else None


def _smallest_px(network: nn.Module) -> int:
    """Return the size of a network that has one size, else the first power of two it can look at."""
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    expected: int = config["input_size"][-1]
    if config.get("fixed_input_size"):
        return expected
    for size_px in SIZES_PX:
        try:
            _run(network, size_px)
        except RuntimeError:  # a kernel larger than what is left of the image
            continue
        return size_px
    return expected


def _run(network: nn.Module, size_px: int) -> None:
    with torch.no_grad():
        network(torch.empty(2, 3, size_px, size_px, device="meta"))


def _run_stages(network: nn.Module, stages: tuple[Stage, ...], size_px: int) -> dict[str, tuple[int, ...]]:
    """Run an image of no content, see that the stages are what they say, and return the shapes they give.

    Raises:
        ValueError: a probe does not give one map or one row of tokens, probes fire in another order, or a
            weight of a stage acts after its probe.
    """
    fired: dict[str, tuple[int, ...]] = {}
    number = {stage.name: i for i, stage in enumerate(stages)}

    def note(stage: Stage, output: object) -> None:
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"{stage.name} gives a {type(output).__name__}")
        fired[stage.name] = tuple(output.shape)

    def check(stage: Stage) -> None:
        # What follows the last feature belongs to the last stage, and acts after its probe.
        if stage.name in fired and number[stage.name] < len(stages) - 2:
            raise ValueError(f"a part of {stage.name} acts after its end")

    handles = []
    for stage in stages:
        probe = network.get_submodule(stage.probe)
        handles.append(probe.register_forward_hook(lambda _m, _i, output, stage=stage: note(stage, output)))
    for path, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            owner = next((s for s in stages if path and s.holds(f"{path}.weight")), None)
            if owner is not None:
                handles.append(module.register_forward_pre_hook(lambda _m, _i, stage=owner: check(stage)))
    try:
        _run(network, size_px)
    finally:
        for handle in handles:
            handle.remove()
    if list(fired) != [stage.name for stage in stages]:
        raise ValueError(f"its stages act in the order {', '.join(fired)}")
    return fired


def _is_channels_last(shape: tuple[int, ...], channels: int) -> bool:
    """Find the channels of a feature, which timm counts, in the shape of the output.

    Raises:
        ValueError: they are in neither place.
    """
    if len(shape) == 4 and shape[1] == channels:
        return False
    if len(shape) in (3, 4) and shape[-1] == channels:
        return True
    raise ValueError(f"a feature of {channels} channels has the shape {shape}")


def _published(model: str) -> list[str]:
    """Return the names of weights that can be fetched, those trained on ImageNet-1k alone first."""
    names = timm.list_pretrained(f"{model}.*")
    names = [name for name in names if timm.get_pretrained_cfg(name).hf_hub_id]
    return sorted(names, key=lambda name: not name.endswith("in1k") or "_ft_" in name)


def _features(network: nn.Module) -> dict[str, int]:
    """Return the channels of every module that timm lists as a feature."""
    info = getattr(network, "feature_info", [])
    entries = info if isinstance(info, list) else getattr(info, "info", [])
    return {entry["module"]: entry["num_chs"] for entry in entries if entry.get("module")}


def _stages(network: nn.Module, features: Iterable[str], head: tuple[str, ...]) -> tuple[Stage, ...]:
    """Cut the entries of the state dict, which are in the order of the modules, after each feature.

    Raises:
        ValueError: there is no more than one feature.
    """
    features = list(features)
    if len(features) < 2:
        raise ValueError("it names fewer than two features")
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
