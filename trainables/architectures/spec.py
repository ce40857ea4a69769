"""What a network is, as data. Below `trainables.spec`, so that the catalog need not know of trials."""

from typing import Annotated

from pydantic import Field

from trainables.fields import SpecModel


class SlimSpec(SpecModel):
    """Fewer channels from one stage on (Slim-ResNet of Raghu et al. 2019, figure 8).

    Attributes:
        from_stage: the first stage with fewer channels.
        factor: by which the channels of that stage and of all later ones are divided.
    """

    from_stage: str
    factor: Annotated[int, Field(ge=2)]


class ArchitectureSpec(SpecModel):
    """A network of the catalog, perhaps with another shape.

    Attributes:
        name: an entry of the catalog, or `timm/<name>`.
        slim: fewer channels in the later stages.
        truncate_after: the last stage that is kept; then come global average pooling and a head (Ke et al.
            2021). Slimming comes first.
        auxiliary: whether an auxiliary head takes part in the training, where the architecture has one.
        head_width: of the dense layers between the last stage and the outputs, where the architecture has
            such; None is the architecture's own.
    """

    name: str
    slim: SlimSpec | None = None
    truncate_after: str | None = None
    auxiliary: bool = True
    head_width: Annotated[int, Field(ge=1)] | None = None

    @property
    def label(self) -> str:
        """What people call it: `resnet50 slim 1/2 from block3`."""
        parts = [self.name]
        if self.slim is not None:
            parts.append(f"slim 1/{self.slim.factor} from {self.slim.from_stage}")
        if self.truncate_after is not None:
            parts.append(f"up to {self.truncate_after}")
        if not self.auxiliary:
            parts.append("without auxiliary head")
        if self.head_width is not None:
            parts.append(f"head {self.head_width}")
        return " ".join(parts)
