"""What the catalog says of a network: its stages, and where it is built.

A stage is an ordered, named part of a network. Its modules keep the names they have in the built network,
so a checkpoint loads into the plain torchvision or timm network of the same name.
"""

from dataclasses import dataclass, field
from typing import Literal

HEAD = "head"


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
