"""Networks of torchvision, under torchvision's own module names.

A checkpoint of such a network therefore loads into the plain torchvision network, and back.
"""

import torchvision
from torch import nn


def build_resnet(name: str, *, n_outputs: int, channels: int) -> nn.Module:
    """Build a ResNet with torchvision's random weights and a head of `n_outputs`.

    With one channel, `conv1` is torchvision's with one input channel, drawn by torchvision's rule for
    convolutions. That rule looks at the fan-out only, so its weights have the same scale. Published
    RGB weights do not fit it: images repeated to three channels do.
    """
    network = torchvision.models.get_model(name, weights=None, num_classes=n_outputs)
    if channels != network.conv1.in_channels:
        network.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network
