"""A plan held against records: what is done, what goes on, what waits, and what is incomparable."""

from dataclasses import replace
from pathlib import Path

from study.config import load_study
from study.plan import Plan, State, make_plan, plan_rows
from tests.fake_records import record_of
from trainables.record import CheckpointRef, TrialRecord

DEMO = load_study(Path(__file__).parent.parent / "configs" / "demo.yaml")
EMPTY = make_plan(DEMO, [])
SOURCE, TRIAL, *_ = EMPTY.entries


def record(entry: object = TRIAL, **changes: object) -> TrialRecord:
    made = replace(record_of(entry.trial.spec), trial_id=entry.trial_id, studies=frozenset({"demo"}))  # type: ignore[attr-defined]
    return replace(made, **changes)  # type: ignore[arg-type]


def state_of(plan: Plan, trial_id: str) -> tuple[State, str]:
    (entry,) = [entry for entry in plan.entries if entry.trial_id == trial_id]
    return entry.state, entry.reason


def first(kind: str) -> object:
    return next(entry for entry in EMPTY.entries if entry.trial.spec.init.kind == kind)


def test_parents_come_before_their_children_and_children_wait() -> None:
    seen: set[str] = set()
    for entry in EMPTY.entries:
        assert set(entry.trial.parent_ids) <= seen
        seen.add(entry.trial_id)
    counts = EMPTY.counts()
    assert counts == {State.TO_RUN: 4, State.WAITING: 15}
    assert sum(map(len, EMPTY.children.values())) == 15


def test_each_status_of_a_record_is_a_state_with_its_reason() -> None:
    random = first("random")
    state = CheckpointRef("state", "state/x", "0" * 64, 41, 1)
    expected = {
        ("finished", None, "demo"): (State.DONE, ""),
        ("finished", None, "other"): (State.DONE, "from study other"),
        ("failed", None, "demo"): (State.FAILED, "train_loss became nan"),
        ("killed", state, "demo"): (State.PARTIAL, "continues at step 41"),
        ("running", state, "demo"): (State.PARTIAL, "continues at step 41"),
        ("running", None, "demo"): (State.PARTIAL, "begun, no state yet"),
    }
    for (status, at, study), (wanted, reason) in expected.items():
        found = record(
            random, status=status, state=at, studies=frozenset({study}), cause="train_loss became nan"
        )
        assert state_of(make_plan(DEMO, [found]), random.trial_id) == (wanted, reason)  # type: ignore[attr-defined]


def test_a_child_waits_until_its_parent_is_finished_and_says_if_it_failed() -> None:
    child = first("pretrained")
    parent = next(e for e in EMPTY.entries if (e.trial_id,) == child.trial.parent_ids)  # type: ignore[attr-defined]
    failed = make_plan(DEMO, [record(parent, status="failed", cause="boom")])
    label = parent.trial.spec.label
    assert state_of(failed, child.trial_id) == (State.WAITING, f"for {label}, which failed: boom")  # type: ignore[attr-defined]
    done = make_plan(DEMO, [record(parent)])
    assert state_of(done, child.trial_id) == (State.TO_RUN, "")  # type: ignore[attr-defined]


def test_records_of_other_studies_change_nothing() -> None:
    stranger = record(TRIAL, trial_id="f" * 16)
    assert make_plan(DEMO, [stranger]).counts() == EMPTY.counts()


def test_trials_of_one_dataset_that_saw_different_images_are_warned_of() -> None:
    seeds = [e for e in EMPTY.entries if e.trial.spec.init.kind == "random" and not e.trial.is_source]
    same = [record(entry, dataset_digest="a" * 64) for entry in seeds]
    assert make_plan(DEMO, same).warnings() == []
    (warning,) = make_plan(DEMO, [*same[:2], record(seeds[2], dataset_digest="b" * 64)]).warnings()
    assert warning.startswith("digits 5–9: the images or labels changed between trials")
    assert "2 trial(s) such as" in warning
    assert "bbbbbbbbbbbb…" in warning


def test_rows_say_what_could_not_run() -> None:
    rows = plan_rows(EMPTY, {TRIAL.trial_id: "its source failed"})
    (row,) = [row for row in rows if row["trial_id"] == TRIAL.trial_id]
    assert (row["state"], row["reason"]) == ("not run", "its source failed")
