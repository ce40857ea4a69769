"""Every network a study can name: its stages, and where it is built.

This table imports no torch, so a plan can be made without it (networks of timm are looked up in timm).
A stage is an ordered, named part of a network. Its modules keep the names they have in the built network,
so a checkpoint loads into the plain torchvision or timm network of the same name.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Literal

from trainables.architectures.spec import ArchitectureSpec, SlimSpec
from trainables.errors import SpecError, unknown_choice
from trainables.plugins import plugins

IMAGENET = "imagenet"
DENSE_WIDTH = 4096  # of the dense layers of AlexNet and VGG
HEAD = "head"
_TIMM = "timm/"


@dataclass(frozen=True)
class Stage:
    """One ordered part of a network.

    Attributes:
        name: what papers and figures call it (`conv1`, `block2`, `head`).
        modules: dotted names of modules (or of single parameters) that belong to the stage.
        probe: dotted name of the module whose output represents the stage.
        is_channels_last: whether the last dimension of that output is the channels, as in networks of
            tokens; otherwise the second one is.
    """

    name: str
    modules: tuple[str, ...]
    probe: str
    is_channels_last: bool = False

    def holds(self, key: str) -> bool:
        """Say whether an entry of a state dict belongs to the stage, by its name."""
        return any(key == path or key.startswith(f"{path}.") for path in self.modules)


@dataclass(frozen=True)
class Architecture:
    """A catalog entry.

    Attributes:
        builder: `module:function`, called as `function(spec, n_outputs=…, channels=…)`; gives the network,
            slimmed if the spec says so, but not truncated.
        stages: from the input to the head; the last is always `head`. Empty for what is no network.
        chain: the modules that follow each other from the input to the last stage, so that a truncated
            network is the beginning of it. Empty where the network is no such chain.
        widths: of the stages that can be slimmed, their channels.
        smallest_px: least image side a trial may use. Padding keeps one position at any size, but below
            this the last stages would have nothing but that one to look at.
        smallest_px_with_auxiliary: the same where an auxiliary head takes part in the training.
        is_fixed_size: whether `smallest_px` is the only image side it takes.
        auxiliary_weight: of the loss of auxiliary heads; 0 where there are none.
        dense_width: of the dense layers between the last stage and the outputs; 0 where there are none.
        has_deep_head: whether the head has several layers with weights of another kind.
        normalize: how the published weights expect pixels, as in `DatasetSpec.normalize`; None if in another
            way.
        published: names of weights that are published for it, the usual ones first.
    """

    builder: str
    stages: tuple[Stage, ...]
    chain: tuple[str, ...] = ()
    widths: dict[str, int] = field(default_factory=dict)
    smallest_px: int = 32
    smallest_px_with_auxiliary: int = 0
    is_fixed_size: bool = False
    auxiliary_weight: float = 0.0
    dense_width: int = 0
    has_deep_head: bool = False
    normalize: Literal["imagenet", "unit"] | None = "imagenet"
    published: tuple[str, ...] = ()

    @property
    def backbone(self) -> tuple[str, ...]:
        """Names of the stages that can be transfused: all but the head."""
        return tuple(stage.name for stage in self.stages[:-1])

    @property
    def has_linear_head(self) -> bool:
        """Whether the head is one linear layer, which a linear probe can take the place of."""
        return not (self.dense_width or self.has_deep_head or self.auxiliary_weight)

    @property
    def is_network(self) -> bool:
        """Whether it is a network; the trees that serve as baselines have no stages."""
        return bool(self.stages)


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


def architecture_of(spec: ArchitectureSpec) -> Architecture:
    """Return the catalog entry of a network as the spec reshapes it: the stages it then has.

    Raises:
        SpecError: no such entry, or a change that it does not allow. The message starts with the field.
    """
    entry = find_architecture(spec.name)
    if spec.head_width is not None and not entry.dense_width:
        raise SpecError(
            f"architecture.head_width must be left out for {spec.name}, which has no dense layers before its "
            "outputs"
        )
    if spec.slim is not None:
        _check_slim(spec.name, spec.slim, entry)
    has_auxiliary = entry.auxiliary_weight > 0 and spec.auxiliary and spec.truncate_after is None
    smallest_px = max(entry.smallest_px, entry.smallest_px_with_auxiliary if has_auxiliary else 0)
    entry = replace(
        entry, smallest_px=smallest_px, auxiliary_weight=entry.auxiliary_weight if has_auxiliary else 0.0
    )
    if spec.truncate_after is None:
        is_without = find_architecture(spec.name).auxiliary_weight > 0 and not has_auxiliary
        return replace(entry, stages=_without_auxiliary(entry.stages)) if is_without else entry
    return _truncated(spec.name, spec.truncate_after, entry)


def _without_auxiliary(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Leave out modules of a head that only an auxiliary head has; the first is the main one."""
    return (*stages[:-1], replace(stages[-1], modules=stages[-1].modules[:1]))


def _check_slim(name: str, slim: SlimSpec, entry: Architecture) -> None:
    if not entry.widths:
        able = ", ".join(known for known, other in ARCHITECTURES.items() if other.widths)
        raise SpecError(f"architecture.slim is not known for {name}, only for {able}")
    if slim.from_stage not in entry.widths:
        raise SpecError(unknown_choice("architecture.slim.from_stage", slim.from_stage, entry.widths))
    names = list(entry.widths)
    for stage in names[names.index(slim.from_stage) :]:
        if entry.widths[stage] % slim.factor:
            raise SpecError(
                f"architecture.slim.factor must divide the channels of every stage, got {slim.factor} for "
                f"the {entry.widths[stage]} of {stage} ({name})"
            )


def _truncated(name: str, last: str, entry: Architecture) -> Architecture:
    if not entry.chain:
        raise SpecError(f"architecture.truncate_after is not known for {name}, whose modules are no chain")
    if last not in entry.backbone:
        raise SpecError(unknown_choice("architecture.truncate_after", last, entry.backbone))
    kept = entry.stages[: entry.backbone.index(last) + 1]
    return replace(entry, stages=(*kept, Stage(HEAD, (HEAD,), HEAD)), dense_width=0, has_deep_head=False)


def normal_architecture(spec: ArchitectureSpec) -> ArchitectureSpec:
    """Return the spec with every field that has no effect at its default."""
    entry = find_architecture(spec.name)
    has_no_effect = entry.auxiliary_weight == 0 or spec.truncate_after is not None
    changes: dict[str, object] = {"auxiliary": True} if has_no_effect else {}
    if spec.truncate_after is not None or spec.head_width == entry.dense_width:
        changes["head_width"] = None
    if spec.slim is not None and spec.truncate_after is not None:
        names = entry.backbone
        if names.index(spec.slim.from_stage) > names.index(spec.truncate_after):
            changes["slim"] = None  # nothing of what is slimmed is left
    return spec.model_copy(update=changes)


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
