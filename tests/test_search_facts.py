"""What is told of a search: facts as plain data, importances, and a file that Optuna's own tools open."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from analysis.searches import SearchedField, SearchFacts
from study.search.cell import CellSearch, Trying
from study.search.facts import FEWEST_FOR_IMPORTANCE, importances, search_facts, write_optuna_studies
from tests.searching import draw_all, finish, search_study, searches_of

LR, MOMENTUM = "training.optimizer.lr", "training.optimizer.momentum"
MIXED = """
    training.optimizer.lr: {log_uniform: [0.001, 1.0]}
    training.batch_size: {int: [8, 16], step: 4}
    training.augment: {choice: [{}, {horizontal_flip: true}]}
    training.gradient_clip: {choice: [0.5, null]}
"""
Score = Callable[[Mapping[str, Any]], float]


def searched(settings: int = 16, *, score: Score | None = None, space: str | None = None) -> CellSearch:
    """Return the search of one cell that has drawn all its settings, at random."""
    section = f"sampler: random\n  settings: {settings}"
    study = search_study(section) if space is None else search_study(section, space=space)
    search = searches_of(study)["random"]
    draw_all(search, score or (lambda setting: -abs(math.log10(setting[LR]) + 1.5)))
    return search


def facts_of(search: CellSearch) -> SearchFacts:
    return SearchFacts.of(search_facts(search))


def test_facts_hold_every_setting_with_its_fields_and_value() -> None:
    search = searched(5)
    facts = facts_of(search)
    assert facts.tried["number"].tolist() == [0, 1, 2, 3, 4]
    assert set(facts.tried["state"]) == {"done"}
    for name in (LR, MOMENTUM):
        assert facts.tried[name].tolist() == [one.setting[name] for one in search.tried]
    assert facts.tried["value"].tolist() == [one.value for one in search.tried]
    best = search.ranked()[0]
    assert (facts.best, facts.n_left) == (best.number, 0)
    assert facts.best_row is not None
    assert facts.best_row[LR] == best.setting[LR]
    assert facts.result_ids == tuple(trial.trial_id for trial in search.results())
    assert len(facts.result_ids) == 2
    assert facts.base == search.cell.base


def test_ranges_and_choices_are_told_as_they_are_searched() -> None:
    facts = facts_of(searched(3, space=MIXED))
    lr, batch, augment, clip = facts.fields.values()
    assert (lr.low, lr.high, lr.is_log, lr.is_whole) == (0.001, 1.0, True, False)
    assert (batch.low, batch.high, batch.is_log, batch.is_whole) == (8, 16, False, True)
    assert augment.choices == ("none", "horizontal_flip=True")
    assert clip.choices == ("0.5", "none")
    assert set(facts.tried["training.augment"]) <= set(augment.choices)
    assert list(facts.names.values()) == ["lr", "batch_size", "augment", "gradient_clip"]


def test_fields_of_one_last_name_are_told_apart() -> None:
    space = """
    training.optimizer.kind: {choice: [sgd, adam]}
    training.schedule.kind: {choice: [constant, cosine]}
"""
    facts = facts_of(searched(2, space=space, score=lambda setting: 0.5))
    assert list(facts.names.values()) == ["optimizer.kind", "schedule.kind"]
    assert facts.best_in_words.startswith("optimizer.kind ")


def test_stopped_failed_and_open_settings_are_told_as_such_and_leave_no_best() -> None:
    study = search_study("settings: 6\n  pruning: {kind: asha, first_images: 100, factor: 2}")
    search = searches_of(study)["random"]
    for number in range(4):
        one = search.draw()
        assert one is not None
        one.at_rungs = {100: 0.9 - number / 10}
    search.tried[1].at_rungs = {100: 0.8, 200: 0.75}
    finish(search.tried[0], 0.95)
    search.tried[3].state = Trying.FAILED
    facts = facts_of(search)
    assert facts.tried["state"].tolist() == ["done", "open", "pruned", "failed"]
    assert facts.tried["rung_value"].tolist() == pytest.approx([0.9, 0.75, 0.7, 0.6])
    assert facts.tried["rung"].tolist() == [100, 200, 100, 100]
    assert facts.tried["value"].isna().tolist() == [False, True, True, True]
    assert (facts.best, facts.best_row, facts.best_in_words, facts.result_ids) == (None, None, "", ())
    assert facts.why_no_best == "settings: 4 tried, 1 of them open; 2 to come"


def test_a_cell_of_which_every_setting_failed_says_so() -> None:
    search = searched(3)
    for one in search.tried:
        one.state, one.value = Trying.FAILED, None
    assert facts_of(search).why_no_best == "none of its 3 settings came to an end; 3 failed"


def test_a_search_that_has_not_begun_has_its_columns() -> None:
    facts = facts_of(searches_of(search_study("settings: 3"))["random"])
    assert facts.tried.empty
    assert {LR, MOMENTUM, "value", "state"} <= set(facts.tried)
    assert facts.why_no_best == "settings: 0 tried, 0 of them open; 3 to come"


def test_the_field_that_decides_is_the_important_one() -> None:
    found = facts_of(searched(24))
    assert found.most_important == LR
    assert sum(found.importances.values()) == pytest.approx(1)
    assert found.importances[LR] > 0.8
    other = facts_of(searched(24, score=lambda setting: setting[MOMENTUM]))
    assert other.most_important == MOMENTUM


def test_importances_are_the_same_whatever_numbers_the_axis_has() -> None:
    """A field on a logarithmic axis counts as one that is its logarithm, and all repeat themselves."""

    def with_axis(axis: str, of: Callable[[float], float]) -> dict[str, float]:
        space = f"\n    training.optimizer.lr: {axis}\n    training.label_smoothing: {{uniform: [0.0, 0.9]}}"
        search = searches_of(search_study("settings: 12", space=space))["random"]
        for number in range(12):
            place, smoothing = (number * 5 % 12) / 11, (number * 7 % 12) / 14
            setting = {LR: of(place), "training.label_smoothing": smoothing}
            one = search.draw([setting])
            assert one is not None
            assert one.setting == setting
            finish(one, place**2 + smoothing / 3)
        return importances(search)

    linear = with_axis("{uniform: [0.1, 1.1]}", lambda place: min(0.1 + place, 1.1))
    logarithmic = with_axis("{log_uniform: [0.01, 1.0]}", lambda place: 0.01 * 100**place)
    assert linear == pytest.approx(logarithmic, abs=1e-6)
    assert logarithmic == with_axis("{log_uniform: [0.01, 1.0]}", lambda place: 0.01 * 100**place)


@pytest.mark.parametrize("settings", [0, 1, FEWEST_FOR_IMPORTANCE - 1])
def test_few_settings_tell_no_importance(settings: int) -> None:
    search = searched(12)
    for one in search.tried[settings:]:
        one.state, one.value = Trying.FAILED, None
    assert importances(search) == {}
    assert facts_of(search).most_important is None


def test_equal_values_or_a_single_field_tell_no_importance() -> None:
    assert importances(searched(12, score=lambda setting: 0.5)) == {}
    one_field = "\n    training.optimizer.lr: {log_uniform: [0.001, 1.0]}"
    assert importances(searched(12, space=one_field)) == {}


@pytest.mark.parametrize(
    ("field", "at", "is_edge"),
    [
        (SearchedField(low=0.001, high=1.0, is_log=True), 0.00114, True),
        (SearchedField(low=0.001, high=1.0, is_log=True), 0.00116, False),
        (SearchedField(low=0.001, high=1.0, is_log=True), 0.88, True),
        (SearchedField(low=0.001, high=1.0, is_log=True), 0.86, False),
        (SearchedField(low=0.0, high=1.0), 0.02, True),
        (SearchedField(low=0.0, high=1.0), 0.021, False),
        (SearchedField(low=8, high=16, is_whole=True), 16, True),
        (SearchedField(low=8, high=16, is_whole=True), 12, False),
        (SearchedField(low=1, high=2, is_whole=True), 1, False),
        (SearchedField(choices=("a", "b")), "a", False),
    ],
)
def test_an_edge_is_two_percent_of_the_axis(field: SearchedField, at: Any, is_edge: bool) -> None:
    assert field.is_at_edge(at) == is_edge


def test_only_the_best_setting_of_a_search_that_is_over_can_lie_at_an_edge() -> None:
    search = searched(4, score=lambda setting: -abs(setting[MOMENTUM] - 0.45))
    assert facts_of(search).edges == ()
    search.ranked()[0].setting = {LR: 0.1, MOMENTUM: 0.0}
    assert facts_of(search).edges == (MOMENTUM,)
    search.tried[0].state, search.tried[0].value = Trying.OPEN, None
    assert facts_of(search).edges == ()


def test_optuna_opens_the_file_and_finds_every_cell(tmp_path: Path) -> None:
    searches = list(searches_of(search_study("settings: 4")).values())
    for search in searches:
        draw_all(search)
    file = tmp_path / "searches.db"
    for _ in range(2):  # the second time in the place of the first
        write_optuna_studies(searches, file)
        storage = f"sqlite:///{file}"
        assert sorted(optuna.get_all_study_names(storage)) == sorted(search.label for search in searches)
        for search in searches:
            study = optuna.load_study(study_name=search.label, storage=storage)
            assert len(study.trials) == 4
            assert study.best_trial.user_attrs["number"] == facts_of(search).best
            assert study.best_params[LR] == search.ranked()[0].setting[LR]
    assert [path.name for path in tmp_path.iterdir()] == ["searches.db"]


def test_a_file_that_cannot_be_made_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, file = searched(2), tmp_path / "searches.db"
    write_optuna_studies([search], file)
    before = file.read_bytes()

    def breaks(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("study.search.facts.as_optuna_study", breaks)
    with pytest.raises(OSError, match="no space left"):
        write_optuna_studies([search], file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["searches.db"]


def test_without_searches_an_older_file_goes(tmp_path: Path) -> None:
    file = tmp_path / "searches.db"
    write_optuna_studies([searched(2)], file)
    write_optuna_studies([], file)
    write_optuna_studies([], file)
    assert not file.exists()
