"""When a network is scored, and with which learning rate it trains, step by step."""

import math

import numpy as np

from trainables.spec import CosineSchedule, EvaluationSpec, StepSchedule, TrainingSpec


def evaluation_steps(spec: EvaluationSpec, total_steps: int) -> tuple[int, ...]:
    """Return the steps after which the validation split is scored, ascending, 0 and the last included."""
    if total_steps == 0:
        return (0,)
    if spec.spacing == "log":
        grid = np.geomspace(total_steps, 1, spec.points)  # downwards, so that a lone point is the last step
    else:
        grid = np.linspace(total_steps / spec.points, total_steps, spec.points)
    return tuple(sorted({0, total_steps, *(round(step) for step in grid)}))


def learning_rate(spec: TrainingSpec, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
    """Return the rate of optimizer step `step` (0-based)."""
    schedule = spec.schedule
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return spec.optimizer.lr * (step + 1) / warmup
    if isinstance(schedule, StepSchedule):
        passed = sum(step >= round(m * steps_per_epoch) for m in schedule.milestones_epochs)
        return spec.optimizer.lr * schedule.factor**passed
    if isinstance(schedule, CosineSchedule):
        done = (step - warmup) / max(1, total_steps - warmup)
        return spec.optimizer.lr * 0.5 * (1 + math.cos(math.pi * done))
    return spec.optimizer.lr
