"""How well the networks do on the data they come from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torchvision

from trainables.identity import trial_id

if TYPE_CHECKING:
    from trainables.record import TrialRecord

SOURCE_METRIC = "test_accuracy"
SOURCE_NAME = "source accuracy"
_TORCHVISION = "torchvision/"


def source_accuracies(records: "Mapping[str, TrialRecord]") -> dict[str, float]:
    """Return, by trial id, the accuracy on the source of the weights that each pretrained trial started from.

    Of a pretraining in this study that is its test accuracy; of weights that torchvision publishes the top-1
    accuracy on ImageNet's validation images which torchvision states with them. Others have none.
    """
    found = {}
    for key, record in records.items():
        source = record.spec.init.source
        if source is None or record.spec.init.kind != "pretrained":
            continue
        if source.trial is not None:
            parent = records.get(trial_id(source.trial))
            value = parent.metrics.get(SOURCE_METRIC) if parent is not None else None
        else:
            value = _published_accuracy(source.weights or "")
        if value is not None:
            found[key] = float(value)
    return found


def _published_accuracy(weights: str) -> float | None:
    if not weights.startswith(_TORCHVISION):
        return None
    meta = torchvision.models.get_weight(weights.removeprefix(_TORCHVISION)).meta
    top_1 = meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return None if top_1 is None else top_1 / 100
