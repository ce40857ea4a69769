"""What one trial will do: images, floating-point operations, and the memory it needs while it does."""

from dataclasses import dataclass

from study.extent import SplitSizes, batch_size, total_steps
from trainables.operations import Operations
from trainables.schedules import evaluation_steps
from trainables.spec import Adam, TrainingSpec, TrialSpec


@dataclass(frozen=True)
class Workload:
    """Of one trial, from one of its steps on; None where it is not known, or makes no sense.

    Attributes:
        images_trained: looked at in optimizer steps, repetitions counted; 0 of a linear probe.
        images_scored: sent through the network without learning: at each evaluation, and at the end the
            validation and the test split with the best weights.
        flops: floating-point operations of both; augmentation and the optimizer are left out, and of a
            linear probe the regression.
        memory_bytes: on the device, in 32-bit precision.
    """

    images_trained: int | None = None
    images_scored: int | None = None
    flops: int | None = None
    memory_bytes: int | None = None


def workload(
    spec: TrialSpec, sizes: SplitSizes, operations: Operations | None, *, from_step: int = 0
) -> Workload:
    """Return what a resolved trial has to do from a step on, if nothing stops it early.

    Args:
        operations: of its network; None if they are not known.
    """
    if spec.training.method == "fit":
        return Workload()
    if spec.training.method == "linear_probe":
        scored = _sum(sizes.train, sizes.val, sizes.test)
        return Workload(0, scored, _flops(0, scored, operations))
    trained, scored = _gradient(spec, sizes, from_step)
    memory = None if operations is None else memory_bytes(spec.training, operations)
    return Workload(trained, scored, _flops(trained, scored, operations), memory)


def memory_bytes(training: TrainingSpec, operations: Operations) -> int:
    """Return what a training by gradient needs on its device: weights, gradients, optimizer, activations."""
    micro_batch = min(training.micro_batch_size or training.batch_size, training.batch_size)
    return operations.memory_bytes(micro_batch=micro_batch, slots_per_param=_slots_per_param(training))


def _slots_per_param(training: TrainingSpec) -> int:
    """Return the numbers that the optimizer keeps of each weight."""
    if isinstance(training.optimizer, Adam):
        return 2
    return 1 if training.optimizer.momentum else 0


def _gradient(spec: TrialSpec, sizes: SplitSizes, from_step: int) -> tuple[int | None, int | None]:
    steps = total_steps(spec.training, sizes.train)
    if steps is None:
        return None, None
    trained = max(0, steps - from_step) * batch_size(spec.training, sizes.train)
    # The evaluation at the step of a state has been made before it was committed.
    evaluations = evaluation_steps(spec.training.evaluation, steps)
    n_left = sum(step > from_step or from_step == 0 for step in evaluations)
    if spec.purpose == "search":  # nothing is scored at the end
        return trained, None if sizes.val is None else n_left * sizes.val
    if sizes.val is None or sizes.test is None:
        return trained, None
    return trained, (n_left + 1) * sizes.val + sizes.test


def _flops(trained: int | None, scored: int | None, operations: Operations | None) -> int | None:
    if trained is None or scored is None or operations is None:
        return None
    return trained * operations.training_flops + scored * operations.forward_flops


def _sum(*numbers: int | None) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
