"""The CBR family: the small convolutional networks of Transfusion (Raghu et al. 2019, appendix).

A layer is convolution, batch norm, ReLU and (but for the fifth of LargeT) a max-pool; then come global
average pooling and a linear head. The paper does not state the padding; here every layer is SAME,
because without padding LargeT collapses on images below about 200 px.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from trainables.architectures.spec import ArchitectureSpec, SlimSpec


@dataclass(frozen=True)
class CbrShape:
    """What tells one CBR from another.

    Attributes:
        kernel_px: side of every convolution kernel.
        widths: output channels of the layers.
        n_pooled: how many layers, from the input, end in a max-pool.
    """

    kernel_px: int
    widths: tuple[int, ...]
    n_pooled: int


# The appendix prints 64 … 512 for Tiny, which is twice the size of Small; only 32 … 256 is the paper's "a
# twentieth of an ImageNet model". So that is `cbr_tiny`, and the printed one is to be had as `cbr_tiny_wide`.
SHAPES: dict[str, CbrShape] = {
    "cbr_large_t": CbrShape(7, (32, 64, 128, 256, 512), n_pooled=4),
    "cbr_large_w": CbrShape(7, (64, 128, 256, 512), n_pooled=4),
    "cbr_small": CbrShape(7, (32, 64, 128, 256), n_pooled=4),
    "cbr_tiny": CbrShape(5, (32, 64, 128, 256), n_pooled=4),
    "cbr_tiny_wide": CbrShape(5, (64, 128, 256, 512), n_pooled=4),
}


def build_cbr(spec: ArchitectureSpec, *, n_outputs: int, channels: int) -> nn.Sequential:
    """Build a CBR, with the framework's own random weights, with fewer channels from one layer on if asked
    for.

    Its modules are `conv1` … `convN`, `gap`, `flatten` and `head`; it maps (n, channels, h, w) to
    (n, n_outputs).
    """
    shape = SHAPES[spec.name]
    widths = _widths(shape, spec.slim)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = (channels, *widths)
    for i, width in enumerate(widths, start=1):
        modules[f"conv{i}"] = _layer(inputs[i - 1], width, shape.kernel_px, pooled=i <= shape.n_pooled)
    modules["gap"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["head"] = nn.Linear(widths[-1], n_outputs)
    return nn.Sequential(modules)


def _widths(shape: CbrShape, slim: SlimSpec | None) -> tuple[int, ...]:
    if slim is None:
        return shape.widths
    first = int(slim.from_stage.removeprefix("conv"))
    return tuple(
        width // (slim.factor if number >= first else 1) for number, width in enumerate(shape.widths, start=1)
    )


def _layer(n_in: int, n_out: int, kernel_px: int, *, pooled: bool) -> nn.Sequential:
    # No bias: the batch norm that follows would take it away.
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(n_in, n_out, kernel_px, padding=kernel_px // 2, bias=False),
        bn=nn.BatchNorm2d(n_out),
        relu=nn.ReLU(inplace=True),
    )
    if pooled:
        modules["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(modules)
