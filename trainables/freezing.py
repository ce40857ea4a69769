"""Which stages of a network learn, and how those that do not behave while the others do."""

from trainables.architectures.architecture import HEAD
from trainables.architectures.stages import Network
from trainables.batch_norm import BATCH_NORMS
from trainables.spec import TrainableSpec


def learning_stages(network: Network, spec: TrainableSpec) -> tuple[str, ...]:
    """Return the names of the stages that learn, in the order of the network; the head is always the last.

    Raises:
        ValueError: the spec is not resolved for this network: it names more stages than there are.
    """
    backbone = network.backbone
    if spec.first is None or spec.last is None:
        return (*backbone, HEAD)
    if max(spec.first, spec.last) > len(backbone):
        raise ValueError(
            f"trainable must be resolved: at most {len(backbone)} stages, got first={spec.first}, "
            f"last={spec.last}"
        )
    last = len(backbone) - spec.last
    learn = (name for i, name in enumerate(backbone) if i < spec.first or i >= last)
    return (*learn, HEAD)


def freeze(network: Network, spec: TrainableSpec) -> None:
    """Take the parameters of the stages that do not learn out of the training.

    They get no gradient, and an optimizer that is built afterwards from the parameters which need one
    leaves them as they are, weight decay included. For running statistics see `set_training_mode`.

    Args:
        spec: resolved for this network.
    """
    learn = [network.stage(name) for name in learning_stages(network, spec)]
    for key, parameter in network.module.named_parameters():
        parameter.requires_grad_(any(stage.holds(key) for stage in learn))


def set_training_mode(network: Network, spec: TrainableSpec) -> None:
    """Put a network in training mode, as is due at every return from an evaluation.

    The batch norms of stages that do not learn are in evaluation mode: they normalize by their running
    statistics and leave these as they are. With `frozen_statistics: updated` they behave like all others.
    Dropout and stochastic depth are active everywhere: they belong to the training and not to the weights.
    A network without batch norm (plain VGG) has nothing that `frozen_statistics` could change.

    Args:
        spec: resolved for this network.
    """
    network.module.train()
    if spec.is_all or spec.frozen_statistics == "updated":
        return
    learn = [network.stage(name) for name in learning_stages(network, spec)]
    for name, module in network.module.named_modules():
        if isinstance(module, BATCH_NORMS) and not any(stage.holds(f"{name}.weight") for stage in learn):
            module.eval()
