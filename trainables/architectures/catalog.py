"""Every network a study can name: its stages, and where it is built.

This table imports no torch, so a plan can be made without it.
A stage is an ordered, named part of a network. Its modules keep the names they have in the built
network, so a checkpoint loads into the plain torchvision network of the same name.
"""

from dataclasses import dataclass

from trainables.errors import SpecError, unknown_choice


@dataclass(frozen=True)
class Stage:
    """One ordered part of a network.

    Attributes:
        name: what papers and figures call it (`conv1`, `block2`, `head`).
        modules: dotted module names whose parameters and buffers belong to the stage.
        probe: dotted name of the module whose output represents the stage.
    """

    name: str
    modules: tuple[str, ...]
    probe: str

    def holds(self, key: str) -> bool:
        """Say whether an entry of a state dict belongs to the stage, by its name."""
        return any(key.startswith(f"{path}.") for path in self.modules)


@dataclass(frozen=True)
class Architecture:
    """A catalog entry.

    Attributes:
        builder: `module:function`, called as `function(name, n_outputs=…, channels=…)`.
        stages: from the input to the head; the last is always `head`.
        smallest_px: least image side a trial may use. Padding keeps one position at any size, but below
            this the last stages would have nothing but that one to look at.
    """

    builder: str
    stages: tuple[Stage, ...]
    smallest_px: int = 16

    @property
    def backbone(self) -> tuple[str, ...]:
        """Names of the stages that can be transfused: all but the head."""
        return tuple(stage.name for stage in self.stages[:-1])


# Everywhere the probe of conv1 is its ReLU, before the max-pool, so that conv1 of a CBR and conv1 of a
# ResNet are compared at the same point.
def _cbr(n_layers: int) -> Architecture:
    convs = tuple(Stage(f"conv{i}", (f"conv{i}",), f"conv{i}.relu") for i in range(1, n_layers + 1))
    return Architecture("trainables.architectures.cbr:build_cbr", (*convs, Stage("head", ("head",), "head")))


_RESNET = Architecture(
    "trainables.architectures.torchvision_networks:build_resnet",
    (
        Stage("conv1", ("conv1", "bn1"), "relu"),
        Stage("block1", ("layer1",), "layer1"),
        Stage("block2", ("layer2",), "layer2"),
        Stage("block3", ("layer3",), "layer3"),
        Stage("block4", ("layer4",), "layer4"),
        Stage("head", ("fc",), "fc"),
    ),
)

ARCHITECTURES: dict[str, Architecture] = {
    "cbr_large_t": _cbr(5),
    "cbr_large_w": _cbr(4),
    "cbr_small": _cbr(4),
    "cbr_tiny": _cbr(4),
    "cbr_tiny_wide": _cbr(4),
    "resnet18": _RESNET,
    "resnet50": _RESNET,
}


def find_architecture(name: str) -> Architecture:
    """Return the entry called `name`.

    Raises:
        SpecError: no such entry; the message lists the known ones.
    """
    if name not in ARCHITECTURES:
        raise SpecError(unknown_choice("architecture", name, ARCHITECTURES))
    return ARCHITECTURES[name]
