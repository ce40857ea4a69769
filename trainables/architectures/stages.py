"""A network together with its stages."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from trainables.architectures.architecture import HEAD, Stage
from trainables.architectures.reshaping import architecture_of
from trainables.architectures.spec import ArchitectureSpec
from trainables.architectures.truncation import TruncatedNetwork, kept_chain
from trainables.errors import SpecError


@dataclass(frozen=True)
class Network:
    """A module and its stages, from the input to the head.

    Every parameter and every saved buffer belongs to exactly one stage.

    Attributes:
        auxiliary_weight: of the loss of auxiliary heads, which a module with such returns while it trains.

    Raises:
        ValueError: the stages are not such a partition; the message says where.
    """

    module: nn.Module
    stages: tuple[Stage, ...]
    auxiliary_weight: float = 0.0

    def __post_init__(self) -> None:
        problems = [*_name_problems(self.module, self.stages), *_ownership_problems(self.module, self.stages)]
        if problems:
            raise ValueError(
                f"the stages of {type(self.module).__name__} do not fit it: {'; '.join(problems)}"
            )

    @property
    def backbone(self) -> tuple[str, ...]:
        """Names of all stages but the head."""
        return tuple(stage.name for stage in self.stages[:-1])

    def stage(self, name: str) -> Stage:
        """Return the stage called `name`.

        Raises:
            KeyError: the network has no such stage.
        """
        return {stage.name: stage for stage in self.stages}[name]

    def stage_modules(self, name: str) -> tuple[nn.Module, ...]:
        """Return the modules of a stage."""
        return tuple(self.module.get_submodule(path) for path in self.stage(name).modules)

    def stage_state(self, name: str) -> dict[str, Tensor]:
        """Return the stage's entries of `module.state_dict()`: references, not copies."""
        stage = self.stage(name)
        return {key: value for key, value in self.module.state_dict().items() if stage.holds(key)}


def build_network(spec: ArchitectureSpec | str, *, n_outputs: int, channels: int) -> Network:
    """Build a network of the catalog; a plain name stands for the unchanged one.

    Its weights are the framework's own random ones, drawn from torch's global generator.

    Raises:
        SpecError: the catalog has no such network, or it cannot be reshaped as the spec asks.
    """
    spec = ArchitectureSpec(name=spec) if isinstance(spec, str) else spec
    architecture = architecture_of(spec)
    if not architecture.is_network:
        raise SpecError(f"architecture {spec.name} is no network; it is fitted, not built")
    module_path, function = architecture.builder.split(":")
    build = getattr(importlib.import_module(module_path), function)
    module = build(spec, n_outputs=n_outputs, channels=channels)
    if spec.truncate_after is not None:
        chain = kept_chain(architecture.chain, architecture.stages[-2])
        module = TruncatedNetwork(module, chain, n_outputs=n_outputs, channels=channels)
    return Network(module, architecture.stages, architecture.auxiliary_weight)


def _name_problems(module: nn.Module, stages: tuple[Stage, ...]) -> Iterator[str]:
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        yield f"two stages share a name ({', '.join(names)})"
    if names[-1:] != [HEAD]:
        yield f"the last stage must be called {HEAD!r}, got {', '.join(names)}"
    known = {path for path, _ in module.named_modules(remove_duplicate=False)} | set(module.state_dict())
    for stage in stages:
        for path in {*stage.modules, stage.probe} - known:
            yield f"{stage.name} names a module {path!r}, which the network lacks"


def _ownership_problems(module: nn.Module, stages: tuple[Stage, ...]) -> Iterator[str]:
    keys = list(module.state_dict())
    for key in keys:
        owners = [stage.name for stage in stages if stage.holds(key)]
        if len(owners) != 1:
            yield f"{key} is in {' and '.join(owners) or 'no stage'}"
    for stage in stages:
        if not any(stage.holds(key) for key in keys):
            yield f"{stage.name} holds no weights"
