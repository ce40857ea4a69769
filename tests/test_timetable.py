"""Schedules against brute force on tiny lineages, and what holds for every schedule."""

from collections.abc import Mapping, Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.timetable import Timetable, remaining_seconds, schedule

Lineage = tuple[dict[str, float], dict[str, list[str]]]


@st.composite
def lineages(draw: st.DrawFn, most: int = 12) -> Lineage:
    """Trials with whole seconds, each waiting for some of those before it."""
    n = draw(st.integers(0, most))
    seconds = {f"t{i}": float(draw(st.integers(0, 9))) for i in range(n)}
    parents = {
        f"t{i}": [f"t{j}" for j in sorted(draw(st.sets(st.integers(0, i - 1), max_size=3)))]
        for i in range(1, n)
    }
    return seconds, parents


def in_order(
    order: Sequence[str], seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]], n_slots: int
) -> float:
    """Return the makespan when slots take trials in this order; the best order gives the best schedule."""
    ends: dict[str, float] = {}
    slots = [0.0] * n_slots
    for trial in order:
        ready = max((ends[parent] for parent in parents.get(trial, ())), default=0.0)
        slot = min(range(n_slots), key=slots.__getitem__)
        ends[trial] = max(slots[slot], ready) + seconds[trial]
        slots[slot] = ends[trial]
    return max(ends.values(), default=0.0)


def best_makespan(seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]], n_slots: int) -> float:
    def fits(order: Sequence[str]) -> bool:
        return all(order.index(p) < order.index(t) for t in order for p in parents.get(t, ()))

    orders = [order for order in permutations(seconds) if fits(order)]
    return min(in_order(order, seconds, parents, n_slots) for order in orders)


def longest_chain(seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]], last: str) -> float:
    before = (longest_chain(seconds, parents, parent) for parent in parents.get(last, ()))
    return seconds[last] + max(before, default=0.0)


def check_is_possible(
    table: Timetable, seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]], n_slots: int
) -> None:
    assert set(table.starts) == set(seconds)
    ends = {trial: start + seconds[trial] for trial, start in table.starts.items()}
    for trial, start in table.starts.items():
        assert all(ends[parent] <= start for parent in parents.get(trial, ()))
        others = [t for t in seconds if table.starts[t] <= start < ends[t]]
        assert len(others) <= n_slots
    assert table.makespan == max(ends.values(), default=0.0)


@given(lineages(), st.integers(1, 4))
def test_no_slot_is_used_twice_and_none_starts_before_its_parents_end(lineage: Lineage, slots: int) -> None:
    seconds, parents = lineage
    check_is_possible(schedule(seconds, parents, n_slots=slots), seconds, parents, slots)


@settings(max_examples=60, deadline=None)
@given(lineages(most=5), st.integers(1, 3))
def test_the_schedule_keeps_grahams_bound_to_the_best_there_is(lineage: Lineage, slots: int) -> None:
    seconds, parents = lineage
    best = best_makespan(seconds, parents, slots)
    table = schedule(seconds, parents, n_slots=slots)
    assert table.lower_bound <= best + 1e-9
    assert best <= table.makespan + 1e-9
    assert table.makespan <= (2 - 1 / slots) * best + 1e-9


@given(lineages(), st.integers(1, 4))
def test_the_critical_path_is_the_longest_chain(lineage: Lineage, slots: int) -> None:
    seconds, parents = lineage
    table = schedule(seconds, parents, n_slots=slots)
    chains = (longest_chain(seconds, parents, trial) for trial in seconds)
    assert table.critical_seconds == pytest.approx(max(chains, default=0.0))
    assert sum(seconds[trial] for trial in table.critical_path) == pytest.approx(table.critical_seconds)
    for parent, child in zip(table.critical_path, table.critical_path[1:], strict=False):
        assert parent in parents[child]


@given(lineages(), st.integers(1, 4))
def test_names_have_no_say(lineage: Lineage, slots: int) -> None:
    seconds, parents = lineage
    renamed = {trial: f"z{99 - rank}" for rank, trial in enumerate(seconds)}
    there = schedule(seconds, parents, n_slots=slots)
    here = schedule(
        {renamed[trial]: s for trial, s in seconds.items()},
        {renamed[trial]: [renamed[p] for p in waits] for trial, waits in parents.items()},
        n_slots=slots,
    )
    assert {renamed[trial]: start for trial, start in there.starts.items()} == here.starts
    assert [renamed[trial] for trial in there.critical_path] == list(here.critical_path)


@given(lineages())
def test_enough_slots_need_no_longer_than_the_critical_path(lineage: Lineage) -> None:
    seconds, parents = lineage
    table = schedule(seconds, parents, n_slots=max(1, len(seconds)))
    assert table.makespan == pytest.approx(table.critical_seconds)


def test_the_longest_chain_goes_first() -> None:
    seconds = {"short": 1.0, "source": 1.0, "long": 5.0}
    parents = {"long": ["source"]}
    assert remaining_seconds(seconds, parents) == {"short": 1.0, "source": 6.0, "long": 5.0}
    table = schedule(seconds, parents, n_slots=1)
    assert table.starts == {"source": 0.0, "long": 1.0, "short": 6.0}


def test_what_a_trial_waits_for_and_is_not_there_is_done() -> None:
    assert schedule({"t": 3.0}, {"t": ["done before"]}, n_slots=1).makespan == 3.0


def test_a_schedule_of_nothing_is_empty() -> None:
    assert schedule({}, {}, n_slots=2) == Timetable({}, 0.0, (), 0.0, 0.0)


def test_a_parent_after_its_child_is_refused() -> None:
    with pytest.raises(ValueError, match="parents come first: child precedes parent, which it waits for"):
        schedule({"child": 1.0, "parent": 1.0}, {"child": ["parent"]}, n_slots=1)


def test_no_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="n_slots must be at least 1, got 0"):
        schedule({"t": 1.0}, {}, n_slots=0)
