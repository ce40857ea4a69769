"""What people call trials: short, and different where the trials differ."""

from typing import Any

import pytest

from trainables.labels import distinct_labels
from trainables.resolution import resolve
from trainables.spec import TrialSpec, parse_trial

IMAGENET = {"weights": "imagenet"}
FUNDUS = {"reader": "synthetic_fundus", "channels": 3, "size_px": 64}


def trial(**changes: Any) -> dict[str, Any]:
    return {"architecture": "resnet18", "dataset": FUNDUS, "training": {"steps": 1}, **changes}


def of_source(source: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return trial(init={"kind": "pretrained", "source": source, **changes})


def resolved(content: dict[str, Any]) -> TrialSpec:
    return resolve(parse_trial(content))


CSV = {"reader": "csv", "options": {"label": "y"}}
CHEXPERT = {"reader": "chexpert", "path": "CheXpert-v1.0-small"}
BOTH = {"kind": "transfusion", "depth": 2, "rest": "mean_var", "norm": "mean_var", "source": IMAGENET}


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (trial(), "resnet18 · random · synthetic_fundus"),
        (
            trial(init={"kind": "mean_var", "norm": "mean_var", "source": IMAGENET}),
            "resnet18 · mean_var norm too · synthetic_fundus",
        ),
        (trial(init=BOTH), "resnet18 · transfusion 2/5 + mean_var norm too · synthetic_fundus"),
        (trial(dataset={**CSV, "path": "clinic/labels.csv"}), "resnet18 · random · clinic/labels"),
        (trial(dataset={**CSV, "path": "labels.csv"}), "resnet18 · random · labels"),
        (trial(dataset={**CHEXPERT, "size_px": 64}), "resnet18 · random · CheXpert-v1.0-small"),
    ],
)
def test_a_cell_is_called_by_what_it_is(content: dict[str, Any], label: str) -> None:
    assert resolved(content).cell_label == label


def test_a_source_is_called_by_its_whole_chain() -> None:
    importance = {"classifier": trial(), "target": FUNDUS, "temper": 0.5, "cap": 10}
    sources = {
        "torchvision/ResNet18_Weights.IMAGENET1K_V1": IMAGENET,
        "synthetic_fundus": {"trial": trial()},
        "synthetic_fundus from torchvision/ResNet18_Weights.IMAGENET1K_V1": {"trial": of_source(IMAGENET)},
        "synthetic_fundus as synthetic_fundus, temper 0.5, cap 10": {"trial": trial(importance=importance)},
    }
    for label, source in sources.items():
        found = resolved(of_source(source)).init.source
        assert found is not None
        assert found.label == label


def test_equal_names_get_the_fields_they_differ_in() -> None:
    contents = {"a": {"x.lr": 1, "n": 0}, "b": {"x.lr": 2, "n": 0}, "c": {"x.lr": 1, "n": 0}, "d": {"n": 9}}
    labels = distinct_labels({"a": "net", "b": "net", "c": "net", "d": "other"}, contents)
    assert labels == {"a": "net (lr=1)", "b": "net (lr=2)", "c": "net (lr=1)", "d": "other"}


def test_an_identity_is_shown_only_where_nothing_else_tells() -> None:
    contents = {"a": {"source.trial_id": "5e", "lr": 1}, "b": {"source.trial_id": "7f", "lr": 2}}
    assert distinct_labels(dict.fromkeys(contents, "net"), contents) == {"a": "net (lr=1)", "b": "net (lr=2)"}
    contents["c"] = {"source.trial_id": "80", "lr": 2}
    labels = distinct_labels(dict.fromkeys(contents, "net"), contents)
    assert labels["b"] == "net (lr=2, trial_id=7f)"
    assert len(set(labels.values())) == 3
