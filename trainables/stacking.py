"""Which trials can be trained together in one stack (`trainables.stack`)."""

from trainables.identity import cell_id
from trainables.spec import TrialSpec

# What members may differ in: the weights they start from, numbers of the optimizer, which become columns of
# one update, and what decides when a training is looked at and when it ends.
FREE = (
    "purpose",
    "init",
    "importance",
    *(f"training.optimizer.{name}" for name in ("lr", "momentum", "weight_decay", "beta1", "beta2", "eps")),
    *(f"training.{name}" for name in ("steps", "epochs", "schedule", "gradient_clip")),
    *(f"training.{name}" for name in ("evaluation", "early_stopping", "selection_metric")),
)


def stacking_key(spec: TrialSpec) -> str | None:
    """Return what members of a stack must have in common; None if a trial can be in none.

    Args:
        spec: resolved.
    """
    training = spec.training
    accumulates = training.micro_batch_size is not None and training.micro_batch_size < training.batch_size
    if training.method != "gradient" or accumulates:
        return None
    return cell_id(spec, but=FREE)
