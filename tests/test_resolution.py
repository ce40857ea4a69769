"""The normal form of a trial: what has no effect is at its default, what does not fit is refused."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from trainables.datasets.catalog import find_dataset
from trainables.errors import DataError, SpecError
from trainables.identity import canonical, flatten, trial_id
from trainables.resolution import resolve
from trainables.spec import TrialSpec, parse_trial

DIGEST = "ab" * 32
FILE = {"file": "w.safetensors", "sha256": DIGEST}
RGB = {"reader": "synthetic_fundus", "size_px": 64, "channels": 3}
SLIM = {"name": "resnet50", "slim": {"from_stage": "block3", "factor": 2}}


LARGE = {**RGB, "size_px": 128}
GREY = {"reader": "digits", "size_px": 64}
WEIGHTS = {"kind": "pretrained", "source": {"weights": "imagenet"}}
BINARY = {"superclasses": {"healthy": ["0", "1"], "ill": ["2", "3", "4"]}}


def named_dataset(name: str) -> dict[str, Any]:
    return {**find_dataset(name), "size_px": 64}


CHEXPERT = named_dataset("chexpert_small")


def trial(**changes: Any) -> dict[str, Any]:
    plain = {"architecture": "resnet50", "dataset": RGB, "training": {"steps": 10}}
    return {**plain, **changes}


def resolved(**changes: Any) -> TrialSpec:
    return resolve(parse_trial(trial(**changes)))


def from_trial(kind: str = "pretrained", **changes: Any) -> dict[str, Any]:
    source = {"trial": trial(**changes)}
    return {"kind": kind, "source": source}


def training(**changes: Any) -> dict[str, Any]:
    return {"steps": 10, **changes}


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ({"training": training(trainable="all")}, {}),
        ({"training": training(trainable={"first": 3, "last": 2})}, {}),
        ({"training": training(trainable={"frozen_statistics": "updated"})}, {}),
        (
            {"training": training(trainable="first_last")},
            {"training": training(trainable={"first": 1, "last": 1})},
        ),
        ({"training": training(micro_batch_size=32)}, {}),
        ({"architecture": {"name": "resnet50", "auxiliary": False}}, {}),
        ({"dataset": {**RGB, "partial": True}}, {}),
        ({"dataset": {**RGB, "options": {"n_classes": 5}}}, {}),
        ({"dataset": {**RGB, "referable_grade": 2}}, {}),
        (
            {"dataset": {**RGB, "options": {"n_classes": 2}}},
            {"dataset": {**RGB, "options": {"n_classes": 2}, "referable_grade": 1}},
        ),
        ({"dataset": {**RGB, "n_classes": 5, "classes": ["0", "1", "2", "3", "4"]}}, {}),
        ({"dataset": {**RGB, "normalize": "published"}}, {"dataset": {**RGB, "normalize": "imagenet"}}),
        (
            {"architecture": "timm/inception_v4", "dataset": {**LARGE, "normalize": "published"}},
            {"architecture": "timm/inception_v4", "dataset": {**LARGE, "normalize": "unit"}},
        ),
        (
            {"architecture": "random_forest", "dataset": {**RGB, "normalize": "unit"}},
            {"architecture": "random_forest"},
        ),
        (
            {"architecture": {**SLIM, "truncate_after": "block2"}},
            {"architecture": {"name": "resnet50", "truncate_after": "block2"}},
        ),
        (
            {"dataset": GREY, "training": training(augment={"saturation": 0.2})},
            {"dataset": GREY},
        ),
        *(
            ({"dataset": {**named, **idle}}, {"dataset": named})
            for named, idle in (
                (named_dataset("cifar100"), {"test_fraction": 0.3}),
                (
                    named_dataset("eyepacs"),
                    {"test_fraction": 0.3, "validation_fraction": 0.3, "split_seed": 2},
                ),
                (CHEXPERT, {"test_fraction": 0.3}),
                (CHEXPERT, {"options": {"uncertain": {"default": "zeros"}}}),
                (CHEXPERT, {"options": {"blank": {"Fracture": "ones"}}}),
                (
                    {**CHEXPERT, "options": {"uncertain": {"Edema": "ones"}}},
                    {"options": {"uncertain": {"default": "zeros", "Edema": "ones", "Fracture": "ignore"}}},
                ),
            )
        ),
        (
            {"importance": {"classifier": trial(), "target": {**RGB, "normalize": "unit"}}},
            {"importance": {"classifier": trial(), "target": {**RGB, "referable_grade": 3}}},
        ),
        (
            {"init": WEIGHTS, "training": {"method": "linear_probe"}, "seed": 3},
            {"init": WEIGHTS, "training": {"method": "linear_probe"}},
        ),
        (
            {"training": {"method": "linear_probe", "batch_size": 7}},
            {"training": {"method": "linear_probe", "steps": 99, "optimizer": "adam"}},
        ),
        (
            {"architecture": "random_forest", "training": {"steps": 5}},
            {"architecture": "random_forest", "training": {"epochs": 7, "batch_size": 8}},
        ),
        (
            {"init": {"kind": "mean_var", "source": FILE}},
            {"init": {"kind": "mean_var", "norm": "reset", "source": FILE}},
        ),
        (
            {
                "init": {
                    "kind": "transfusion",
                    "depth": 0,
                    "rest": "mean_var",
                    "norm": "mean_var",
                    "source": FILE,
                }
            },
            {"init": {"kind": "mean_var", "norm": "mean_var", "source": FILE}},
        ),
    ],
)
def test_what_has_no_effect_changes_no_identity(written: dict[str, Any], same: dict[str, Any]) -> None:
    assert trial_id(resolved(**written)) == trial_id(resolved(**same))


@pytest.mark.parametrize(
    "changes",
    [
        {"training": training(trainable="head")},
        {"training": training(trainable="first")},
        {"training": training(trainable="last")},
        {"training": training(trainable={"first": 1, "last": 0, "frozen_statistics": "updated"})},
        {"training": training(micro_batch_size=8)},
        {"architecture": SLIM},
        {"architecture": {"name": "resnet50", "truncate_after": "block3"}},
        {"architecture": "random_forest"},
        {"training": {"method": "linear_probe"}},
        {"dataset": {**RGB, "options": {"contrast": 0.5}}},
        {"dataset": {**RGB, "referable_grade": 3}},
        {"dataset": {**RGB, "referable_grade": "none"}},
        {"dataset": {**RGB, "n_classes": 3, "referable_grade": 2}},
        {"dataset": {**RGB, **BINARY, "referable_grade": 1}},
        {"dataset": {**RGB, **BINARY, "referable_grade": "none"}},
        {"dataset": CHEXPERT, "architecture": "cbr_tiny"},
        {"training": training(augment={"saturation": 0.2})},
        {"training": {"method": "linear_probe"}, "seed": 3},
        {"dataset": {**RGB, "normalize": "unit"}},
    ],
)
def test_what_has_an_effect_is_another_trial(changes: dict[str, Any]) -> None:
    assert trial_id(resolved(**changes)) != trial_id(resolved())


def test_imagenet_stands_for_the_first_weights_published_for_the_architecture() -> None:
    by_name = resolved(init={"kind": "pretrained", "source": {"weights": "imagenet"}})
    assert by_name.init.source is not None
    named = by_name.init.source.weights
    assert named is not None
    assert named.startswith("torchvision/ResNet50_Weights.")
    assert resolved(init={"kind": "pretrained", "source": {"weights": named}}) == by_name


def test_a_slim_network_starts_from_the_first_stages_of_the_whole_one() -> None:
    init = {"kind": "transfusion", "depth": "block2", "source": {"trial": trial()}}
    spec = resolved(architecture=SLIM, init=init)
    assert spec.transfused_stages == 3
    assert spec.label == "resnet50 slim 1/2 from block3 · transfusion 3/5 · synthetic_fundus · seed 0"


def test_a_slim_network_can_start_from_an_equally_slim_one() -> None:
    spec = resolved(architecture=SLIM, init=from_trial(architecture=SLIM))
    assert spec.transfused_stages == 5


def test_a_truncated_network_starts_from_the_whole_one() -> None:
    spec = resolved(architecture={"name": "resnet50", "truncate_after": "block2"}, init=from_trial())
    assert spec.transfused_stages == 3


def test_the_classes_of_the_source_can_be_weighted_by_a_trial_that_is_a_parent() -> None:
    classifier = trial(seed=4)
    importance = {"classifier": classifier, "target": {**RGB, "options": {"seed": 9}}}
    spec = resolved(importance=importance)
    assert spec.parents == (resolved(seed=4),)
    assert trial_id(spec) != trial_id(resolved())
    assert flatten(spec)["importance.classifier_trial_id"] == trial_id(spec.parents[0])
    assert canonical(spec)["importance"]["classifier"] == canonical(spec.parents[0])
    child = resolved(init={"kind": "pretrained", "source": {"trial": trial(importance=importance)}})
    assert child.parents == (spec,)


def test_a_file_of_superclasses_is_known_by_its_digest(tmp_path: Path) -> None:
    for name, content in {"one": "class,superclass\n", "two": "class,superclass\n", "other": "x"}.items():
        (tmp_path / f"{name}.csv").write_text(content)

    def of_file(name: str) -> TrialSpec:
        dataset = {**RGB, "superclasses": f"{name}.csv", "referable_grade": 1}
        return resolve(parse_trial(trial(dataset=dataset)), tmp_path)

    assert trial_id(of_file("one")) == trial_id(of_file("two"))
    assert trial_id(of_file("one")) != trial_id(of_file("other"))
    expected = hashlib.sha256((tmp_path / "one.csv").read_bytes()).hexdigest()
    assert of_file("one").dataset.superclasses_sha256 == expected
    with pytest.raises(DataError, match=r"^dataset.superclasses: no file at .*three.csv; put it"):
        of_file("three")
    with pytest.raises(DataError, match=r"^dataset.superclasses one.csv: set TRANSFUSION_DATA to the folder"):
        resolve(parse_trial(trial(dataset={**RGB, "superclasses": "one.csv"})))


OTHER_CLASSIFIER = {"classifier": trial(dataset={**RGB, "options": {"seed": 1}}), "target": RGB}
TREE = {"classifier": trial(architecture="decision_tree"), "target": RGB}
SMALLER_TARGET = {"classifier": trial(), "target": {**RGB, "size_px": 32}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": training(trainable={"first": 9, "last": 0})},
            r"training.trainable.first must be at most 5 for resnet50 \(stages conv1, block1, .*\), got 9",
        ),
        (
            {"architecture": "timm/vit_tiny_patch16_224", "dataset": {**RGB, "size_px": 256}},
            "dataset.size_px must be 224 for timm/vit_tiny_patch16_224, which takes no other, got 256",
        ),
        (
            {"training": {"method": "fit"}},
            "training.method fit belongs to decision trees and forests, not to resnet50; leave it out",
        ),
        (
            {"architecture": "decision_tree", "init": {"kind": "pretrained", "source": FILE}},
            "init.kind must be 'random' for decision_tree, which has no weights, got 'pretrained'; add",
        ),
        (
            {"architecture": SLIM, "init": from_trial()},
            "init must copy at most 3 stages for resnet50 slim 1/2 from block3: from .*, got pretrained, whi",
        ),
        (
            {"init": from_trial(architecture=SLIM)},
            "init.source.trial.architecture.slim must be that of the network it initializes, or none",
        ),
        (
            {"init": from_trial(architecture={"name": "resnet50", "truncate_after": "block2"})},
            "init.source.trial.architecture.truncate_after must be that of the network it init",
        ),
        (
            {
                "dataset": {**RGB, "channels": 1},
                "init": {"kind": "pretrained", "source": {"weights": "imagenet"}},
            },
            "dataset.channels must be 3 for published weights, which are of RGB images, got 1; grey",
        ),
        (
            {"importance": OTHER_CLASSIFIER},
            "importance.classifier.dataset must be that of the trial, synthetic_fundus: it predicts",
        ),
        (
            {"dataset": {**RGB, "classes": ["0", "2", "3"]}},
            "dataset.referable_grade must be given where classes, n_classes or superclasses change the",
        ),
        ({"dataset": {**RGB, "n_classes": 3}}, "dataset.referable_grade must be given where classes, n_cl"),
        ({"dataset": {**RGB, **BINARY}}, "dataset.referable_grade must be given where classes, n_classes or"),
        (
            {"dataset": {**RGB, "classes": ["2", "1", "0"], "referable_grade": 1}},
            "dataset.classes must be in the order of the grades, got 2, 1, 0; or give referable_grade: none",
        ),
        (
            {"dataset": CHEXPERT, "training": training(selection_metric="val_kappa")},
            "training.selection_metric val_kappa is of grades, and CheXpert-v1.0-small .* has none; take",
        ),
        (
            {"dataset": CHEXPERT, "training": training(label_smoothing=0.1)},
            "training.label_smoothing must be 0 for CheXpert-v1.0-small .*, of which an image can have sev",
        ),
        (
            {"dataset": {**CHEXPERT, "options": {"uncertain": {"Oedema": "ones"}}}},
            "dataset.options: uncertain: a finding must be one of .*did you mean 'Edema'",
        ),
        (
            {
                "importance": {"classifier": trial(), "target": RGB},
                "training": training(class_weights="balanced"),
            },
            "training.class_weights must be none beside importance, which draws the classes in other shares",
        ),
        ({"importance": TREE}, "importance.classifier.architecture must be a network, got decision_tree"),
        (
            {"dataset": CHEXPERT, "importance": {"classifier": trial(dataset=CHEXPERT), "target": CHEXPERT}},
            "importance needs one class an image, and CheXpert-v1.0-small .* can have several; leave it out",
        ),
        (
            {"architecture": "googlenet", "training": {"method": "linear_probe"}},
            "training.method linear_probe needs a head of one .*, which googlenet has not; set .*auxiliary",
        ),
        (
            {"architecture": "timm/resnet18.a1_in1k"},
            "architecture: 'timm/resnet18.a1_in1k' names weights .*; give the network as timm/resnet18 and",
        ),
        (
            {"architecture": "timm/vit_base_patch32_clip_224", "dataset": {**RGB, "normalize": "published"}},
            "dataset.normalize cannot be 'published' for timm/vit_base_patch32_clip_224, whose weights",
        ),
        ({"importance": SMALLER_TARGET}, "importance.target.size_px must be 64, as the .*, got 32"),
        (
            {"importance": {"classifier": trial(), "target": RGB}, "training": {"method": "linear_probe"}},
            "importance needs a training by gradient, got training.method 'linear_probe'",
        ),
        (
            {"dataset": {**RGB, "options": {"n_clases": 3}}},
            "dataset.options.n_clases is not a field of dataset.options; did you mean 'n_classes'?",
        ),
        (
            {"dataset": {"reader": "digits", "channels": 3, "options": {"n": 3}}},
            "dataset.options.n is not known: the reader 'digits' has no options",
        ),
        (
            {"importance": {"classifier": trial(architecture="resnet5"), "target": RGB}},
            "importance.classifier.architecture must be one of",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"^{message}"):
        resolved(**changes)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("trainable", "frist", "must be one of 'all', 'first', 'first_last', 'head', 'last', got 'frist'"),
        ("trainable", {"first": 1}, ": give both first and last, or neither"),
        ("augment", {"crop_area": [0.9, 0.5]}, ": crop_area must be a range from small to great, got [0.9"),
        ("augment", {"crop_area": [0.9, 1.5]}, ": crop_area must be at most 1, got 1.5"),
        ("method", "probe", "must be one of 'fit', 'gradient', 'linear_probe', got 'probe'"),
    ],
)
def test_a_mistaken_training_says_what_is_wrong(field: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_trial(trial(training=training(**{field: value})))
    joint = "" if message[0] in ":.[" else " "
    assert str(caught.value).startswith(f"training.{field}{joint}{message}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("options", 3, "must be a mapping, got 3"),
        ("options", {"a": {1: 2}}, ".* must have text for keys; put numbers in quotes"),
        ("superclasses", 3, "must be text or a mapping, got 3"),
        ("superclasses", "../a.csv", "must be relative to the data root"),
        ("superclasses_sha256", DIGEST, "superclasses_sha256 belongs to a file of superclasses"),
        ("n_classes", 1, "must be at least 2, got 1"),
        ("train_per_class", 0, "must be at least 1, got 0"),
    ],
)
def test_a_mistaken_dataset_says_what_is_wrong(field: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_trial(trial(dataset={**RGB, field: value}))


def test_two_ways_to_take_fewer_images_exclude_each_other() -> None:
    with pytest.raises(SpecError, match="give either train_fraction or train_per_class"):
        parse_trial(trial(dataset={**RGB, "train_fraction": 0.5, "train_per_class": 3}))
    with pytest.raises(SpecError, match="n_classes must be at most the 2 of classes"):
        parse_trial(trial(dataset={**RGB, "classes": ["0", "1"], "n_classes": 3}))
