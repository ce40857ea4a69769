"""Networks of torchvision, under torchvision's own module names.

A checkpoint of such a network therefore loads into the plain torchvision network, and back.

With one channel, the first convolution is torchvision's with one input channel, drawn as torchvision draws
it: the weights of one of three channels, magnified by the square root of three where the rule looks at the
    number of
inputs. Published RGB weights do not fit it: images repeated to three channels do.
"""

import math
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.mnasnet import MNASNet
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import VGG, make_layers

from trainables.architectures.catalog import find_architecture
from trainables.architectures.spec import ArchitectureSpec, SlimSpec

# Whose first convolution is scaled by its number of inputs; the others look at the outputs, or at neither.
_SCALED_BY_INPUTS = ("alexnet", "densenet121", "densenet169", "densenet201")
_RESNET_PLANES = {"block1": 64, "block2": 128, "block3": 256, "block4": 512}
_RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}
# Channels of the convolutions of each block; M is a max-pool.
_VGG16 = (("block1", 64, 2), ("block2", 128, 2), ("block3", 256, 3), ("block4", 512, 3), ("block5", 512, 3))
_VGG_POOLED_PX = 7


def build_torchvision(spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Module:
    """Build a network with torchvision's random weights."""
    return _with_channels(spec.name, _network(spec.name, n_outputs), channels)


def build_mnasnet(spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Module:
    """Build MNASNet with torchvision's random weights."""
    return _with_channels(spec.name, _MnasNet(1.0, num_classes=n_outputs), channels)


class _MnasNet(MNASNet):
    """torchvision's MNASNet, which otherwise takes no weights that come without a version of its own."""

    def _load_from_state_dict(self, *arguments: Any) -> None:
        nn.Module._load_from_state_dict(self, *arguments)


def build_with_auxiliary(spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Module:
    """Build GoogLeNet or Inception-v3, with or without the auxiliary heads.

    In training mode it returns torchvision's named tuple, the main logits first. `transform_input` is off:
    images are normalized by the dataset.
    """
    options: dict[str, Any] = {"aux_logits": spec.auxiliary, "init_weights": True, "transform_input": False}
    return _with_channels(spec.name, _network(spec.name, n_outputs, **options), channels)


def build_resnet(spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Module:
    """Build a ResNet, with fewer planes from one block on if the spec says so."""
    block, layers = _RESNETS[spec.name]
    return _with_channels(
        spec.name, _SlimResNet(block, layers, n_outputs=n_outputs, slim=spec.slim), channels
    )


class _SlimResNet(ResNet):
    """torchvision's ResNet whose blocks from one on have a fraction of their planes."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        *,
        n_outputs: int,
        slim: SlimSpec | None,
    ) -> None:
        names = list(_RESNET_PLANES)
        thinned = names[names.index(slim.from_stage) :] if slim else []
        self._planes = {
            planes: planes // (slim.factor if slim and name in thinned else 1)
            for name, planes in _RESNET_PLANES.items()
        }
        super().__init__(block, layers, num_classes=n_outputs)
        if thinned:
            self.fc = nn.Linear(self.inplanes, n_outputs)

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **options: Any) -> nn.Sequential:
        made: nn.Sequential = super()._make_layer(block, self._planes[planes], *arguments, **options)
        return made


def build_vgg(spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Module:
    """Build VGG-16, with or without batch norm, with fewer channels from one block on if the spec says so."""
    names = [name for name, _, _ in _VGG16]
    thinned = names[names.index(spec.slim.from_stage) :] if spec.slim else []
    layers: list[str | int] = []
    for name, width, n_convolutions in _VGG16:
        width //= spec.slim.factor if spec.slim and name in thinned else 1
        layers += [*[width] * n_convolutions, "M"]
    # The head is built once, of the width that is wanted: torchvision's own would draw 120 million weights.
    with torch.device("meta"):
        network = VGG(make_layers([64, "M"]), num_classes=n_outputs, init_weights=False)
    network.features = make_layers(layers, batch_norm=spec.name.endswith("_bn"))
    width = spec.head_width or find_architecture(spec.name).dense_width
    network.classifier = nn.Sequential(
        nn.Linear(_last_width(layers) * _VGG_POOLED_PX**2, width),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(width, width),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(width, n_outputs),
    )
    _draw_as_vgg(network)
    return _with_channels(spec.name, network, channels)


def _last_width(layers: list[str | int]) -> int:
    return next(layer for layer in reversed(layers) if isinstance(layer, int))


def _draw_as_vgg(network: nn.Module) -> None:
    """Draw the weights by torchvision's rule for VGGs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def build_alexnet(spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Module:
    """Build AlexNet; `head_width` sets its two dense layers."""
    network = _network("alexnet", n_outputs)
    if spec.head_width is not None:
        network.classifier[1] = nn.Linear(network.classifier[1].in_features, spec.head_width)
        network.classifier[4] = nn.Linear(spec.head_width, spec.head_width)
        network.classifier[6] = nn.Linear(spec.head_width, n_outputs)
    return _with_channels("alexnet", network, channels)


def _network(name: str, n_outputs: int, **options: Any) -> Any:
    return torchvision.models.get_model(name, weights=None, num_classes=n_outputs, **options)


def _with_channels(name: str, network: nn.Module, channels: int) -> nn.Module:
    stage = find_architecture(name).stages[0]
    convolution = next(
        module
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and stage.holds(f"{path}.weight")
    )
    if channels == convolution.in_channels:
        return network
    factor = math.sqrt(convolution.in_channels / channels) if name in _SCALED_BY_INPUTS else 1.0
    with torch.no_grad():
        convolution.weight = nn.Parameter(convolution.weight[:, :channels].clone() * factor)
        if convolution.bias is not None and name == "alexnet":
            convolution.bias.mul_(factor)
    convolution.in_channels = channels
    return network
