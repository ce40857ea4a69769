"""Trials of a stack keep the records that they would keep alone, and leave each other alone."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.conftest import tiny_trial
from trainables.identity import trial_id
from trainables.progress import Progress, StepsWanted
from trainables.record import RecordReader, Store, TrialRecord, open_store
from trainables.spec import RunOptions, TrialSpec
from trainables.stack import CannotStackError, Stack
from trainables.stacking import stacking_key
from trainables.together import run_together
from trainables.trial import run_trial, trial_to_drive

OPTIONS = RunOptions(state_every_s=0.0)


@pytest.fixture(autouse=True)
def every_evaluation_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.progress.REPORT_AT_MOST_EVERY_S", -1.0)


def start(store: Store, *specs: TrialSpec, options: RunOptions = OPTIONS) -> Iterator[dict[str, Progress]]:
    return run_together(
        {trial_id(spec): trial_to_drive(spec, store=store, options=options, data_root=None) for spec in specs}
    )


def run(store: Store, *specs: TrialSpec, options: RunOptions = OPTIONS) -> dict[str, Progress]:
    last: dict[str, Progress] = {}
    for reports in start(store, *specs, options=options):
        last |= reports
    return last


def record(store: Store, spec: TrialSpec) -> TrialRecord:
    found = RecordReader(store).trial(trial_id(spec))
    assert found is not None
    return found


def alone(store: Store, spec: TrialSpec) -> TrialRecord:
    *_, last = run_trial(spec, store=store, options=OPTIONS, data_root=None)
    assert last.status == "finished", last.cause
    return record(store, spec)


def training(**changes: object) -> dict[str, object]:
    return {"steps": 12, "batch_size": 16, "evaluation": {"points": 4}, **changes}


def check_like(store: Store, spec: TrialSpec, expected: TrialRecord, expected_store: Store) -> None:
    found = record(store, spec)
    assert found.status == "finished"
    assert found.metrics["test_auroc"] == pytest.approx(expected.metrics["test_auroc"], abs=0.02)
    assert found.metrics["best_step"] == expected.metrics["best_step"]
    reader, expected_reader = RecordReader(store), RecordReader(expected_store)
    for metric in ("val_loss", "train_loss"):
        mine, theirs = (r.history(x, metric) for r, x in ((reader, found), (expected_reader, expected)))
        assert mine["step"].tolist() == theirs["step"].tolist()
        assert mine["value"].to_numpy() == pytest.approx(theirs["value"].to_numpy(), rel=0.02, abs=1e-3)
    mine, theirs = reader.weights(found, "final"), expected_reader.weights(expected, "final")
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.allclose(mine[name].float(), tensor.float(), rtol=1e-2, atol=1e-3), name


def another(store: Store) -> Store:
    return open_store(store.uri, experiment="alone")


def test_the_records_of_a_stack_are_those_of_its_members_alone(store: Store) -> None:
    # They differ in seed, rate, length, schedule and when they are looked at.
    specs = [
        tiny_trial(),
        tiny_trial(seed=1, training=training(optimizer={"kind": "sgd", "lr": 0.02})),
        tiny_trial(seed=2, training=training(steps=7, schedule={"kind": "cosine"}, evaluation={"points": 2})),
    ]
    assert len({stacking_key(spec) for spec in specs}) == 1
    last = run(store, *specs)
    assert {one.status for one in last.values()} == {"finished"}
    other = another(store)
    for spec in specs:
        check_like(store, spec, alone(other, spec), other)


def test_steps_are_taken_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    take = Stack.take_step

    def counting(stack: Stack) -> None:
        sizes.append(len(stack.members))
        take(stack)

    monkeypatch.setattr(Stack, "take_step", counting)
    run(store, tiny_trial(), tiny_trial(seed=1), tiny_trial(seed=2, training=training(steps=7)))
    assert sizes == [3] * 7 + [2] * 5


def test_a_member_that_diverges_leaves_and_the_others_finish(store: Store) -> None:
    wild = tiny_trial(seed=5, training=training(optimizer={"kind": "sgd", "lr": 1e30}))
    last = run(store, wild, tiny_trial(), tiny_trial(seed=1))
    assert last[trial_id(wild)].status == "failed"
    assert last[trial_id(wild)].is_diverged
    assert "train_loss became" in (last[trial_id(wild)].cause or "")
    assert record(store, wild).status == "failed"
    other = another(store)
    for spec in (tiny_trial(), tiny_trial(seed=1)):
        check_like(store, spec, alone(other, spec), other)


def test_a_member_that_cannot_begin_leaves_the_others(store: Store) -> None:
    lost = tiny_trial(
        init={"kind": "pretrained", "source": {"trial": tiny_trial(seed=9).model_dump(mode="json")}}
    )
    last = run(store, lost, tiny_trial())
    assert last[trial_id(lost)].status == "failed"
    assert "has not been run" in (last[trial_id(lost)].cause or "")
    assert last[trial_id(tiny_trial())].status == "finished"


def test_one_that_is_finished_already_is_reused(store: Store) -> None:
    alone(store, tiny_trial())
    last = run(store, tiny_trial(), tiny_trial(seed=1))
    assert last[trial_id(tiny_trial())].status == "reused"
    assert last[trial_id(tiny_trial(seed=1))].status == "finished"


def test_a_stack_that_is_stopped_goes_on_from_the_states_of_its_members(store: Store) -> None:
    specs = [tiny_trial(), tiny_trial(seed=1)]
    reports = start(store, *specs)
    reached: dict[str, int] = {}
    for report in reports:
        reached |= {one: progress.step for one, progress in report.items()}
        if len(reached) == 2 and min(reached.values()) >= 2:
            break
    reports.close()  # type: ignore[attr-defined]
    assert [record(store, spec).status for spec in specs] == ["killed", "killed"]
    assert all(record(store, spec).resumes_at_step >= 2 for spec in specs)
    # One goes on alone, and ends like the one that went on in company.
    run(store, specs[0])
    run(store, specs[1], tiny_trial(seed=3))
    other = another(store)
    for spec in specs:
        check_like(store, spec, alone(other, spec), other)


def test_networks_that_cannot_be_stacked_are_trained_one_by_one_and_say_why(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(stack: Stack, members: object) -> None:
        raise CannotStackError("vmap: called random operation while in randomness error mode")

    monkeypatch.setattr(Stack, "__init__", refuse)
    specs = [tiny_trial(), tiny_trial(seed=1)]
    last = run(store, *specs)
    for spec in specs:
        progress = last[trial_id(spec)]
        assert progress.status == "finished"
        assert any("trained one by one: vmap: called random" in notice for notice in progress.notices)


def test_without_room_for_all_smaller_stacks_take_turns(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    take = Stack.take_step

    def cramped(stack: Stack) -> None:
        if len(stack.members) > 2:
            raise torch.OutOfMemoryError("too small")
        sizes.append(len(stack.members))
        take(stack)

    monkeypatch.setattr(Stack, "take_step", cramped)
    last = run(store, *(tiny_trial(seed=seed) for seed in range(4)))
    assert {one.status for one in last.values()} == {"finished"}
    assert set(sizes) == {2}
    assert all(record(store, tiny_trial(seed=seed)).metrics["best_step"] >= 0 for seed in range(4))


def test_who_waits_for_something_else_keeps_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def waiting() -> Iterator[Progress]:
        while "other" not in done:
            time.sleep(0.3)  # longer than a report is due, in this test
            yield Progress(0, 1, "running")
        yield Progress(1, 1, "finished")

    monkeypatch.setattr("trainables.progress.REPORT_EVERY_S", 0.2)

    members: dict[str, Any] = {
        "waits": waiting(),
        "other": trial_to_drive(tiny_trial(), store=store, options=OPTIONS, data_root=None),
        "another": trial_to_drive(tiny_trial(seed=1), store=store, options=OPTIONS, data_root=None),
    }
    for reports in run_together(members):
        done += [name for name, progress in reports.items() if progress.status == "finished"]
    assert sorted(done[:2]) == ["another", "other"]


def test_a_batch_that_was_cut_is_trained_by_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked: list[int] = []
    take = Stack.take_step

    def noting(stack: Stack) -> None:
        stacked.extend(member.seed for member in stack.members)
        take(stack)

    monkeypatch.setattr(Stack, "take_step", noting)
    members = {
        str(seed): trial_to_drive(tiny_trial(seed=seed), store=store, options=OPTIONS, data_root=None)
        for seed in range(3)
    }

    def cut(member: Any) -> Iterator[Any]:
        for event in member:
            if isinstance(event, StepsWanted):
                event.training.micro_batch_size = 8  # as after a lack of memory
            yield event

    last: dict[str, Progress] = {}
    for reports in run_together({**members, "0": cut(members["0"])}):  # type: ignore[dict-item]
        last |= reports
    assert {one.status for one in last.values()} == {"finished"}
    assert set(stacked) == {1, 2}


def test_closing_reads_the_losses_and_commits_no_state_that_has_diverged(store: Store) -> None:
    wild = tiny_trial(training=training(optimizer={"kind": "sgd", "lr": 1e30}, evaluation={"points": 1}))
    trial = trial_to_drive(wild, store=store, options=OPTIONS, data_root=None)
    wanted = next(event for event in trial if isinstance(event, StepsWanted))
    other = trial_to_drive(tiny_trial(seed=1), store=store, options=OPTIONS, data_root=None)
    companion = next(event for event in other if isinstance(event, StepsWanted))
    stack = Stack([wanted.training, companion.training])
    for _ in range(5):
        stack.take_step()
    trial.close()
    other.close()
    assert record(store, wild).resumes_at_step == 0
    state = RecordReader(store).trial(trial_id(tiny_trial(seed=1)))
    assert state is not None
    assert state.resumes_at_step == 5


def test_one_alone_reports_everything_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.progress.REPORT_AT_MOST_EVERY_S", 3600.0)
    # The first and the only ones between: a setting of a search is judged by what is reported at a rung.
    options = RunOptions(state_every_s=0.0, rungs=(16, 80))
    reports = [one for report in start(store, tiny_trial(), options=options) for one in report.values()]
    assert [one.step for one in reports if one.metrics and one.status == "running"] == [1, 5]


def test_a_term_signal_in_the_middle_of_a_step_marks_every_member(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(stack: Stack) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(Stack, "take_step", told)
    specs = [tiny_trial(), tiny_trial(seed=1)]
    with pytest.raises(SystemExit):
        run(store, *specs)
    assert [record(store, spec).status for spec in specs] == ["killed", "killed"]


SAME: dict[str, dict[str, object]] = {
    "seed": {"seed": 7},
    "rate": {"training": training(optimizer={"kind": "sgd", "lr": 0.5, "momentum": 0.1})},
    "length": {"training": training(steps=None, epochs=2)},
    "initialization": {"init": {"kind": "gabor"}},
    "schedule": {"training": training(schedule={"kind": "cosine"}, early_stopping={"patience": 2})},
}
OTHER: dict[str, dict[str, object]] = {
    "architecture": {"architecture": "cbr_small"},
    "images": {"dataset": {"reader": "digits", "classes": ["5", "6"], "size_px": 32}},
    "batch": {"training": training(batch_size=8)},
    "optimizer": {"training": training(optimizer={"kind": "adam"})},
    "nesterov": {"training": training(optimizer={"kind": "sgd", "nesterov": True})},
    "frozen": {"training": training(trainable="head")},
    "augmentation": {"training": training(augment={"horizontal_flip": True})},
    "precision": {"training": training(precision="bfloat16")},
    "loss": {"training": training(label_smoothing=0.1)},
}


@pytest.mark.parametrize("name", SAME)
def test_these_can_be_stacked(name: str) -> None:
    assert stacking_key(tiny_trial(**SAME[name])) == stacking_key(tiny_trial())


@pytest.mark.parametrize("name", OTHER)
def test_these_cannot(name: str) -> None:
    assert stacking_key(tiny_trial(**OTHER[name])) != stacking_key(tiny_trial())


@pytest.mark.parametrize("changes", [training(micro_batch_size=4), {"method": "linear_probe"}])
def test_some_are_in_no_stack(changes: dict[str, object]) -> None:
    assert stacking_key(tiny_trial(training=changes)) is None
