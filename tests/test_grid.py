"""From a study to its trials: what a grid gives, and what changes nothing about it."""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from study import grid
from study.config import parse_study
from study.grid import Expansion, Resources, expand
from trainables.errors import StudyFileError, WeightsError
from trainables.identity import trial_id
from trainables.resolution import file_digest, resolve
from trainables.spec import Adam, Sgd

BASE: dict[str, Any] = {
    "name": "demo",
    "trial": {"architecture": "cbr_tiny", "dataset": "digits_5_9", "training": {"steps": 20}},
    "source": {"dataset": "digits_0_4", "training": {"steps": 40}},
}


def expansion(**sections: Any) -> Expansion:
    return expand(parse_study(yaml.safe_dump({**BASE, **sections}, sort_keys=False)))


def ids(found: Expansion) -> list[str]:
    return [trial.trial_id for trial in found.trials]


def targets(found: Expansion) -> list[dict[str, Any]]:
    """The axes of the trials that are not there only as sources."""
    return [dict(trial.axes) for trial in found.trials if not trial.is_source]


few = settings(max_examples=40, deadline=None)


def drawn(*values: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


grids = st.fixed_dictionaries(
    {},
    optional={
        "architecture": drawn("cbr_tiny", "cbr_small", "resnet18"),
        "init": drawn("random", "pretrained", "mean_var"),
        "dataset": drawn("digits_5_9", "digits"),
        "training.batch_size": drawn(8, 16, 32),
        "training.optimizer.lr": drawn(0.1, 0.2, 0.3),
        "dataset.train_fraction": drawn(0.25, 0.5, 1.0),
    },
)
ANOTHER = {
    "architecture": "resnet50",
    "init": {"kind": "transfusion", "depth": 2},
    "dataset": "digits_0_4",
    "training.batch_size": 64,
    "training.optimizer.lr": 0.4,
    "dataset.train_fraction": 0.75,
}
transfusions = grids.map(lambda grid: {**grid, "init": ["random", "transfusion", "pretrained"]})
depths = drawn(0, 1, 2, 3, 4, "all", "conv1")


@given(grids, st.integers(1, 3))
@few
def test_a_grid_is_the_product_of_its_axes(grid: dict[str, list[Any]], n_seeds: int) -> None:
    found = expansion(grid=grid, seeds=n_seeds)
    names = [*grid, "seed"]
    product = itertools.product(*grid.values(), range(n_seeds))
    assert targets(found) == [dict(zip(names, values, strict=True)) for values in product]
    assert found.merged == 0


@given(grids, st.data())
@few
def test_every_combination_is_trained_excluded_or_merged(
    grid: dict[str, list[Any]], data: st.DataObject
) -> None:
    # No rule names the first values only of all axes, so something is always left.
    grid = {name: [*values, ANOTHER[name]] for name, values in grid.items()} or {
        "training.batch_size": [8, 16]
    }
    rules = data.draw(
        st.lists(
            st.builds(
                lambda axis, seeds: {
                    "where": {axis: grid[axis][0], **({"seed": [0]} if seeds else {})},
                    "reason": "why not",
                },
                st.sampled_from(sorted(grid)),
                st.booleans(),
            ),
            max_size=2,
        )
    )
    found = expansion(grid=grid, exclude=rules, seeds=2)
    n_excluded = sum(excluded.n_trials for excluded in found.excluded)
    n_product = 2 * len(list(itertools.product(*grid.values())))
    assert len(targets(found)) == n_product - n_excluded - found.merged
    assert (n_excluded > 0) == bool(rules)


@given(transfusions, depths, st.data())
@few
def test_one_more_value_keeps_every_trial(
    grid: dict[str, list[Any]], depth: list[Any], data: st.DataObject
) -> None:
    grid = {**grid, "architecture": ["cbr_tiny", "cbr_small"], "transfusion_depth": depth}
    axis = data.draw(st.sampled_from([name for name, values in grid.items() if len(values) > 1]))
    fewer = {**grid, axis: grid[axis][:-1]}
    if axis == "init":
        fewer.pop("transfusion_depth") if "transfusion" not in fewer[axis] else None
    assert set(ids(expansion(grid=fewer))) <= set(ids(expansion(grid=grid)))


@given(transfusions, depths, st.randoms())
@few
def test_the_order_of_axes_and_values_changes_no_id(
    grid: dict[str, list[Any]], depth: list[Any], random: Any
) -> None:
    grid = {**grid, "architecture": ["cbr_small"], "transfusion_depth": depth}
    names = list(grid)
    random.shuffle(names)
    shuffled = {name: random.sample(grid[name], len(grid[name])) for name in names}
    one, other = expansion(grid=grid), expansion(grid=shuffled)
    assert set(ids(one)) == set(ids(other))
    assert one.merged == other.merged


@given(transfusions, depths)
@few
def test_trials_are_distinct_resolved_and_come_after_their_sources(
    grid: dict[str, list[Any]], depth: list[Any]
) -> None:
    found = expansion(grid={**grid, "architecture": ["cbr_tiny"], "transfusion_depth": depth}, seeds=2)
    position = {trial.trial_id: index for index, trial in enumerate(found.trials)}
    assert len(position) == len(found.trials)
    for trial in found.trials:
        assert trial.trial_id == trial_id(trial.spec)
        assert resolve(trial.spec) == trial.spec
        source = trial.spec.init.source
        assert (trial.parent_ids == ()) == (source is None)
        if source is not None and source.trial is not None:
            assert trial.parent_ids == (trial_id(source.trial),)
            assert position[trial.parent_ids[0]] < position[trial.trial_id]
    needed = {parent for trial in found.trials for parent in trial.parent_ids}
    assert all(trial.trial_id in needed for trial in found.trials if trial.is_source)


def test_name_question_resources_and_analysis_change_no_id() -> None:
    grid = {"init": ["random", "pretrained"]}
    plain = ids(expansion(grid=grid))
    more = {
        "name": "other",
        "question": "why?",
        "resources": {"cpu": 2, "gpu": 0.5, "slots": 3},
        "checkpoints": {"keep": ["best"], "series_points": 4},
        "analysis": {"probe_images": 8},
    }
    assert ids(expansion(grid=grid, **more)) == plain


def test_a_study_without_a_grid_is_its_base_trial() -> None:
    found = expansion(seeds=[4, 2])
    assert targets(found) == [{"seed": 4}, {"seed": 2}]
    assert [trial.spec.seed for trial in found.trials] == [4, 2]


def test_depths_exist_only_for_transfusions() -> None:
    found = expansion(grid={"transfusion_depth": [1, 2], "init": ["random", "transfusion", "pretrained"]})
    assert targets(found) == [
        {"init": "random", "seed": 0},
        {"init": "transfusion", "transfusion_depth": 1, "seed": 0},
        {"init": "transfusion", "transfusion_depth": 2, "seed": 0},
        {"init": "pretrained", "seed": 0},
    ]
    assert found.merged == 0


def test_every_depth_is_every_proper_depth_of_each_architecture() -> None:
    grid = {"architecture": ["cbr_tiny", "resnet18"], "init": ["transfusion"], "transfusion_depth": "every"}
    found = targets(expansion(grid=grid))
    assert [(axes["architecture"], axes["transfusion_depth"]) for axes in found] == [
        *(("cbr_tiny", depth) for depth in (1, 2, 3)),
        *(("resnet18", depth) for depth in (1, 2, 3, 4)),
    ]


def test_a_depth_is_named_by_its_number_of_stages() -> None:
    grid = {"architecture": ["resnet18"], "init": ["transfusion"], "transfusion_depth": ["block1", "all", 3]}
    assert [axes["transfusion_depth"] for axes in targets(expansion(grid=grid))] == [2, 5, 3]


def test_the_ends_of_a_transfusion_are_merged_with_the_plain_initializations() -> None:
    grid = {"init": ["random", "pretrained", "transfusion"], "transfusion_depth": [0, 1, 4]}
    found = expansion(grid=grid, seeds=2)
    assert found.merged == 4
    assert [axes["init"] for axes in targets(found)] == [
        *("random", "random", "pretrained", "pretrained", "transfusion", "transfusion")
    ]


def test_zipped_axes_move_together() -> None:
    zipped = [
        {"training.batch_size": [8, 16], "training.optimizer.lr": [0.1, 0.2]},
        {"dataset": ["digits", "digits_0_4", "digits_5_9"], "training.steps": [1, 2, 3]},
    ]
    found = expansion(zip=zipped, grid={"architecture": ["cbr_tiny", "cbr_small"]})
    assert len(found.trials) == 2 * 2 * 3
    for trial in found.trials:
        assert (trial.spec.training.batch_size, trial.spec.training.optimizer.lr) in {(8, 0.1), (16, 0.2)}
    pairs = {(trial.axes["dataset"], trial.spec.training.steps) for trial in found.trials}
    assert pairs == {("digits", 1), ("digits_0_4", 2), ("digits_5_9", 3)}


def test_a_depth_can_be_zipped_with_its_initialization() -> None:
    zipped = [{"init": ["random", "transfusion", "transfusion"], "transfusion_depth": [1, 1, 3]}]
    assert targets(expansion(zip=zipped)) == [
        {"init": "random", "seed": 0},
        {"init": "transfusion", "transfusion_depth": 1, "seed": 0},
        {"init": "transfusion", "transfusion_depth": 3, "seed": 0},
    ]


def test_an_axis_overrides_a_field_and_keeps_the_others() -> None:
    training = {"steps": 20, "optimizer": {"lr": 0.5, "momentum": 0.1}, "schedule": "cosine"}
    trial = {**BASE["trial"], "training": training}
    found = expansion(
        trial=trial, grid={"training.optimizer.lr": [0.25], "training.schedule.warmup_epochs": [2]}
    )
    spec = found.trials[0].spec
    assert spec.training.optimizer == Sgd(lr=0.25, momentum=0.1)
    assert (spec.training.schedule.kind, spec.training.schedule.warmup_epochs) == ("cosine", 2)


def test_an_axis_of_mappings_replaces_the_whole_field() -> None:
    trial = {**BASE["trial"], "training": {"steps": 20, "optimizer": {"lr": 0.5, "momentum": 0.1}}}
    values = [{"kind": "adam", "lr": 0.001}, {"lr": 0.5}]
    found = expansion(
        trial=trial, grid={"training.optimizer": values, "training.optimizer.weight_decay": [0.01]}
    )
    adam, sgd = (trial.spec.training.optimizer for trial in found.trials)
    assert adam == Adam(lr=0.001, weight_decay=0.01)
    assert sgd == Sgd(lr=0.5, weight_decay=0.01)
    assert [trial.axes["training.optimizer"] for trial in found.trials] == ["adam lr=0.001", "lr=0.5"]


def test_a_field_of_a_dataset_that_has_a_name_can_be_varied() -> None:
    found = expansion(
        grid={
            "dataset.train_fraction": [0.5, 1],
            "dataset": ["digits", {"from": "digits_5_9", "size_px": 32}],
        }
    )
    assert [(t.spec.dataset.size_px, t.spec.dataset.train_fraction) for t in found.trials] == [
        (28, 0.5), (32, 0.5), (28, 1), (32, 1)
    ]  # fmt: skip
    assert found.trials[1].axes["dataset"] == "digits_5_9 size_px=32"


def test_a_value_can_be_none_or_a_list() -> None:
    grid = {
        "training.early_stopping": [None, {"patience": 3}],
        "dataset.classes": [["1", "2"], ["3", "4", "5"]],
    }
    found = expansion(grid=grid, exclude=[{"where": {"dataset.classes": ["1", "2"]}, "reason": "too few"}])
    assert found.trials[0].spec.training.early_stopping is None
    assert {trial.axes["dataset.classes"] for trial in found.trials} == {"3, 4, 5"}


def test_one_source_is_trained_once_for_all_that_need_it() -> None:
    found = expansion(
        grid={"init": ["random", "pretrained", "mean_var"], "training.batch_size": [8, 16]}, seeds=3
    )
    sources = [trial for trial in found.trials if trial.is_source]
    assert len(sources) == 1
    assert len(targets(found)) == 3 * 2 * 3
    assert {trial.parent_ids for trial in found.trials if trial.axes.get("init") == "random"} == {()}
    assert {t.parent_ids for t in found.trials if t.axes.get("init") in ("pretrained", "mean_var")} == {
        (sources[0].trial_id,)
    }


def test_each_architecture_has_its_own_pretraining() -> None:
    found = expansion(grid={"architecture": ["cbr_tiny", "cbr_small"], "init": ["pretrained"]})
    for trial in found.trials:
        if trial.spec.init.source is not None and trial.spec.init.source.trial is not None:
            assert trial.spec.init.source.trial.architecture == trial.spec.architecture
    assert [trial.is_source for trial in found.trials] == [True, False, True, False]


def test_ancestors_come_before_their_descendants() -> None:
    source = {**BASE["source"], "source": {"dataset": "digits", "source": {"dataset": "digits_0_4"}}}
    found = expansion(source=source, grid={"init": ["pretrained"]})
    parents = [trial.parent_ids for trial in found.trials]
    assert parents == [(), *((identity,) for identity in ids(found)[:3])]
    assert [trial.is_source for trial in found.trials] == [True, True, True, False]


def test_a_source_that_is_also_a_trial_of_the_grid_is_that_trial() -> None:
    source = {"dataset": "digits_0_4"}
    grid = {"dataset": ["digits_5_9", "digits_0_4"], "init": ["pretrained", "random"]}
    found = expansion(source=source, grid=grid)
    assert not any(trial.is_source for trial in found.trials)
    assert len(found.trials) == 4
    assert found.merged == 0
    assert found.trials[0].axes == {"dataset": "digits_0_4", "init": "random", "seed": 0}


def test_the_source_can_be_varied() -> None:
    grid = {
        "init": ["pretrained"],
        "source.training.steps": [10, 20],
        "source.dataset": ["digits", "digits_0_4"],
    }
    found = expansion(grid=grid)
    assert len(targets(found)) == len([trial for trial in found.trials if trial.is_source]) == 4


def test_published_weights_can_be_zipped_with_the_architecture() -> None:
    zipped = [
        {
            "architecture": ["resnet18", "resnet50"],
            "dataset.channels": [3, 3],
            "source": [
                {"weights": "imagenet"},
                {"weights": "torchvision/ResNet50_Weights.IMAGENET1K_V2"},
            ],
        }
    ]
    found = expansion(zip=zipped, grid={"init": ["random", "pretrained"]})
    sources = [trial.spec.init.source for trial in found.trials]
    assert [source.label for source in sources if source is not None] == [
        "torchvision/ResNet18_Weights.IMAGENET1K_V1",
        "torchvision/ResNet50_Weights.IMAGENET1K_V2",
    ]
    assert all(trial.parent_ids == () for trial in found.trials)
    assert found.merged == 0


def test_excluded_combinations_are_listed_with_their_reason() -> None:
    rules = [
        {
            "where": {"architecture": ["cbr_small", "cbr_tiny"], "transfusion_depth": "conv2"},
            "reason": "known",
        },
        {"where": {"init": "random", "seed": [1]}, "reason": "broken"},
    ]
    grid = {
        "architecture": ["cbr_tiny", "cbr_small"],
        "init": ["random", "transfusion"],
        "transfusion_depth": [1, 2],
    }
    found = expansion(grid=grid, exclude=rules, seeds=2)
    assert [(dict(e.axes), e.reason, e.n_trials) for e in found.excluded] == [
        ({"architecture": "cbr_tiny", "init": "random", "seed": 1}, "broken", 1),
        ({"architecture": "cbr_tiny", "init": "transfusion", "transfusion_depth": 2}, "known", 2),
        ({"architecture": "cbr_small", "init": "random", "seed": 1}, "broken", 1),
        ({"architecture": "cbr_small", "init": "transfusion", "transfusion_depth": 2}, "known", 2),
    ]
    assert not any(axes.get("transfusion_depth") == 2 for axes in targets(found))
    assert len(targets(found)) == 2 * 2 * 3 - 6


def test_a_rule_can_name_a_mapping_by_its_kind() -> None:
    inits = ["random", {"kind": "transfusion", "rest": "mean_var"}, "transfusion"]
    rules = [
        {
            "where": {"init": {"kind": "transfusion", "rest": "mean_var"}, "transfusion_depth": 1},
            "reason": "one",
        }
    ]
    grid = {"init": inits, "transfusion_depth": [1, 2]}
    assert len(targets(expansion(grid=grid, exclude=rules))) == 4
    rules[0]["where"] = {"init": "transfusion", "transfusion_depth": 1}
    assert len(targets(expansion(grid=grid, exclude=rules))) == 3


def test_a_rule_can_name_a_mapping_by_its_label() -> None:
    grid = {"training.optimizer": [{"kind": "adam", "lr": 0.001}, {"kind": "adam", "lr": 0.01}]}
    rules = [{"where": {"training.optimizer": "adam lr=0.01"}, "reason": "diverges"}]
    assert targets(expansion(grid=grid, exclude=rules)) == [
        {"training.optimizer": "adam lr=0.001", "seed": 0}
    ]


def test_a_rule_can_name_a_depth_by_its_stage_or_its_number() -> None:
    for depths, wanted in itertools.product(([1, 2], ["conv1", "conv2"]), (2, "conv2", [2, "conv2"])):
        found = expansion(
            grid={"init": ["transfusion"], "transfusion_depth": depths},
            exclude=[{"where": {"transfusion_depth": wanted}, "reason": "known"}],
        )
        assert [axes["transfusion_depth"] for axes in targets(found)] == [1]


def test_of_several_rules_the_first_gives_the_reason() -> None:
    rules = [
        {"where": {"init": "random"}, "reason": "first"},
        {"where": {"seed": 0, "init": "random"}, "reason": "second"},
    ]
    found = expansion(grid={"init": ["random", "pretrained"]}, exclude=rules)
    assert [excluded.reason for excluded in found.excluded] == ["first"]


def test_a_study_without_any_trial_left_is_refused() -> None:
    rules = [{"where": {"seed": [0, 1]}, "reason": "all"}]
    with pytest.raises(StudyFileError, match="exclude drops all 4 trainings; nothing is left to do"):
        expansion(grid={"init": ["random", "pretrained"]}, exclude=rules, seeds=2)


def test_an_included_combination_is_added_after_the_grid() -> None:
    found = expansion(
        grid={"architecture": ["cbr_small"], "training.batch_size": [8, 16]},
        include=[{"set": {"init": "transfusion", "transfusion_depth": 1, "training.batch_size": 64}}],
        seeds=2,
    )
    assert targets(found)[-2:] == [
        {
            "architecture": "cbr_tiny",
            "init": "transfusion",
            "transfusion_depth": 1,
            "training.batch_size": 64,
            "seed": s,
        }
        for s in (0, 1)
    ]
    assert found.trials[-1].spec.training.batch_size == 64


def test_resources_follow_the_architecture() -> None:
    resources = {"cpu": 2, "gpu": 0.25, "by_architecture": {"resnet18": {"gpu": 1}, "cbr_small": {"cpu": 4}}}
    found = expansion(grid={"architecture": ["cbr_tiny", "cbr_small", "resnet18"]}, resources=resources)
    assert [trial.resources for trial in found.trials] == [
        Resources(2, 0.25), Resources(4, 0.25), Resources(2, 1)
    ]  # fmt: skip


def test_a_weight_file_is_looked_up_once_and_known_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parse_study(
        yaml.safe_dump(
            {
                **BASE,
                "source": {"file": "w.pth"},
                "grid": {"architecture": ["cbr_tiny", "cbr_small"], "init": ["pretrained"]},
            }
        )
    )
    monkeypatch.delenv("TRANSFUSION_DATA", raising=False)
    with pytest.raises(
        WeightsError, match=r"source.file w.pth: set TRANSFUSION_DATA to the folder that holds it"
    ):
        expand(study)
    with pytest.raises(WeightsError, match=r"no file at .*w.pth"):
        expand(study, data_root=tmp_path)
    (tmp_path / "w.pth").write_bytes(b"weights")
    read: list[Path] = []

    def noted(path: Path, *, field: str) -> str:
        read.append(path)
        return file_digest(path, field=field)

    monkeypatch.setattr(grid, "file_digest", noted)
    monkeypatch.setenv("TRANSFUSION_DATA", str(tmp_path))
    found = expand(study)
    assert read == [tmp_path / "w.pth"]
    assert ids(found) == ids(expand(study, data_root=tmp_path))
    (tmp_path / "w.pth").write_bytes(b"others")
    assert not set(ids(found)) & set(ids(expand(study)))


def test_ten_thousand_combinations_take_seconds() -> None:
    grid = {
        "architecture": ["cbr_tiny", "cbr_small"],
        "init": ["random", "pretrained", "transfusion"],
        "transfusion_depth": "every",
        "training.batch_size": list(range(1, 11)),
        "training.optimizer.lr": [n / 10 for n in range(1, 11)],
    }
    study = parse_study(yaml.safe_dump({**BASE, "grid": grid, "seeds": 10}))
    begin = time.perf_counter()
    found = expand(study)
    assert time.perf_counter() - begin < 5
    assert len(targets(found)) == 10_000
