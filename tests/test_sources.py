"""Sources as axes: what a study file says of them, and the trainings that come of it."""

from typing import Any

import pytest
import yaml

from study.config import parse_study
from study.grid import Expansion, expand
from study.plan import State, make_plan
from trainables.errors import StudyFileError

BASE: dict[str, Any] = {
    "name": "sources",
    "trial": {
        "architecture": "cbr_tiny",
        "dataset": "digits_5_9",
        "training": {"steps": 20},
        "init": "pretrained",
    },
    "source": {"dataset": "digits_0_4", "training": {"steps": 40}},
}


def text(**sections: Any) -> str:
    return yaml.safe_dump({**BASE, **sections}, sort_keys=False)


def expansion(**sections: Any) -> Expansion:
    return expand(parse_study(text(**sections)))


def labels(found: Expansion) -> list[str]:
    return [trial.spec.label for trial in found.trials]


def test_importance_runs_the_plain_pretraining_first_and_shares_it() -> None:
    found = expansion(grid={"source.importance": ["none", "target", {"temper": 0.5, "cap": 5.0}]})
    plain, *_ = found.trials
    weighted = [trial for trial in found.trials if trial.spec.importance is not None]
    assert [trial.is_source for trial in found.trials] == [True, False, True, False, True, False]
    assert all(trial.parent_ids == (plain.trial_id,) for trial in weighted)
    assert [trial.spec.importance.temper for trial in weighted if trial.spec.importance] == [1.0, 0.5]
    assert weighted[0].spec.label == "cbr_tiny · random · digits 0–4 · as digits 5–9 · seed 0"


def test_a_weighted_pretraining_waits_for_its_classifier() -> None:
    study = parse_study(text(source={**BASE["source"], "importance": "target"}))
    states = [(entry.state, entry.reason) for entry in make_plan(study, []).entries]
    assert states == [
        (State.TO_RUN, ""),
        (State.WAITING, "for cbr_tiny · random · digits 0–4 · seed 0"),
        (State.WAITING, "for cbr_tiny · random · digits 0–4 · as digits 5–9 · seed 0"),
    ]


def test_the_images_and_classes_of_the_source_can_be_varied() -> None:
    found = expansion(
        grid={
            "source.dataset": [
                {"from": "digits", "train_per_class": 20},
                {"from": "digits", "train_fraction": 0.5},
                {"from": "digits", "n_classes": 4},
                {"from": "digits", "superclasses": {"low": list("01234"), "high": list("56789")}},
            ]
        }
    )
    assert [label for label, trial in zip(labels(found), found.trials, strict=True) if trial.is_source] == [
        "cbr_tiny · random · digits 20 a class · seed 0",
        "cbr_tiny · random · digits 0.5 · seed 0",
        "cbr_tiny · random · digits 4 classes · seed 0",
        "cbr_tiny · random · digits coarse · seed 0",
    ]


def test_a_slim_network_is_pretrained_whole_or_in_its_own_shape() -> None:
    slim = {"name": "cbr_tiny", "slim": {"from_stage": "conv3", "factor": 2}}
    transfusion = {"kind": "transfusion", "depth": 2}
    whole = expansion(trial={**BASE["trial"], "architecture": slim, "init": transfusion})
    same = expansion(
        trial={**BASE["trial"], "architecture": slim}, source={**BASE["source"], "architecture": "same"}
    )
    assert labels(whole)[0] == "cbr_tiny · random · digits 0–4 · seed 0"
    assert labels(same)[0] == "cbr_tiny slim 1/2 from conv3 · random · digits 0–4 · seed 0"


def test_baselines_stand_beside_networks_and_are_trained_once() -> None:
    found = expansion(
        grid={"init": ["random", "pretrained"], "training.steps": [20, 30]},
        include=[{"set": {"architecture": "random_forest", "init": "random", "training.steps": 20}}],
    )
    assert labels(found)[-1] == "random_forest · fitted · digits 5–9 · seed 0"


def test_what_learns_can_be_varied_and_names_the_cell() -> None:
    found = expansion(grid={"training.trainable": ["all", "head", "first_last"]})
    assert labels(found)[1:] == [
        "cbr_tiny · pretrained · digits 5–9 · seed 0",
        "cbr_tiny · pretrained · digits 5–9 · trains head · seed 0",
        "cbr_tiny · pretrained · digits 5–9 · trains first 1 + last 1 · seed 0",
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"source": {**BASE["source"], "importance": "targets"}},
            "source.importance must be 'none', 'target' or its settings (temper, cap), got 'targets'",
        ),
        (
            {"source": {**BASE["source"], "importance": {"temper": 2}}},
            "source.importance.temper must be at most 1, got 2",
        ),
        (
            {"source": {**BASE["source"], "architecture": "slim"}},
            "source.architecture must be one of 'same', 'whole', got 'slim'",
        ),
        (
            {"source": {"weights": "imagenet"}},
            "source.weights: no weights are published for cbr_tiny",
        ),
        (
            {"grid": {"architecture": ["cbr_tiny", "random_forest"]}},
            "init.kind must be 'random' for random_forest, which has no weights, got 'pretrained'; add it",
        ),
        (
            {"grid": {"training.trainable": ["all", "frist"]}},
            "training.trainable must be one of 'all', 'first', 'first_last', 'head', 'last', got",
        ),
        (
            {"grid": {"architecture": [{"name": "cbr_tiny", "slim": {"from_stage": "conv9", "factor": 2}}]}},
            "architecture.slim.from_stage must be one of",
        ),
    ],
)
def test_mistakes_about_sources_are_told_with_their_line(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        parse_study(text(**sections))
    assert message in str(caught.value)
    assert "line" in str(caught.value)
