"""The searcher against a simulated Tune: any lineage, any order of endings, failures and lost workers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.search import Searcher

from study.dispatch import Dispatcher, StackLimits
from study.failures import NODES_PER_TRIAL, Loss
from study.plan import Plan, PlanEntry, State
from tests.searching import bare_config, end, only_trial

KILLED = Loss("killed from outside")
NODE_LOST = Loss("its node was lost", is_of_node=True)


def entry(number: int, *parents: int, state: State = State.TO_RUN) -> PlanEntry:
    trial: Any = SimpleNamespace(
        trial_id=f"t{number}",
        parent_ids=tuple(f"t{parent}" for parent in parents),
        spec=SimpleNamespace(seed=number),
        setting=None,
    )
    return PlanEntry(trial, "cell", state, None, "")


def make_searcher(
    *entries: PlanEntry,
    keep_failed: bool = False,
    resume_step: Callable[[str], int | None] = lambda _: 0,
    lost_workers: int = 2,
) -> Dispatcher:
    return Dispatcher(
        Plan("s", entries, (), 0),
        bare_config,
        resume_step=resume_step,
        lost_workers=lost_workers,
        keep_failed=keep_failed,
    )


def lose(searcher: Dispatcher, tune_id: str, loss: Loss = KILLED) -> None:
    """What Tune does when the worker of a trial dies."""
    (trial_id,) = searcher.trials_of(tune_id)
    searcher.on_trial_complete(trial_id=tune_id, error=True)
    assert suggest(searcher, "between") != trial_id
    searcher.worker_lost(trial_id, loss)


def suggest(searcher: Dispatcher, tune_id: str) -> str | None:
    config = searcher.suggest(tune_id)
    if config == Searcher.FINISHED:
        return "FINISHED"
    return only_trial(config) if isinstance(config, dict) else None


@st.composite
def lineages(draw: st.DrawFn) -> list[PlanEntry]:
    size = draw(st.integers(1, 12))
    parents = [draw(st.sets(st.integers(0, i - 1), max_size=2)) if i else set() for i in range(size)]
    return [entry(i, *sorted(of_one)) for i, of_one in enumerate(parents)]


@given(entries=lineages(), data=st.data(), slots=st.integers(1, 4))
def test_every_trial_is_accounted_for_once_and_never_before_its_parents(
    entries: list[PlanEntry], data: st.DataObject, slots: int
) -> None:
    searcher = make_searcher(*entries)
    parents_of = {e.trial_id: e.trial.parent_ids for e in entries}
    in_flight: dict[str, str] = {}
    finished: list[str] = []
    for tick in range(500):
        suggestion = suggest(searcher, f"tune{tick}") if len(in_flight) < slots else None
        if suggestion == "FINISHED":
            break
        if suggestion is not None:
            assert set(parents_of[suggestion]) <= set(finished)
            assert suggestion not in (*in_flight.values(), *finished)
            in_flight[f"tune{tick}"] = suggestion
            continue
        assert in_flight, "the searcher waits for nothing"
        ending = data.draw(st.sampled_from(sorted(in_flight)))
        trial_id = in_flight.pop(ending)
        how = data.draw(st.sampled_from(["finished", "reused", "failed", "taken over", "lost"]))
        if how == "lost":
            searcher.on_trial_complete(trial_id=ending, error=True)
            searcher.worker_lost(trial_id, data.draw(st.sampled_from([KILLED, NODE_LOST])))
        else:
            end(searcher, ending, how, cause="why")
            if how in ("finished", "reused"):
                finished.append(trial_id)
    else:
        pytest.fail("the searcher never finished")
    accounted = [*finished, *searcher.failed, *searcher.not_run]
    assert sorted(accounted) == sorted(parents_of)
    assert searcher.given_up.items() <= searcher.failed.items()


def test_children_start_the_moment_their_parent_is_committed_and_parents_go_first() -> None:
    searcher = make_searcher(entry(0), entry(1), entry(2, 1), entry(3, 1))
    assert suggest(searcher, "a") == "t1"  # a parent, though later in the plan
    assert suggest(searcher, "b") == "t0"
    assert suggest(searcher, "c") is None
    end(searcher, "a")
    assert suggest(searcher, "c") == "t2"
    assert suggest(searcher, "d") == "t3"


def test_a_failed_parent_leaves_its_descendants_with_the_reason_and_the_rest_goes_on() -> None:
    searcher = make_searcher(entry(0), entry(1, 0), entry(2, 1), entry(3))
    assert suggest(searcher, "a") == "t0"
    end(searcher, "a", "failed", cause="train_loss became nan")
    assert searcher.failed == {"t0": "train_loss became nan"}
    assert searcher.not_run["t1"] == "its source failed: cell · seed 0: train_loss became nan"
    assert searcher.not_run["t2"] == searcher.not_run["t1"]
    assert suggest(searcher, "b") == "t3"


@pytest.mark.parametrize("lost_workers", [0, 2])
def test_a_lost_worker_costs_a_retry_and_one_that_keeps_dying_is_given_up(lost_workers: int) -> None:
    searcher = make_searcher(entry(0), lost_workers=lost_workers)
    for attempt in range(lost_workers + 1):
        assert suggest(searcher, f"a{attempt}") == "t0"
        assert not searcher.given_up
        lose(searcher, f"a{attempt}")
    assert suggest(searcher, "end") == "FINISHED"
    assert searcher.given_up == searcher.failed
    assert searcher.failed["t0"] == (
        f"its worker was lost {lost_workers + 1} times without getting further, "
        "the last time: killed from outside"
    )


def test_nodes_that_are_lost_do_not_count_until_the_trial_must_be_what_kills_them() -> None:
    searcher = make_searcher(entry(0), lost_workers=0)
    for attempt in range(NODES_PER_TRIAL):
        assert suggest(searcher, f"a{attempt}") == "t0"
        lose(searcher, f"a{attempt}", NODE_LOST)
    assert "the last time: its node was lost" in searcher.failed["t0"]


def test_a_worker_that_is_lost_after_its_trial_has_moved_on_does_not_count() -> None:
    steps = iter(range(10, 1000, 10))
    searcher = make_searcher(entry(0), resume_step=lambda _: next(steps))
    for attempt in range(10):
        assert suggest(searcher, f"a{attempt}") == "t0"
        lose(searcher, f"a{attempt}")
    assert not searcher.failed


def test_a_worker_that_is_lost_while_mlflow_is_away_does_not_count_and_nobody_waits() -> None:
    searcher = make_searcher(entry(0), resume_step=lambda _: None, lost_workers=0)
    for attempt in range(50):
        assert suggest(searcher, f"a{attempt}") == "t0"
        lose(searcher, f"a{attempt}")
    assert not searcher.failed


def test_a_trial_that_ended_well_is_not_handed_out_again_when_tune_tells_of_an_error() -> None:
    searcher = make_searcher(entry(0))
    assert suggest(searcher, "a") == "t0"
    end(searcher, "a")
    searcher.worker_lost("t0", KILLED)
    assert suggest(searcher, "b") == "FINISHED"


def test_a_trial_that_another_process_trains_is_left_to_it_with_its_children() -> None:
    searcher = make_searcher(entry(0), entry(1, 0))
    suggest(searcher, "a")
    end(searcher, "a", "taken over")
    assert searcher.not_run.keys() == {"t0", "t1"}
    assert "another process has begun to train it" in searcher.not_run["t1"]
    assert suggest(searcher, "b") == "FINISHED"


def test_what_is_done_is_not_run_again_and_what_failed_is_unless_it_shall_be_kept() -> None:
    entries = (
        entry(0, state=State.DONE),
        entry(1, 0),
        entry(2, state=State.FAILED),
        entry(3, 2),
    )
    searcher = make_searcher(*entries)
    assert [suggest(searcher, name) for name in "ab"] == ["t2", "t1"]
    kept = make_searcher(*entries, keep_failed=True)
    assert [suggest(kept, "a"), suggest(kept, "b")] == ["t1", None]
    assert kept.failed.keys() == {"t2"}
    assert kept.not_run.keys() == {"t3"}


def test_a_trial_stopped_by_a_signal_is_neither_done_nor_failed() -> None:
    searcher = make_searcher(entry(0), entry(1, 0))
    suggest(searcher, "a")
    end(searcher, "a", "running")
    assert suggest(searcher, "b") is None, "its child has not become ready"
    assert not searcher.failed
    assert not searcher.not_run


def test_among_equals_the_longest_goes_first_and_parents_before_all() -> None:
    entries = [entry(0), entry(1), entry(2), entry(3, 2), entry(4)]
    lengths = {"t0": 1.0, "t1": 5.0, "t2": 0.5, "t3": 0.5, "t4": 5.0}
    searcher = Dispatcher(
        Plan("s", tuple(entries), (), 0),
        bare_config,
        resume_step=lambda _: 0,
        lost_workers=0,
        length_of=lambda chosen: lengths[chosen.trial_id],
    )
    order = [suggest(searcher, str(number)) for number in range(4)]
    assert order == ["t2", "t1", "t4", "t0"]


def test_a_parent_that_is_trained_again_does_not_touch_a_child_that_is_done() -> None:
    searcher = make_searcher(entry(0), entry(1, 0, state=State.DONE))
    assert suggest(searcher, "a") == "t0"
    end(searcher, "a")
    assert suggest(searcher, "b") == "FINISHED"


def test_with_a_budget_nothing_is_handed_out_ahead_and_without_one_all_that_is_ready() -> None:
    def make(*, is_strict: bool) -> Dispatcher:
        return Dispatcher(
            Plan("s", tuple(entry(number) for number in range(4)), (), 0),
            bare_config,
            resume_step=lambda _: 0,
            lost_workers=0,
            n_fit=lambda: 2,
            is_strict=is_strict,
        )

    strict, loose = make(is_strict=True), make(is_strict=False)
    assert [suggest(strict, name) for name in "abc"] == ["t0", "t1", None]
    end(strict, "a")
    assert suggest(strict, "d") == "t2"
    assert [suggest(loose, name) for name in "abc"] == ["t0", "t1", "t2"]


def stacker(
    *entries: PlanEntry, most: int = 8, slots: float = 1, keys: dict[str, str] | None = None
) -> Dispatcher:
    return Dispatcher(
        Plan("s", entries, (), 0),
        bare_config,
        resume_step=lambda _: 0,
        lost_workers=2,
        n_fit=lambda: slots,
        stack_of=lambda chosen: StackLimits((keys or {}).get(chosen.trial_id, "same"), most),
    )


def together(searcher: Dispatcher, tune_id: str) -> list[str]:
    config = searcher.suggest(tune_id)
    return [trial["trial_id"] for trial in config["trials"]] if isinstance(config, dict) else []


def report(searcher: Dispatcher, tune_id: str, **statuses: str) -> None:
    """Several members of a stack report at once."""
    reports = [{"trial_id": one, "status": status, "cause": "why"} for one, status in statuses.items()]
    searcher.on_trial_result(tune_id, {"reports": reports})


def test_ready_trials_of_one_kind_go_together() -> None:
    keys = {"t2": "other"}
    searcher = stacker(*(entry(i) for i in range(5)), entry(5, 0), most=3, keys=keys)
    assert together(searcher, "a") == ["t0", "t1", "t3"]  # t0 is needed, so it goes first
    assert together(searcher, "b") == ["t2"]
    assert together(searcher, "c") == ["t4"]


def test_a_stack_leaves_no_slot_idle() -> None:
    searcher = stacker(*(entry(i) for i in range(10)), slots=4)
    sizes = [len(together(searcher, tune_id)) for tune_id in "abcd"]
    assert sizes == [3, 3, 2, 2]


def test_a_member_that_ends_is_heard_of_while_the_others_go_on() -> None:
    searcher = stacker(entry(0), entry(1), entry(2, 0), entry(3, 1))
    assert together(searcher, "a") == ["t0", "t1"]
    report(searcher, "a", t0="finished", t1="running")
    assert together(searcher, "b") == ["t2"]
    report(searcher, "a", t1="failed")
    assert searcher.failed == {"t1": "why"}
    assert searcher.not_run.keys() == {"t3"}
    assert searcher.trials_of("a") == []


def test_what_is_reported_twice_counts_once() -> None:
    searcher = stacker(entry(0), entry(1))
    assert together(searcher, "a") == ["t0", "t1"]
    report(searcher, "a", t0="failed")
    searcher.failed.clear()
    report(searcher, "a", t0="failed")
    searcher.on_trial_complete("a", {"reports": [{"trial_id": "t1", "status": "finished"}]})
    assert searcher.failed == {}
    assert searcher.suggest("b") == Searcher.FINISHED


def test_a_lost_worker_costs_only_who_was_left_in_it_and_these_go_alone() -> None:
    searcher = stacker(entry(0), entry(1), entry(2))
    assert together(searcher, "a") == ["t0", "t1", "t2"]
    report(searcher, "a", t0="finished")
    searcher.on_trial_complete("a", error=True)
    for trial_id in ("t0", "t1", "t2"):
        searcher.worker_lost(trial_id, KILLED)
    assert together(searcher, "b") == ["t1"]
    assert together(searcher, "c") == ["t2"]
    assert together(searcher, "d") == []


@given(entries=lineages(), data=st.data(), slots=st.integers(1, 3), most=st.integers(1, 4))
def test_stacks_account_for_every_trial_too(
    entries: list[PlanEntry], data: st.DataObject, slots: int, most: int
) -> None:
    searcher = stacker(*entries, most=most, slots=slots)
    parents_of = {e.trial_id: e.trial.parent_ids for e in entries}
    in_flight: set[str] = set()
    finished: list[str] = []
    for tick in range(500):
        config = searcher.suggest(f"tune{tick}") if len(in_flight) < slots else None
        if config == Searcher.FINISHED:
            break
        if isinstance(config, dict):
            chosen = [trial["trial_id"] for trial in config["trials"]]
            assert 1 <= len(chosen) <= most
            assert all(set(parents_of[one]) <= set(finished) for one in chosen)
            in_flight.add(f"tune{tick}")
            continue
        assert in_flight, "the searcher waits for nothing"
        ending = data.draw(st.sampled_from(sorted(in_flight)))
        members = [*searcher.trials_of(ending)]
        if data.draw(st.booleans()):
            in_flight.remove(ending)
            searcher.on_trial_complete(ending, error=True)
            for one in members:
                searcher.worker_lost(one, data.draw(st.sampled_from([KILLED, NODE_LOST])))
            continue
        one = data.draw(st.sampled_from(members))
        how = data.draw(st.sampled_from(["finished", "failed"]))
        finished += [one] if how == "finished" else []
        if len(members) > 1:
            report(searcher, ending, **{one: how})
        else:
            in_flight.remove(ending)
            end(searcher, ending, how)
    else:
        pytest.fail("the searcher never finished")
    assert sorted([*finished, *searcher.failed, *searcher.not_run]) == sorted(parents_of)
