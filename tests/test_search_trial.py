"""Trials of a search: scored on the validation split alone, looked at on rungs, able to go on."""

from collections.abc import Generator

import pytest

from study.config import parse_study
from study.plan import State, read_plan
from study.search.live import LiveSearches
from study.tracking import mark_pruned
from study.tuning import worker_config
from tests.conftest import tiny_trial
from tests.searching import search_study
from trainables.identity import canonical, flatten, trial_id
from trainables.progress import Progress
from trainables.record import RecordReader, Store
from trainables.spec import RunOptions, TrialSpec
from trainables.trial import run_trial

LENGTH = {"steps": 12, "batch_size": 16, "evaluation": {"spacing": "linear", "points": 6}}


def trial(**changes: object) -> TrialSpec:
    return tiny_trial(training=LENGTH, purpose="search", **changes)


def train(
    spec: TrialSpec, store: Store, *, rungs: tuple[int, ...] = (), marks: dict[str, str] | None = None
) -> Generator[Progress, None, None]:
    options = RunOptions(keep=(), rungs=rungs, state_every_s=1000)
    return run_trial(spec, store=store, options=options, data_root=None, study="searched", marks=marks)


def test_it_has_no_test_scores_no_predictions_and_no_weights(store: Store) -> None:
    *_, last = train(trial(), store)
    reader = RecordReader(store)
    [record] = reader.trials()
    assert last.metrics["best_val_auroc"] == record.metrics["best_val_auroc"]
    assert not [name for name in record.metrics if name.startswith("test_")]
    assert not record.checkpoints
    run = store.client.get_run(record.run_id)
    assert {path.split("/")[0] for path in store.artifacts(run).paths()} == {"environment.json"}
    history = reader.history(record, "val_auroc")
    assert record.metrics["best_val_auroc"] == history["value"].max()


def test_it_is_another_trial_than_the_result_and_the_result_is_what_it_was(store: Store) -> None:
    result = tiny_trial(training=LENGTH)
    assert trial_id(trial()) != trial_id(result)
    assert "purpose" not in canonical(result)
    assert "purpose" not in flatten(result)
    assert trial().label == result.label.replace(" · seed", " · search · seed")
    list(train(trial(), store))
    *_, last = run_trial(result, store=store, options=RunOptions(), data_root=None)
    assert last.status == "finished"
    assert "test_auroc" in last.metrics


def test_rungs_are_reported_at_once_with_their_state_committed(store: Store) -> None:
    seen = []
    for progress in train(trial(), store, rungs=(60, 100, 192)):
        if progress.status == "running" and progress.metrics:
            [record] = RecordReader(store).trials()
            seen.append((progress.metrics["images_seen"], record.resumes_at_step))
    rungs = [images for images, _ in seen]
    # Evaluations are at 32, 64, … 192 images, and the last of all is no rung.
    assert {64.0, 128.0} <= set(rungs)


def test_one_that_is_stopped_at_a_rung_goes_on_from_there_and_ends_as_if_nothing_had_been(
    store: Store,
) -> None:
    spec, undisturbed = trial(), trial(seed=0)
    running = train(spec, store, rungs=(60,))
    for progress in running:
        if progress.metrics.get("images_seen") == 64:
            break
    running.close()
    [stopped] = RecordReader(store).trials()
    assert (stopped.status, stopped.resumes_at_step) == ("killed", 4)
    mark_pruned(store, stopped.trial_id, "not good enough")
    assert RecordReader(store).trials()[0].pruned == "not good enough"
    list(train(spec, store))
    [record] = RecordReader(store).trials()
    assert (record.status, record.pruned) == ("finished", None)
    whole = {key: value for key, value in record.metrics.items() if not key.endswith("seconds")}
    store.client.delete_run(record.run_id)
    list(train(undisturbed, store))
    [again] = RecordReader(store).trials()
    assert {k: v for k, v in again.metrics.items() if not k.endswith("seconds")} == whole


@pytest.mark.parametrize("edit", ["", "{}", "[]", '{"cell": "x", "number": -1, "setting": {}}', "\\"])
def test_a_search_is_found_again_in_the_records_and_an_edited_mark_is_no_part_of_it(
    store: Store, edit: str
) -> None:
    study = search_study("settings: 2")
    plan = read_plan(study, RecordReader(store))
    list(run_trial(plan.entries[0].trial.spec, store=store, options=RunOptions(), data_root=None))
    searches = LiveSearches(plan, lambda _: {})
    for _ in range(2):
        entry = searches.next(lambda _: True)
        assert entry is not None
        marks = {entry.trial_id: searches.marks(entry.trial_id)}
        (config,) = worker_config([entry], study, store, marks)["trials"]
        assert RunOptions.model_validate_json(config["options"]).keep == ()
        list(train(TrialSpec.model_validate_json(config["spec"]), store, marks=config["marks"]))
    found = read_plan(study, RecordReader(store))
    assert [len(search.tried) for search in found.searches] == [1, 1]
    known = {e.trial_id: e.state for e in found.entries if e.trial.setting is not None}
    assert set(known.values()) == {State.DONE}
    drawn = {one.trial.trial_id: one for search in searches.plan.searches for one in search.tried}
    for search in found.searches:
        for one in search.tried:
            assert one.setting == drawn[one.trial.trial_id].setting
            assert one.value == RecordReader(store).trial(one.trial.trial_id).metrics["best_val_auroc"]  # type: ignore[union-attr]
    first = next(iter(known))
    [run] = store.search("trial_id", first)
    store.client.set_tag(run.info.run_id, "setting.searched", edit)
    again = read_plan(study, RecordReader(store))
    assert sorted(len(search.tried) for search in again.searches) == [0, 1]


def test_what_the_space_does_not_contain_any_more_is_no_part_of_the_search(store: Store) -> None:
    study = search_study("settings: 1")
    searches = LiveSearches(read_plan(study, RecordReader(store)), lambda _: {})
    entry = searches.next(lambda _: True)
    assert entry is not None
    list(train(entry.trial.spec, store, marks=searches.marks(entry.trial_id)))
    narrower = parse_study(study.text.replace("[0.0, 0.9]", "[0.95, 0.99]"))
    assert all(not search.tried for search in read_plan(narrower, RecordReader(store)).searches)
    longer = parse_study(study.text.replace("settings: 1", "settings: 5"))
    assert sum(len(search.tried) for search in read_plan(longer, RecordReader(store)).searches) == 1
