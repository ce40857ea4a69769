"""What decides the speed of a training, apart from the machine."""

import json
from functools import lru_cache
from typing import Any

from trainables.architectures.spec import ArchitectureSpec
from trainables.fields import SpecModel
from trainables.spec import TrainingSpec, TrialSpec

# Of a training: what is done with an image. Rates, lengths, schedules and what is selected change nothing.
_OF_TRAINING = ("trainable", "batch_size", "precision", "augment")


def setting_of(spec: TrialSpec) -> str | None:
    """Return all that decides how long an image takes, as text; None if a trial is not trained by gradient.

    Trials of one setting are equally fast on one machine: they may differ in their data, initialization,
    learning rate and length.
    """
    if spec.training.method != "gradient":
        return None
    return _setting(spec.architecture, spec.training, spec.dataset.size_px, spec.dataset.channels)


def setting_label(spec: TrialSpec) -> str:
    """Name a setting for people: `resnet18, 28 px × 3, batch 32`."""
    trains = "" if spec.training.trainable.is_all else f", trains {spec.training.trainable.label}"
    size = f"{spec.dataset.size_px} px × {spec.dataset.channels}"
    return f"{spec.architecture.label}, {size}, batch {spec.training.batch_size}{trains}"


@lru_cache(maxsize=4096)
def _setting(architecture: ArchitectureSpec, training: TrainingSpec, size_px: int, channels: int) -> str:
    content = {
        "architecture": _plain(architecture),
        "size_px": size_px,
        "channels": channels,
        "micro_batch": min(training.micro_batch_size or training.batch_size, training.batch_size),
        "optimizer": training.optimizer.kind,
        **{name: _plain(getattr(training, name)) for name in _OF_TRAINING},
    }
    return json.dumps(content, sort_keys=True)


def _plain(value: object) -> Any:
    """Return a value as JSON can hold it, what is at its default left out of mappings."""
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, SpecModel) else value
