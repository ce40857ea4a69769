"""What a search draws: a function of what is known, never twice the same, and better than by chance."""

import json
from statistics import mean
from typing import Any

import optuna
import pytest

from study.search.cell import CellSearch, Tried, Trying
from study.search.sampling import as_optuna_study
from tests.searching import draw_all, finish, score_of, search_study, searches_of

CHOICES = """
    training.optimizer.lr: {choice: [0.01, 0.1]}
    training.batch_size: {int: [8, 16], step: 4}
    training.augment: {choice: [{}, {horizontal_flip: true}]}
"""
SAMPLERS = ["tpe", "random", "grid", "cmaes"]


def fresh(sampler: str = "tpe", settings: int = 8, seed: int = 0) -> CellSearch:
    return searches_of(search_study(f"sampler: {sampler}\n  settings: {settings}\n  seed: {seed}"))["random"]


def goes_on_from(search: CellSearch) -> CellSearch:
    """Another driver, which knows of a search what the records say."""
    again = CellSearch(search.cell, search.section, search.label)
    for one in search.tried:
        setting = json.loads(json.dumps(one.setting))
        again.tried.append(Tried(one.number, setting, one.trial, one.state, one.value, {**one.at_rungs}))
    return again


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_is_interrupted_anywhere_draws_what_it_would_have_drawn(sampler: str) -> None:
    undisturbed = draw_all(fresh(sampler, settings=14))
    search = fresh(sampler, settings=14)
    for expected in undisturbed:
        one = goes_on_from(search).draw()  # begun, and lost before anybody knew of it
        search = goes_on_from(search)
        one = search.draw()
        assert one is not None
        assert one.setting == expected
        finish(one, score_of(one.setting))


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_what_was_learned_makes_the_later_settings_better(sampler: str) -> None:
    values = [score_of(setting) for setting in draw_all(fresh(sampler, settings=40))]
    by_chance = [score_of(setting) for setting in draw_all(fresh("random", settings=40))]
    assert mean(values[20:]) > mean(by_chance[20:])
    assert mean(values[20:]) > mean(values[:10])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_cells_and_seeds_have_draws_of_their_own_but_for_a_grid(sampler: str) -> None:
    first, other = searches_of(search_study(f"sampler: {sampler}\n  settings: 3")).values()
    assert (draw_all(first) == draw_all(other)) == (sampler == "grid")
    assert (draw_all(fresh(sampler, 3, seed=0)) == draw_all(fresh(sampler, 3, seed=1))) == (sampler == "grid")


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_small_space_is_gone_through_once_and_then_the_search_is_over(sampler: str) -> None:
    study = search_study(f"sampler: {sampler}\n  settings: 50", space=CHOICES)
    search = searches_of(study)["random"]
    assert search.n_left == 2 * 3 * 2
    drawn = draw_all(search, lambda setting: setting["training.optimizer.lr"])
    assert len(drawn) == 12
    assert len({json.dumps(setting) for setting in drawn}) == 12
    assert search.is_decided
    assert {one.trial.spec.training.batch_size for one in search.tried} == {8, 12, 16}
    assert {one.trial.spec.training.augment.horizontal_flip for one in search.tried} == {True, False}
    assert goes_on_from(search).is_decided


def test_settings_whose_fields_do_not_fit_are_not_drawn() -> None:
    space = """
    training.optimizer.momentum: {choice: [0.0, 0.9]}
    training.optimizer.nesterov: {choice: [true, false]}
"""
    search = searches_of(search_study("settings: 9", space=space))["random"]
    drawn = draw_all(search, lambda setting: 0.5)
    wrong = {"training.optimizer.momentum": 0.0, "training.optimizer.nesterov": True}
    assert len(drawn) == 3
    assert wrong not in drawn


def test_settings_that_are_the_same_training_are_tried_once() -> None:
    space = "\n    training.augment: {choice: [{}, {horizontal_flip: false}, {horizontal_flip: true}]}"
    search = searches_of(search_study("settings: 9", space=space))["random"]
    assert search.n_left == 3 or search.n_left == 2
    assert len(draw_all(search, lambda setting: 0.5)) == 2
    assert search.is_decided


def test_a_sampler_that_insists_on_what_does_not_fit_does_not_end_the_search() -> None:
    space = """
    training.optimizer.kind: {choice: [sgd, adam]}
    training.optimizer.momentum: {uniform: [0.0, 0.9]}
"""
    search = searches_of(search_study("settings: 14", space=space))["random"]
    drawn = draw_all(search, lambda setting: setting["training.optimizer.momentum"])
    assert len(drawn) == 14
    assert {setting["training.optimizer.kind"] for setting in drawn} == {"sgd"}


def test_settings_in_training_count_as_bad_ones() -> None:
    """With a constant liar, drawing in parallel does not draw the same place again and again."""

    def places(*, in_training: bool) -> list[float]:
        search = fresh(settings=40)
        draw_all(search, at_most=20)
        drawn = []
        for _ in range(8):
            one = search.draw()
            assert one is not None
            drawn.append(one.setting["training.optimizer.lr"])
            if not in_training:
                search.tried.remove(one)
        return drawn

    assert len(set(places(in_training=True))) == 8
    assert len(set(places(in_training=False))) == 1


def test_failed_and_stopped_settings_are_told_to_the_sampler_as_what_they_are() -> None:
    pruning = "settings: 9\n  pruning: {kind: asha, first_images: 100}"
    search = searches_of(search_study(pruning))["random"]
    for value in (0.9, 0.8, 0.7, 0.6):
        one = search.draw()
        assert one is not None
        one.at_rungs = {100: value}
    finish(search.tried[0], 0.9)
    search.tried[3].state = Trying.FAILED
    study = as_optuna_study(search)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "FAIL"]
    assert study.trials[1].intermediate_values == {100: 0.8}
    assert study.best_value == 0.9


def test_an_optuna_study_holds_the_search_as_it_is(tmp_path: Any) -> None:
    search = searches_of(search_study("settings: 6", space=CHOICES))["random"]
    draw_all(search, lambda setting: setting["training.optimizer.lr"])
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    as_optuna_study(search, storage=storage, study_name="cell")
    study = optuna.load_study(study_name="cell", storage=storage)
    assert study.best_value == search.ranked()[0].value
    assert [trial.user_attrs["trial_id"] for trial in study.trials] == [
        one.trial.trial_id for one in search.tried
    ]
    assert {trial.params["training.augment"] for trial in study.trials} == {"", "horizontal_flip=True"}
