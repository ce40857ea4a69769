"""What a study may use, over all its runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.search import Searcher

from study.budget import Budget, Use
from study.config import parse_study
from study.grid import Resources
from study.plan import make_plan
from study.search.live import LiveSearches
from study.sections import BudgetSection
from tests.searching import dispatcher_of, end, search_study
from trainables.errors import StudyFileError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock, used: Use | None = None, **limits: float) -> tuple[Budget, list[Use]]:
    kept: list[Use] = []
    budget = Budget(BudgetSection.model_validate(limits), used or Use(), kept.append, clock)
    return budget, kept


def test_parts_of_gpus_and_cores_count_for_as_long_as_they_are_held() -> None:
    clock = Clock()
    budget, _ = make(clock, gpu_hours=2.0)
    budget.began("a", Resources(cpu=4, gpu=0.5))
    clock.now += 3600
    budget.began("b", Resources(cpu=1, gpu=1))
    clock.now += 1800
    assert budget.now() == Use(gpu_hours=0.75 + 0.5, cpu_hours=6.0 + 0.5)
    budget.ended("a")
    clock.now += 1800
    assert budget.now() == Use(gpu_hours=0.75 + 1.0, cpu_hours=6.0 + 1.0)
    budget.ended("b")
    budget.ended("b")
    clock.now += 9999
    assert budget.now() == Use(gpu_hours=1.75, cpu_hours=7.0)


def test_what_earlier_runs_used_counts_and_the_limit_is_told() -> None:
    clock = Clock()
    budget, _ = make(clock, Use(gpu_hours=1.5), gpu_hours=2.0)
    assert budget.why_not() is None
    budget.began("a", Resources(cpu=1, gpu=1))
    clock.now += 1800
    assert budget.why_not() == (
        "the budget of 2 GPU hours is spent (2 used); raise budget.gpu_hours to go on"
    )
    assert make(clock, Use(cpu_hours=3.0), cpu_hours=2.5)[0].why_not() == (
        "the budget of 2.5 CPU hours is spent (3 used); raise budget.cpu_hours to go on"
    )
    assert make(clock, Use(cpu_hours=3.0), gpu_hours=2.5)[0].why_not() is None


def test_what_is_used_is_noted_every_half_minute() -> None:
    clock = Clock()
    budget, kept = make(clock, gpu_hours=2.0)
    budget.began("a", Resources(cpu=1, gpu=1))
    for _ in range(100):
        clock.now += 1
        budget.note()
    assert len(kept) == 4
    assert kept[-1].gpu_hours == pytest.approx(91 / 3600)


@given(gpu=st.floats(0, 1e6), cpu=st.floats(0, 1e6))
def test_what_is_kept_is_read_again(gpu: float, cpu: float) -> None:
    read = Use.parse(Use(gpu, cpu).text())
    assert read.gpu_hours == pytest.approx(gpu, abs=1e-6)
    assert read.cpu_hours == pytest.approx(cpu, abs=1e-6)


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"gpu_hours": "much", "cpu_hours": 1}', "null"])
def test_an_edited_tag_counts_as_nothing_used(text: str) -> None:
    assert Use.parse(text) == Use()


def test_when_it_is_spent_what_runs_is_finished_and_the_rest_is_told() -> None:
    plan = make_plan(parse_study(search_study().text.split("search:")[0]), [])
    reasons: list[str | None] = [None, None, "spent", "spent", "spent"]
    dispatcher = dispatcher_of(plan, why_not=lambda: reasons.pop(0))
    assert isinstance(dispatcher.suggest("one"), dict)
    assert isinstance(dispatcher.suggest("two"), dict)
    assert dispatcher.suggest("three") is None, "two are still in flight"
    end(dispatcher, "one")
    end(dispatcher, "two")
    assert dispatcher.suggest("four") == Searcher.FINISHED
    assert len(dispatcher.not_run) == len(plan.entries) - 2
    assert set(dispatcher.not_run.values()) == {"spent"}


def test_cells_that_are_searched_are_told_too_when_it_is_spent() -> None:
    plan = make_plan(search_study(), [])
    dispatcher = dispatcher_of(plan, LiveSearches(plan, lambda _: {}), why_not=lambda: "spent")
    assert dispatcher.suggest("one") == Searcher.FINISHED
    keys = {search.cell.key for search in plan.searches}
    assert dispatcher.not_run.keys() == keys | {entry.trial_id for entry in plan.entries}


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(StudyFileError, match=r"budget.gpu_hours must be greater than 0, got 0"):
        search_study(more="budget: {gpu_hours: 0}")
    with pytest.raises(StudyFileError, match=r"budget.gpus"):
        search_study(more="budget: {gpus: 1}")
