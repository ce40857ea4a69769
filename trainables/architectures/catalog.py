"""Every network a study can name: its stages, and where it is built.

This table imports no torch, so a plan can be made without it (networks of timm are looked up in timm).
"""

from dataclasses import replace
from functools import cache
from importlib import import_module

from trainables.architectures.architecture import HEAD, Architecture, Stage
from trainables.errors import SpecError, unknown_choice
from trainables.plugins import plugins

IMAGENET = "imagenet"
DENSE_WIDTH = 4096  # of the dense layers of AlexNet and VGG
_TIMM = "timm/"


def _torchvision(entry: str, *members: str) -> tuple[str, ...]:
    # Members only, not the alias DEFAULT: what that stands for changes from one torchvision to the next.
    return tuple(f"torchvision/{entry}_Weights.{member}" for member in members or ("IMAGENET1K_V1",))


def _from(first: int, last: int, *, within: str) -> tuple[str, ...]:
    return tuple(f"{within}.{i}" for i in range(first, last + 1))


# Everywhere the probe of a first convolution is its ReLU, before the max-pool, so that conv1 of a CBR and
# conv1 of a ResNet are compared at the same point.
def _cbr(*widths: int) -> Architecture:
    names = tuple(f"conv{i}" for i in range(1, len(widths) + 1))
    convs = tuple(Stage(name, (name,), f"{name}.relu") for name in names)
    return Architecture(
        "trainables.architectures.cbr:build_cbr",
        (*convs, Stage(HEAD, (HEAD,), HEAD)),
        chain=names,
        widths=dict(zip(names, widths, strict=True)),
        smallest_px=16,
    )


def _resnet(entry: str, *members: str) -> Architecture:
    blocks = tuple(Stage(f"block{i}", (f"layer{i}",), f"layer{i}") for i in range(1, 5))
    return Architecture(
        "trainables.architectures.torchvision_networks:build_resnet",
        (Stage("conv1", ("conv1", "bn1"), "relu"), *blocks, Stage(HEAD, ("fc",), "fc")),
        chain=("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
        widths={"block1": 64, "block2": 128, "block3": 256, "block4": 512},
        smallest_px=16,
        published=_torchvision(entry, *members),
    )


def _vgg(entry: str, *members: str, batch_norm: bool) -> Architecture:
    """Blocks of convolutions, each followed by (batch norm and) ReLU; a max-pool ends the block."""
    per_convolution = 3 if batch_norm else 2
    stages, first = [], 0
    for number, n_convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        last = first + n_convolutions * per_convolution - 1
        stages.append(Stage(f"block{number}", _from(first, last, within="features"), f"features.{last}"))
        first = last + 2
    return Architecture(
        "trainables.architectures.torchvision_networks:build_vgg",
        (*stages, Stage(HEAD, ("classifier",), "classifier")),
        chain=_from(0, first - 1, within="features"),
        widths={"block1": 64, "block2": 128, "block3": 256, "block4": 512, "block5": 512},
        dense_width=DENSE_WIDTH,
        published=_torchvision(entry, *members),
    )


def _densenet(entry: str) -> Architecture:
    """A block is a dense block with the transition after it; the last norm belongs to the last block."""
    conv1 = Stage("conv1", ("features.conv0", "features.norm0"), "features.relu0")
    blocks = [
        Stage(f"block{i}", (f"features.denseblock{i}", f"features.{end}"), f"features.{end}")
        for i, end in enumerate(("transition1", "transition2", "transition3", "norm5"), start=1)
    ]
    chain = ("conv0", "norm0", "relu0", "pool0", "denseblock1", "transition1", "denseblock2", "transition2")
    return Architecture(
        "trainables.architectures.torchvision_networks:build_torchvision",
        (conv1, *blocks, Stage(HEAD, ("classifier",), "classifier")),
        chain=tuple(
            f"features.{name}" for name in (*chain, "denseblock3", "transition3", "denseblock4", "norm5")
        ),
        published=_torchvision(entry),
    )


def _sequential(
    container: str, cuts: dict[str, tuple[int, int]], head: str, published: tuple[str, ...]
) -> Architecture:
    """Networks whose backbone is one sequence of modules; `cuts` has the first and the last of each stage."""
    stages = [
        Stage(name, _from(first, last, within=container), f"{container}.{last}")
        for name, (first, last) in cuts.items()
    ]
    n_modules = max(last for _, last in cuts.values()) + 1
    return Architecture(
        "trainables.architectures.torchvision_networks:build_torchvision",
        (*stages, Stage(HEAD, (head,), head)),
        chain=_from(0, n_modules - 1, within=container),
        published=published,
    )


def _efficientnet(entry: str, *members: str) -> Architecture:
    blocks = {f"block{i}": (i, i) for i in range(1, 8)}
    cuts = {"conv1": (0, 0), **blocks, "conv2": (8, 8)}
    return _sequential("features", cuts, "classifier", _torchvision(entry, *members))


# Stages of MobileNets end where the resolution or the number of channels changes for several blocks.
_MOBILENET_V2 = {
    "conv1": (0, 0), "block1": (1, 1), "block2": (2, 3), "block3": (4, 6), "block4": (7, 10), "block5":
    (11, 13),
    "block6": (14, 16), "block7": (17, 17), "conv2": (18, 18),
}  # fmt: skip
_MOBILENET_V3_LARGE = {
    "conv1": (0, 0), "block1": (1, 1), "block2": (2, 3), "block3": (4, 6), "block4": (7, 12), "block5":
    (13, 15),
    "conv2": (16, 16),
}  # fmt: skip
_MOBILENET_V3_SMALL = {
    "conv1": (0, 0), "block1": (1, 1), "block2": (2, 3), "block3": (4, 8), "block4": (9, 11), "conv2": (12,
    12),
}  # fmt: skip
_MNASNET = {
    "conv1": (0, 2),
    "block1": (3, 7),
    **{f"block{i}": (i + 6, i + 6) for i in range(2, 8)},
    "conv2": (14, 16),
}

_ALEXNET = Architecture(
    "trainables.architectures.torchvision_networks:build_alexnet",
    (
        *(
            Stage(f"conv{number}", (f"features.{i}",), f"features.{i + 1}")
            for number, i in enumerate((0, 3, 6, 8, 10), start=1)
        ),
        Stage(HEAD, ("classifier",), "classifier"),
    ),
    chain=_from(0, 12, within="features"),
    smallest_px=63,
    dense_width=DENSE_WIDTH,
    published=_torchvision("AlexNet"),
)
# The published weights of GoogLeNet and Inception-v3 are of images from -1 to 1: dataset.normalize: unit.
_GOOGLENET = Architecture(
    "trainables.architectures.torchvision_networks:build_with_auxiliary",
    (
        Stage("conv1", ("conv1",), "conv1"),
        Stage("conv2", ("conv2", "conv3"), "conv3"),
        Stage("block1", ("inception3a", "inception3b"), "inception3b"),
        Stage("block2", tuple(f"inception4{x}" for x in "abcde"), "inception4e"),
        Stage("block3", ("inception5a", "inception5b"), "inception5b"),
        Stage(HEAD, ("fc", "aux1", "aux2"), "fc"),
    ),
    chain=(
        "conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3",
        "inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a",
        "inception5b",
    ),
    auxiliary_weight=0.3,
    normalize="unit",
    published=_torchvision("GoogLeNet"),
)  # fmt: skip
_INCEPTION_V3 = Architecture(
    "trainables.architectures.torchvision_networks:build_with_auxiliary",
    (
        Stage("conv1", ("Conv2d_1a_3x3",), "Conv2d_1a_3x3"),
        Stage("conv2", ("Conv2d_2a_3x3", "Conv2d_2b_3x3"), "Conv2d_2b_3x3"),
        Stage("conv3", ("Conv2d_3b_1x1", "Conv2d_4a_3x3"), "Conv2d_4a_3x3"),
        Stage("block1", ("Mixed_5b", "Mixed_5c", "Mixed_5d"), "Mixed_5d"),
        Stage("block2", tuple(f"Mixed_6{x}" for x in "abcde"), "Mixed_6e"),
        Stage("block3", ("Mixed_7a", "Mixed_7b", "Mixed_7c"), "Mixed_7c"),
        Stage(HEAD, ("fc", "AuxLogits"), "fc"),
    ),
    chain=(
        "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
        "maxpool2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d",
        "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c",
    ),
    smallest_px=75,
    # The auxiliary head pools 5 x 5 and then convolves 5 x 5: the map before it must have 17 positions a
    # side.
    smallest_px_with_auxiliary=299,
    auxiliary_weight=0.4,
    normalize="unit",
    published=_torchvision("Inception_V3"),
)  # fmt: skip
_INCEPTION_V4 = replace(
    _sequential(
        "features",
        {
            "conv1": (0, 0),
            "conv2": (1, 2),
            "mixed": (3, 5),
            "block1": (6, 9),
            "block2": (10, 17),
            "block3": (18, 21),
        },
        "last_linear",
        ("timm/inception_v4.tf_in1k",),
    ),
    builder="trainables.architectures.timm_networks:build_timm",
    smallest_px=75,
    normalize="unit",
)
_BASELINE = Architecture("trainables.baselines:fit_baseline", (), smallest_px=8)

ARCHITECTURES: dict[str, Architecture] = {
    "alexnet": _ALEXNET,
    "cbr_large_t": _cbr(32, 64, 128, 256, 512),
    "cbr_large_w": _cbr(64, 128, 256, 512),
    "cbr_small": _cbr(32, 64, 128, 256),
    "cbr_tiny": _cbr(32, 64, 128, 256),
    "cbr_tiny_wide": _cbr(64, 128, 256, 512),
    "decision_tree": _BASELINE,
    "densenet121": _densenet("DenseNet121"),
    "densenet169": _densenet("DenseNet169"),
    "densenet201": _densenet("DenseNet201"),
    "efficientnet_b0": _efficientnet("EfficientNet_B0"),
    "efficientnet_b1": _efficientnet("EfficientNet_B1", "IMAGENET1K_V1", "IMAGENET1K_V2"),
    "efficientnet_b2": _efficientnet("EfficientNet_B2"),
    "efficientnet_b3": _efficientnet("EfficientNet_B3"),
    "googlenet": _GOOGLENET,
    "inception_v3": _INCEPTION_V3,
    "inception_v4": _INCEPTION_V4,
    "mnasnet1_0": replace(
        _sequential("layers", _MNASNET, "classifier", _torchvision("MNASNet1_0")),
        builder="trainables.architectures.torchvision_networks:build_mnasnet",
    ),
    "mobilenet_v2": _sequential(
        "features",
        _MOBILENET_V2,
        "classifier",
        _torchvision("MobileNet_V2", "IMAGENET1K_V1", "IMAGENET1K_V2"),
    ),
    "mobilenet_v3_large": replace(
        _sequential(
            "features",
            _MOBILENET_V3_LARGE,
            "classifier",
            _torchvision("MobileNet_V3_Large", "IMAGENET1K_V1", "IMAGENET1K_V2"),
        ),
        has_deep_head=True,
    ),
    "mobilenet_v3_small": replace(
        _sequential("features", _MOBILENET_V3_SMALL, "classifier", _torchvision("MobileNet_V3_Small")),
        has_deep_head=True,
    ),
    "random_forest": _BASELINE,
    "resnet18": _resnet("ResNet18"),
    "resnet34": _resnet("ResNet34"),
    "resnet50": _resnet("ResNet50", "IMAGENET1K_V1", "IMAGENET1K_V2"),
    "resnet101": _resnet("ResNet101", "IMAGENET1K_V1", "IMAGENET1K_V2"),
    "resnet152": _resnet("ResNet152", "IMAGENET1K_V1", "IMAGENET1K_V2"),
    "vgg16": _vgg("VGG16", "IMAGENET1K_V1", "IMAGENET1K_FEATURES", batch_norm=False),
    "vgg16_bn": _vgg("VGG16_BN", batch_norm=True),
}


def find_architecture(name: str) -> Architecture:
    """Return the entry called `name`: of this table, of another package, or `timm/<name>`.

    Raises:
        SpecError: no such entry; the message lists the known ones.
    """
    if name.startswith(_TIMM):
        return _timm_architecture(name)
    known = ARCHITECTURES if name in ARCHITECTURES else {**ARCHITECTURES, **_plugged_in()}
    if name not in known:
        raise SpecError(unknown_choice("architecture", name, known) + " (or timm/<name>)")
    return known[name]


@cache
def _timm_architecture(name: str) -> Architecture:
    described: Architecture = import_module("trainables.architectures.timm_networks").describe_timm(name)
    return described


def _plugged_in() -> dict[str, Architecture]:
    return plugins("transfusion.architectures", Architecture, taken=frozenset(ARCHITECTURES))


def published_name(weights: str, architecture: str) -> str:
    """Return the full name of published weights of an architecture; `imagenet` stands for the usual ones.

    Raises:
        SpecError: nothing is published for the architecture, or not under this name.
    """
    known = find_architecture(architecture).published
    if not known:
        raise SpecError(
            f"source.weights: no weights are published for {architecture}; pretrain it: "
            "source: {dataset: imagenet, training: …}"
        )
    if weights == IMAGENET:
        if known[0].startswith(_TIMM) and not known[0].endswith("in1k"):
            raise SpecError(
                f"source.weights: no weights of ImageNet are published for {architecture}; name others: "
                f"{', '.join(known[:5])}"
            )
        return known[0]
    if weights not in known:
        raise SpecError(f"{unknown_choice('source.weights', weights, (IMAGENET, *known))} ({architecture})")
    return weights
