"""The section `search`: what can be written, and what is said of what cannot."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from study.plan import make_plan
from study.search.section import Dimension
from tests.searching import search_study, searches_of
from trainables.errors import StudyFileError
from trainables.identity import canonical

LR_FIELD = "\n    training.optimizer.lr: "
LR = """
    training.optimizer.lr: {log_uniform: [0.001, 1.0]}
"""


@pytest.mark.parametrize(
    ("search", "space", "words"),
    [
        ("settings: 0", LR, r"search.settings must be at least 1"),
        ("sampler: bayes", LR, r"search.sampler must be .*tpe.*got 'bayes'"),
        ("settings: 2", "\n    training.lr: {uniform: [0, 1]}", r"lr"),
        ("settings: 2", "\n    dataset.size_px: {int: [16, 32]}", r"dataset.size_px cannot be searched"),
        ("settings: 2", "\n    training.method: {choice: [fit]}", r"training.method cannot be searched"),
        ("settings: 2", "\n    training.evaluation.points: {int: [2, 4]}", r"cannot be searched"),
        ("settings: 2", LR_FIELD + "{uniform: [1, 0.1]}", r"from small to great, got \[1.0, 0.1\]"),
        ("settings: 2", LR_FIELD + "{log_uniform: [0, 0.1]}", r"above 0"),
        ("settings: 2", LR_FIELD + "{uniform: [-1.0, 0.1]}", r"optimizer.lr must be .* 0.*got -1"),
        (
            "settings: 2",
            LR_FIELD + "{uniform: [0.1, 1], choice: [1.0]}",
            r"exactly one of uniform, log_uniform, int, choice must be given, got uniform and choice",
        ),
        ("settings: 2", LR_FIELD + "{step: 2}", r"exactly one of .* got none"),
        ("settings: 2", "\n    training.batch_size: {choice: [8, 8]}", r"all different"),
        ("settings: 2", LR_FIELD + "{uniform: [0.1, 1], step: 2}", r"step belongs to int"),
        ("sampler: tpe", LR_FIELD + "{uniform: [0.1, 1], points: 2}", r"points belongs to sampler grid"),
        ("sampler: cmaes", "\n    training.batch_size: {choice: [8, 16]}", r"sampler cmaes is for numbers"),
        ("pruning: {kind: hyperband, first_images: 1}", LR, r"search.pruning.kind must be .*got 'hyperband'"),
        ("pruning: {kind: asha}", LR, r"search.pruning.first_images is required"),
        ("settings: 2", "\n    training.augment.scale: {uniform: [0, 1]}", r"augment.scale"),
        ("settings: 2", "\n    training.optimizer.rate: {uniform: [0, 1]}", r"training.optimizer.rate"),
        ("warm_start: {cell: {colour: red}}", LR, r"cell: an axis must be one of 'init', got 'colour'"),
        ("warm_start: {cell: {init: gabor}}", LR, r"search.warm_start.cell.init .*'gabor'"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_said(search: str, space: str, words: str) -> None:
    with pytest.raises(StudyFileError, match=words) as error:
        search_study(search, space=space)
    assert "study.yaml" in str(error.value)
    assert "line " in str(error.value)


def test_a_field_is_searched_or_an_axis() -> None:
    with pytest.raises(StudyFileError, match=r"line \d+: training.optimizer.lr is an axis already: zip\[0\]"):
        search_study(more="zip: [{training.optimizer.lr: [0.1, 0.2]}]")


def test_a_linear_probe_has_no_settings() -> None:
    with pytest.raises(StudyFileError, match=r"search is for trainings by gradient, and .*linear probe"):
        search_study(
            more="zip: [{training.method: [linear_probe, gradient], training.label_smoothing: [0, 0.1]}]"
        )


@pytest.mark.parametrize(
    ("written", "grid"),
    [
        ({"uniform": [0, 1], "points": 3}, (0.0, 0.5, 1.0)),
        ({"log_uniform": [0.01, 1], "points": 3}, (0.01, 0.1, 1.0)),
        ({"int": [8, 17], "step": 4}, (8, 12, 16)),
        ({"choice": ["a", None]}, ("a", None)),
        ({"uniform": [2, 3], "points": 1}, (2.0,)),
    ],
)
def test_a_grid_goes_from_end_to_end(written: dict, grid: tuple) -> None:
    assert Dimension.model_validate(written).grid == pytest.approx(grid)


@given(
    st.floats(1e-9, 1e9),
    st.floats(1e-9, 1e9),
    st.integers(1, 20),
    st.sampled_from(["uniform", "log_uniform"]),
)
def test_a_grid_lies_in_its_range(a: float, b: float, points: int, kind: str) -> None:
    assume(a < b)
    dimension = Dimension.model_validate({kind: [a, b], "points": points})
    assert all(map(dimension.contains, dimension.grid))


def test_settings_are_trained_on_validation_alone_and_results_are_trials_as_without_a_search() -> None:
    search = searches_of(search_study())["random"]
    one = search.draw()
    assert one is not None
    assert one.trial.spec.purpose == "search"
    assert one.trial.spec.seed not in search.cell.seeds
    one.value, one.state = 0.9, one.state.DONE
    search.section = search.section.model_copy(update={"settings": 1})
    assert [trial.spec.seed for trial in search.results()] == [0, 1]
    for trial in search.results():
        assert trial.spec.training == one.trial.spec.training
        assert "purpose" not in canonical(trial.spec)
        assert trial.axes == {"init": "random", "seed": trial.spec.seed}


def test_a_source_is_trained_once_whatever_is_searched() -> None:
    plan = make_plan(search_study(), [])
    [source] = plan.entries
    for search in plan.searches:
        for _ in range(3):
            one = search.draw()
            assert one is not None
            assert set(one.trial.parent_ids) <= {source.trial_id}
    assert source.trial.spec.training.optimizer.lr == 0.02


def test_of_equal_settings_the_first_is_the_best_and_a_loss_is_small_when_it_is_good() -> None:
    search = searches_of(search_study("settings: 3"))["random"]
    for value in (0.7, 0.9, 0.9):
        one = search.draw()
        assert one is not None
        one.value, one.state = value, one.state.DONE
    assert search.best is search.tried[1]
    training = search.cell.base.training.model_copy(update={"selection_metric": "val_loss"})
    object.__setattr__(search.cell, "base", search.cell.base.model_copy(update={"training": training}))
    assert search.best is search.tried[0]
