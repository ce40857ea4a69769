"""What a person sees while a study runs."""

from io import StringIO

import pytest
from rich.console import Console

from study.cost.estimate import Estimate, TrialCost
from study.cost.forecast import Forecast
from study.cost.foresight import Foresight
from study.cost.workload import Workload
from study.dispatch import Dispatcher
from study.failures import Loss
from study.grid import Resources
from study.plan import Plan, State
from study.progress import StudyDisplay, bar, duration
from tests.searching import bare_config, end
from tests.test_dispatch import entry


def make(*, terminal: bool) -> tuple[StudyDisplay, Plan, Dispatcher, StringIO]:
    output = StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, color_system=None)
    plan = Plan("demo", (entry(0, state=State.DONE), *(entry(i) for i in range(1, 5))), (), 0)
    searcher = Dispatcher(plan, bare_config, resume_step=lambda _: 0, lost_workers=2)
    return StudyDisplay(console), plan, searcher, output


def report(step: int, *, score: float | None = None, notices: tuple[str, ...] = ()) -> dict:
    metrics = {} if score is None else {"val_auroc": score}
    return {"step": step, "total_steps": 100, "metrics": metrics, "notices": notices}


def test_outside_a_terminal_every_ending_is_one_line_with_what_is_left() -> None:
    display, plan, searcher, output = make(terminal=False)
    with display.showing(plan, searcher):
        for name in ("t1", "t2", "t3"):
            display.trial_started(name)
        display.trial_ended("t1", {"status": "finished", "metrics": {"test_auroc": 0.9876}})
        display.trial_ended("t2", {"status": "failed", "cause": "train_loss became nan " + "x" * 200})
        display.worker_lost("t3", Loss("its process was killed"))
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("demo  1 of 5 trials done · 1 of them before")
    assert lines[1].startswith("[2/5] finished cell · seed 1 (test AUROC 0.988, 0 s) · about 0 s left")
    assert lines[2].startswith("[2/5] failed cell · seed 2: train_loss became nan x")
    assert lines[3].startswith("[2/5] lost the worker of cell · seed 3: its process was killed")
    assert len(lines) == 4


def test_on_a_terminal_running_trials_are_rows_and_failures_stay_visible() -> None:
    display, plan, searcher, output = make(terminal=True)
    with display.showing(plan, searcher):
        searcher.suggest("a")
        display.trial_started("t1")
        display.trial_reported("t1", report(40, score=0.75))
        display.trial_started("t2")
        end(searcher, "a", "failed", cause="no file scan.png")
        display.console.print(display._render())
    text = output.getvalue()
    assert "40/100" in text
    assert "0.750" in text
    assert "starting" in text
    assert "1 of 5 trials done · 1 of them before · 2 running · 1 failed" in text
    assert "failed: cell · seed 1: no file scan.png" in text


def test_what_a_trial_noticed_is_said_once() -> None:
    display, plan, searcher, output = make(terminal=False)
    with display.showing(plan, searcher):
        display.trial_started("t1")
        for step in (1, 2):
            display.trial_reported("t1", report(step, notices=("the resumable state is damaged",)))
        display.trial_reported("t1", report(3, notices=("the resumable state is damaged", "a disk is full")))
    assert output.getvalue().count("note: cell · seed 1: the resumable state is damaged") == 1
    assert output.getvalue().count("note: cell · seed 1: a disk is full") == 1


def test_the_estimate_counts_trials_in_flight_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    display, plan, searcher, _ = make(terminal=False)
    clock = iter([0.0, 0.0, 100.0])
    monkeypatch.setattr("study.progress.time.monotonic", lambda: next(clock, 100.0))
    with display.showing(plan, searcher):
        assert display._seconds_left() is None
        display.trial_started("t1")
        display.trial_reported("t1", report(100))
        # One of four trials in 100 s.
        assert display._seconds_left() == pytest.approx(300.0)


def test_with_a_forecast_the_estimate_schedules_what_is_left_on_the_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    display, plan, searcher, output = make(terminal=False)
    costs = {
        f"t{i}": TrialCost(f"t{i}", {}, Resources(1, 0), True, Workload(), 10.0, Workload(), 10.0)
        for i in range(1, 5)
    }
    forecast = Forecast(Estimate(costs, {}, (), 2, 3.0))
    display.foresee = lambda _: Foresight(forecast, ("does not fit: net",))
    clock = [0.0]
    monkeypatch.setattr("study.progress.time.monotonic", lambda: clock[0])
    with display.showing(plan, searcher):
        assert display._seconds_left() == 20.0
        for name in ("t1", "t2"):
            display.trial_started(name)
        clock[0] = 4.0  # nothing is scheduled anew for a while, but time passes
        assert display._seconds_left() == 16.0
        clock[0] = 20.0
        display.trial_reported("t2", report(0))
        display.trial_reported("t2", report(50))
        display.trial_ended("t1", {"status": "finished"})
        # It took twice as long as expected, so the others will: half of one, and two more on two slots.
        assert display._seconds_left() == pytest.approx(10.0 + 20.0)
    assert "note: does not fit: net" in output.getvalue()
    assert "1 of 5 trials done · 1 of them before · 0 s so far · about 20 s left" in output.getvalue()
    assert display.seconds == 20.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (12_000, "3 h 20 min"), (1e6, "12 days")],
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_work_of_known_length_shows_how_far_it_is() -> None:
    output = StringIO()
    with bar("analyze", Console(file=output, force_terminal=True, width=100)) as progress:
        progress("comparing networks", 3, 12)
    assert "comparing networks" in output.getvalue()
    assert "3/12" in output.getvalue()
